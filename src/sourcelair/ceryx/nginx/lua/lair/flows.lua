-- The visitors' sockets of open streams that keep their server awake only while bytes flow: the agent reads how many
-- bytes passed. Fixed slots per worker, so that a list of them needs no search, and their number is bounded.

local workers = require "lair.workers"

local dictionary = ngx.shared.lair_flows
local var = ngx.var

local MOST = 10000           -- streams of one worker that are watched; more count as activity

local _M = {}

local slots, free, top = {}, {}, 0

local function key(number, slot)
    return number .. ":" .. slot
end

-- Notes the current request's socket. Returns false when there is no room: the stream can't be watched.
function _M.open(id, instance)
    local slot = table.remove(free)
    if not slot then
        if top >= MOST or not dictionary:safe_set("top:" .. workers.number, top + 1) then
            return false
        end
        top = top + 1
        slot = top
    end
    local text = table.concat({ instance, var.remote_addr, var.remote_port, var.server_addr, var.server_port }, "\t")
    if not dictionary:safe_set(key(workers.number, slot), text) then
        free[#free + 1] = slot
        return false
    end
    slots[id] = slot
    return true
end

function _M.close(id)
    local slot = slots[id]
    if slot then
        slots[id] = nil
        dictionary:delete(key(workers.number, slot))
        free[#free + 1] = slot
    end
end

-- Returns a line for every stream that is watched, and clears away those of dead workers. Called under the control lock.
function _M.read()
    local lines = {}
    for number = 1, workers.count() do
        local highest = dictionary:get("top:" .. number) or 0
        local is_alive = highest > 0 and workers.is_alive(number)
        for slot = 1, highest do
            if is_alive then
                lines[#lines + 1] = dictionary:get(key(number, slot))
            else
                dictionary:delete(key(number, slot))
            end
        end
        if highest > 0 and not is_alive then
            dictionary:delete("top:" .. number)
        end
    end
    return lines
end

return _M
