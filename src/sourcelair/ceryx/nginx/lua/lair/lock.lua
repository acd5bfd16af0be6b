-- One lock for all that changes the table. All workers serve the control socket; under the lock nothing yields, so a
-- comparison and the change that follows are one step. Its holder is known: a killed worker's lock is taken over.

local state = ngx.shared.lair_state
local workers = require "lair.workers"

local PAUSE = 0.001    -- seconds between attempts

local _M = {}

-- Which of the locks is the one: the first whose holder has not died. A dead one's is never opened again, so that of all who
-- find him dead at once only one gets the next.
local turn = 1

-- Calls a function under the lock and returns what it returns.
function _M.with(action, ...)
    while not state:safe_add("lock " .. turn, workers.number) do
        local owner = state:get("lock " .. turn)
        if owner and not workers.is_alive(owner) then
            turn = turn + 1
        else
            ngx.sleep(PAUSE)
        end
    end
    local results = { pcall(action, ...) }
    state:delete("lock " .. turn)
    if not results[1] then
        error(results[2], 0)
    end
    return unpack(results, 2)
end

return _M
