-- What the rendered configuration says: numbers and switches, set once in the master before the workers are forked.

local _M = {
    generation = nil,        -- new at every start of NGINX
    patience = 0.8,          -- seconds a navigation is held before the waiting page
    wake_timeout = 60,       -- seconds that anything else is held
    workers = 1,
    count_rows = 8,          -- workers, those that are just ending and dead ones, whose requests can be counted
    count_columns = 1024,    -- instances that can be
    barriers = 1,            -- dictionaries, see mapped.lua
    sizes = "",              -- of all that workers share
    held_per_host = 2500,
    held_total = 8000,
    held_bytes_per_host = 268435456,    -- of bodies that were read already
    held_bytes_total = 1073741824,
    trusted = {},            -- patterns of the trusted proxies' addresses (see addresses.lua)
    stall = 0,               -- tests only: longest stall between look-up and count, or two readings, in seconds
    orphans = {},            -- workers of an earlier master that may still serve: {pid, start time}
}

-- Tests only: stalls this worker, where something may come in between.
function _M.linger()
    if _M.stall == 0 then
        return
    end
    local finish = os.clock() + math.random() * _M.stall
    while os.clock() < finish do end
end

local function random_id()
    local source = assert(io.open("/dev/urandom", "rb"))
    local bytes = source:read(8)
    source:close()
    return (bytes:gsub(".", function(byte)
        return string.format("%02x", byte:byte())
    end))
end

function _M.set(values)
    for name, value in pairs(values) do
        _M[name] = value
    end
    _M.generation = random_id()
end

return _M
