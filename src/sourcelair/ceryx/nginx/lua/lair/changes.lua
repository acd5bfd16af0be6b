-- Which sources changed lately: written by whoever changed the table or heard from a waker, read by the ticker of every
-- worker that has waiters. A ring in shared memory; a reader that fell behind looks at all its hosts.
--
-- A change is announced after it was made, so a reader that looks at the table afterwards sees it.

local state = ngx.shared.lair_state
local ring = ngx.shared.lair_gate

local SLOTS = 1024

local _M = {}

function _M.last()
    return state:get("changes") or 0
end

function _M.announce(source)
    local number = state:incr("changes", 1, 0)
    ring:set("change:" .. number % SLOTS, number .. " " .. source)
end

-- Announces that anything may have changed.
function _M.announce_all()
    state:incr("changes", SLOTS + 1, 0)
end

-- Returns the number of the last change, and what changed since `seen`: a list of sources (or the names of those who
-- wait, for a waker's word), or nil for "look at all".
function _M.since(seen)
    local number = _M.last()
    if number == seen then
        return number, {}
    end
    if number - seen > SLOTS / 2 then
        return number, nil
    end
    local sources = {}
    for at = seen + 1, number do
        local text = ring:get("change:" .. at % SLOTS)
        local written, source = (text or ""):match("^(%d+) (.*)$")
        if tonumber(written) ~= at or source:find("^[$*]") then    -- many hosts' route
            return number, nil
        end
        sources[#sources + 1] = source
    end
    return number, sources
end

return _M
