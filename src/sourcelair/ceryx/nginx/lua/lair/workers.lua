-- The workers of this NGINX, each under a number that is never used again: worker ids are (a killed worker's successor
-- has the same one). A worker counts as dead when no process has its id and start time.

local state = ngx.shared.lair_state

local _M = { number = 0 }

local NO_ROOM = { [12] = true, [23] = true, [24] = true }    -- ENOMEM, ENFILE, EMFILE

-- Returns the start time of a process in clock ticks after boot, as text; nil when it is gone; "?" when that can't be told.
local function start_time(pid)
    local file, _, code = io.open("/proc/" .. pid .. "/stat")
    local line
    if file then
        line, _, code = file:read("*a")
        file:close()
    end
    if not line then
        return NO_ROOM[code] and "?" or nil
    end
    local rest = line:match("^.*%) (.*)$")
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
    local found = start_time(pid)
    return found == tostring(start) or found == "?"    -- whoever is taken for dead loses the counts of its requests
end

-- Until this has succeeded the number is 0, and nothing is counted or sent.
function _M.register()
    local pid = ngx.worker.pid()
    local start = start_time(pid)
    assert(start and start ~= "?", "can't tell when this worker was started: /proc can't be read")
    local number = assert(state:incr("workers", 1, 0))
    assert(state:safe_set("worker:" .. number, pid .. " " .. start))
    _M.number = number
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
