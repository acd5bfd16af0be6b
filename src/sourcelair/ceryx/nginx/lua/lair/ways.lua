-- Which location a request goes through that has a live target: by the kind of its target, and by what its route says of
-- buffering. NGINX reads bodies and answers as the location says in which a request is, so who is in the wrong one moves.

local routes = require "lair.routes"

local find = string.find
local var = ngx.var

-- Locations that take their upstream from a variable find it there.
local FRESH, TLS = "http://lair_fresh", "https://lair_tls"

-- What has every body read whole before it is sent.
local READ_FIRST = { request = true, response = true }

local _M = {}

-- Tells whether the answer to the current request is to be taken off the app as fast as it comes. `own`: the route's
-- settings. Of what may be an event stream never: it would come late.
local function takes_answer(own)
    if own.buffering ~= "response" or var.lair_class == "@stream" then
        return false
    end
    local accept = var.http_accept
    return not (accept and find(accept, "text/event-stream", 1, true))
end

-- Tells whether the current request must not be sent from where it is. In the balancer, for a route with own settings.
function _M.must_move(own, record)
    return own.buffering ~= nil and not (record and record.takes_answer) and takes_answer(own)
end

-- Returns the location to which a request goes on; nil where it is in the right one.
function _M.of(record, entry, source)
    local own, stage = record.own, record.stage
    local buffering = own and own.buffering
    if entry.tls then
        local _, _, server_name = routes.details(source)
        var.lair_tls_name = server_name
    end
    if stage == "upload" and not READ_FIRST[buffering] then
        record.tls = entry.tls
        var.lair_upstream = entry.tls and TLS or FRESH
        return nil
    end
    if stage == "body" and buffering == "none" then
        return "@upload"
    end
    if buffering and takes_answer(own) then
        record.takes_answer = true
        var.lair_upstream = entry.tls and TLS or "http://" .. var.lair_shard
        return "@buffered"
    end
    if entry.tls then
        return "@tls"
    end
    if var.lair_class == "@stream" then
        return "@stream"
    end
    return stage == "upload" and "@body" or nil
end

-- Returns the location in which a request goes once more, on a connection of its own.
function _M.once_more(record)
    if not record.takes_answer then
        return "@fresh"
    end
    var.lair_upstream = FRESH
    return "@buffered"
end

return _M
