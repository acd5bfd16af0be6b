-- The hot path: look the host up, count, look up again, set the peer. Between look-up and count another worker may
-- withdraw the target and read a count of zero; the second look-up sees that, and the request waits at the gate. For a host
-- that was asked for before it is enough that its part of the table was not written since.

local ngx_balancer = require "ngx.balancer"
local config = require "lair.config"
local counts = require "lair.counts"
local flows = require "lair.flows"
local gate = require "lair.gate"
local mapped = require "lair.mapped"
local prefixes = require "lair.prefixes"
local records = require "lair.records"
local request = require "lair.request"
local routes = require "lair.routes"
local settings = require "lair.settings"
local versions = require "lair.versions"
local visitor = require "lair.visitor"
local ways = require "lair.ways"

local var = ngx.var
local request_id = request.id
local inflight, inflight_bits, streams = records.inflight, records.bits, records.streams
local waiting, by_id = records.crowds, records.by_id

local ROBOT, IDLE = counts.ROBOT, counts.IDLE

-- Ends a balancer call that was the second: that one must not try again, and DECLINED would.
local NO_LIVE_UPSTREAM = -3

local MOST_REMEMBERED = 20000    -- hosts

local _M = {}

-- Host -> {entry, part, version}: by what its last request was counted, where nothing but the host decides on that.
local remembered, remembered_count = {}, 0

-- Returns the bits under which a request for a route with settings of its own is counted.
local function own_bits(id, own, instance)
    local bits = visitor.bits(own)
    if bits >= IDLE and bits % 2 ~= ROBOT and own.streams == "flow" and not (instance and flows.open(id, instance)) then
        return bits - IDLE  -- it can't be watched: then it counts as activity
    end
    return bits
end

local function note(id, entry, bits)
    inflight[id] = entry
    if bits ~= 0 then
        inflight_bits[id] = bits
    end
end

-- Counts a request to an entry's instance, and looks at the route again. Returns whether it has this entry still.
local function count(id, entry, source, bits)
    if not counts.start(entry, bits) then
        return false
    end
    if routes.raw(source) ~= entry.value or not counts.is_right() then
        counts.undo(entry, bits)
        return false
    end
    note(id, entry, bits)
    return true
end

-- `version`: of the host's part of the table, read before the last look at it.
local function remember(host, entry, part, version)
    if not remembered[host] then
        if remembered_count >= MOST_REMEMBERED then
            remembered, remembered_count = {}, 0
        end
        remembered_count = remembered_count + 1
    end
    remembered[host] = { entry = entry, part = part, version = version }
end

-- Counts it by what is remembered of the host, and looks whether that is true still. Returns the entry, or nil where it is
-- not, or where there is more to look at.
local function claim_again(id, host, tls)
    local known = remembered[host]
    if not known or by_id[id] or waiting[host] then
        return nil
    end
    local entry = known.entry
    if entry.tls ~= tls or not counts.has_place(entry) then
        return nil  -- who was forgotten gets no new place, only what the route says now
    end
    if versions.of(known.part) ~= known.version then
        return nil  -- what decides is the look below; until the host has a new entry, this one spares the old instance counts
    end
    config.linger()
    local bits = visitor.bits()
    if not counts.start(entry, bits) then
        return nil
    end
    mapped.barrier()
    if versions.of(known.part) ~= known.version or not counts.is_right() then
        counts.undo(entry, bits)
        return nil
    end
    note(id, entry, bits)
    return entry
end

-- Returns the entry to which the request was counted, or nil: it must go to the gate.
function _M.claim(id, host, tls)
    local last = claim_again(id, host, tls)
    if last then
        return last
    end
    local value, source, name = routes.find(host)
    if not value then
        return nil
    end
    local entry = routes.parse(value)
    if entry.kind ~= "L" or entry.tls ~= tls then
        return nil
    end
    if entry.enforce_https and var.lair_scheme ~= "https" then
        return nil
    end
    local crowd, record = waiting[name], by_id[id]
    local own = entry.own and settings.of(source, value) or nil
    if (own or record) and not prefixes.are_right(record, own, name) then
        return nil
    end
    if (crowd or record) and not gate.may_pass(record, crowd) then
        return nil
    end
    local part = versions.part_of(host)
    local version = versions.of(part)
    config.linger()
    if own and ways.must_move(own, record) then
        return nil
    end
    if not count(id, entry, source, own and own_bits(id, own, entry.instance) or visitor.bits()) then
        flows.close(id)
        return nil
    end
    local is_plain = source == host and not own and not entry.enforce_https and entry.flags < routes.PATHS
    if is_plain and version % 2 == 0 then
        remember(host, entry, part, version)
    end
    return entry
end

-- Counts a request before its body is read, and lets the balancer use that target. Returns whether it could.
function _M.claim_upload(record)
    local entry = _M.claim(record.id, record.host, record.tls)
    record.counted, record.upload_begun = entry ~= nil, entry ~= nil
    return entry ~= nil
end

local function choose(tls)
    local id = request_id()
    local entry = inflight[id]
    if entry then
        -- Counted already: either an upload that was counted before its body was read, or NGINX calls a second time
        -- because a pooled connection was reset.
        local record = by_id[id]
        if not (record and record.counted) then
            records.reset[id] = true
            return NO_LIVE_UPSTREAM
        end
        record.counted = nil
    else
        entry = _M.claim(id, var.host, tls)
        if not entry then
            return ngx.DECLINED
        end
    end
    local ok, reason = ngx_balancer.set_current_peer(entry.address, entry.port)
    if not ok then
        ngx.log(ngx.CRIT, "can't use the target of ", var.host, ": ", reason)
        return ngx.ERROR
    end
    return nil
end

-- balancer_by_lua of every upstream that leads to an instance.
function _M.run(tls)
    local ok, code = pcall(choose, tls)
    if not ok then
        ngx.log(ngx.CRIT, "balancer: ", code)
        code = ngx.ERROR
    end
    if code then
        return ngx.exit(code)
    end
end

-- log_by_lua of every request: gives its count back, exactly once, however it ended.
function _M.finish()
    local id = request_id()
    local entry = inflight[id]
    if entry then
        local bits, is_stream = inflight_bits[id], nil
        inflight[id] = nil
        if bits then
            is_stream = streams[id]
            inflight_bits[id], streams[id] = nil, nil
            flows.close(id)
        end
        counts.finish(entry, bits or 0, is_stream)
    end
    if records.reset[id] then
        records.reset[id] = nil
    end
    local record = by_id[id]
    if record then
        by_id[id] = nil
        gate.leave(record)
    end
end

return _M
