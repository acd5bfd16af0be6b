-- The prefix of a path's route, which `strip_prefix` takes off before its app sees the path. What is sent is fixed before
-- the balancer runs, so a request for such a route passes the gate first, and the balancer only looks whether it did.

local paths = require "lair.paths"

local var = ngx.var

local _M = {}

local function is_stripped(own)
    return own ~= nil and own.strip
end

-- Returns the request target without the prefix of the record's route, and that prefix.
local function strip(record)
    local prefix = record.name:match("/.*") or ""
    return paths.without(var.request_uri, prefix), prefix
end

-- Tells whether what will be sent is made for the route of this name: that its prefix is taken off where its settings
-- (`own`, or nil) say so, and no other's. In the balancer only: there it can't be changed any more.
function _M.are_right(record, own, name)
    local wanted = is_stripped(own) and name or nil
    if not record then
        return wanted == nil
    end
    return record.stripped == wanted and (not record.name or record.name == name)
end

-- Makes the request what its route's target shall see of it.
function _M.prepare(record)
    if is_stripped(record.own) then
        var.lair_target, var.lair_prefix = strip(record)
        record.stripped = record.name
    elseif record.stripped then
        var.lair_target, var.lair_prefix = "", ""
        record.stripped = nil
    end
end

-- Returns the request target to which the record's route redirects; nil where it is the one that was sent.
function _M.redirected(record)
    return is_stripped(record.own) and (strip(record)) or nil
end

return _M
