-- The workers of this NGINX, each under a number that is never used again: worker ids are (a killed worker's successor
-- has the same one). A worker counts as dead when no process has its id and start time.

local state = ngx.shared.lair_state

local _M = { number = 0 }

-- Returns the start time of a process in clock ticks after boot, as text; nil when it is gone.
local function start_time(pid)
    local file = io.open("/proc/" .. pid .. "/stat")
    if not file then
        return nil
    end
    local line = file:read("*a")
    file:close()
    local rest = line and line:match("^.*%) (.*)$")
    if not rest or rest:sub(1, 1) == "Z" or rest:sub(1, 1) == "X" then
        return nil
    end
    local field = 2
    for word in rest:gmatch("%S+") do
        field = field + 1
        if field == 22 then
            return word
        end
    end
    return nil
end

function _M.process_lives(pid, start)
    return start_time(pid) == tostring(start)
end

function _M.register()
    _M.number = assert(state:incr("workers", 1, 0))
    local pid = ngx.worker.pid()
    assert(state:safe_set("worker:" .. _M.number, pid .. " " .. assert(start_time(pid))))
end

function _M.is_alive(number)
    if number == _M.number then
        return true
    end
    local identity = state:get("worker:" .. number)
    if not identity then
        return false
    end
    local pid, start = identity:match("^(%d+) (%d+)$")
    if _M.process_lives(pid, start) then
        return true
    end
    state:delete("worker:" .. number)
    return false
end

-- Returns how many numbers were given out: workers have 1 to this.
function _M.count()
    return state:get("workers") or 0
end

return _M
