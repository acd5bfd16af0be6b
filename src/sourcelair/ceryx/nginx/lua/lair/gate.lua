-- The gate: where requests wait that have no live target. It never writes a route and never trusts a waker's answer for
-- a target: a request goes on when this node's table shows a live route.
--
-- All that wait for one name (a host, or a host and the prefix of a path's route) in this worker are its *crowd*. One
-- ticker per worker looks at the crowds whose host changed and wakes their waiters, who look for themselves. They join the
-- crowd before they read the table again, and another one where their request has another route now.
-- Who has nothing to wait for never joins: a request with a body passes here too, and so do redirects.

local addresses = require "lair.addresses"
local answers = require "lair.answers"
local calls = require "lair.calls"
local counts = require "lair.counts"
local crowds = require "lair.crowds"
local endings = require "lair.endings"
local flows = require "lair.flows"
local prefixes = require "lair.prefixes"
local records = require "lair.records"
local request = require "lair.request"
local routes = require "lair.routes"
local settings = require "lair.settings"
local visitor = require "lair.visitor"
local wakers = require "lair.wakers"
local ways = require "lair.ways"
local windows = require "lair.windows"

local STREAM = counts.STREAM

local var = ngx.var

-- NGINX allows ten passes through named locations and answers 500 then.
local MOST_HOPS = 8

local SHORTEST_WAIT = 0.002    -- seconds
local CONNECT_TIMEOUT = 2000    -- milliseconds

local SAFE_TO_REPEAT = { GET = true, HEAD = true, OPTIONS = true }

local _M = {}

-- Returns the record of the current request, a new one where it comes for the first time.
local function record_of(id, stage)
    local record = records.by_id[id]
    if not record then
        record = { id = id, host = var.host, hops = var.lair_class == "" and 0 or 1 }
        records.by_id[id] = record
    end
    record.stage = stage
    return record
end

-- Tells whether the balancer may send this request. In the balancer only.
--
-- Who was held goes through the window: with a place, or (when its body was read meanwhile) with one that is free now.
-- All others go straight on, unless somebody waits: then they stand in line too.
function _M.may_pass(record, crowd)
    if record and record.held then
        return record.place or record.had_place or windows.take_free(crowds.of(record.name), record)
    end
    return not crowd or crowd.count == 0
end

local function connect_time()
    local text = var.upstream_connect_time
    return text and text:match("[^%s,:]+$")
end

-- Tells whether a live entry is one that this request just failed to connect to.
local function is_failed(record, entry)
    local failed = record.failed
    return failed ~= nil and failed.instance == entry.instance and entry.revision <= failed.revision
end

-- Lets the request go on: to the upstream of its location, or to the location that fits its target and its route.
local function let_go(record, entry, source)
    crowds.stop_waiting(record)
    prefixes.prepare(record)
    local location = ways.of(record, entry, source)
    if location then
        record.hops = record.hops + 1
        return ngx.exec(location)
    end
    return true
end

local function order(record, entry)
    record.address = record.address or addresses.of_visitor()
    local message = {
        source = record.name, method = ngx.req.get_method(), path = var.uri, node = crowds.node(), reason = "asleep",
        since = ngx.req.start_time(), address = record.address,
    }
    if record.source ~= record.name then
        message.route = record.source
    end
    if entry.kind == "L" then
        message.reason, message.instance, message.revision = "unreachable", entry.instance, entry.revision
    end
    return message
end

-- Tells whether a target takes no connections: of TLS, NGINX only says that the connection did not come about.
local function refuses(entry)
    local socket = ngx.socket.tcp()
    socket:settimeouts(CONNECT_TIMEOUT, CONNECT_TIMEOUT, CONNECT_TIMEOUT)
    local ok, reason = socket:connect(entry.address, entry.port)
    if ok then
        socket:close()
    end
    return not ok and reason ~= "timeout"
end

-- Returns the settings that an entry's route has of its own, or nil. `source`: under which the entry was found.
local function own_of(entry, source)
    return entry.own and settings.of(source, entry.value) or nil
end

-- Looks at how the last attempt of this request ended, and gives its count back. Whoever returns from here may wait.
local function settle(record)
    local id = record.id
    local entry = records.inflight[id]
    local was_reset = records.reset[id]
    local connect = entry and connect_time()
    windows.free(record, tonumber(connect))
    if not entry then
        return
    end
    local bits = records.bits[id] or 0
    records.inflight[id], records.bits[id], records.reset[id] = nil, nil, nil
    counts.finish(entry, bits)
    flows.close(id)
    if was_reset then
        if SAFE_TO_REPEAT[ngx.req.get_method()] and not record.repeated then
            record.repeated = true
            record.hops = record.hops + 1
            return ngx.exec(ways.once_more(record))
        end
        return answers.give("broken")
    end
    if connect ~= "-" or (entry.tls and not refuses(entry)) then
        return answers.give("broken")
    end
    record.failed = entry
    if record.upload_begun then
        -- What was passed on of its body can't be sent again; whoever comes next shall find a server.
        local waker = wakers.get(entry.waker)
        local value, source = routes.find(record.host)
        if waker and not visitor.is_robot(value == entry.value and own_of(entry, source) or nil) then
            crowds.ask_for(record.name, waker, order(record, entry))
        end
        return answers.give("unreachable")
    end
end

-- Looks at the table. Returns the live entry to which the request may go (nil: none yet), the value that the table
-- shows (nil: it is not loaded) and its source. Ends the request where there is nothing to wait for.
local function look(record)
    local value, source, name, is_ambiguous = routes.find(record.host)
    if name ~= record.name then
        record.failed = not record.name and record.failed or nil
        record.name = name
    end
    if is_ambiguous then
        return answers.give("ambiguous-path")
    end
    if not value then
        if routes.is_loaded() then
            return answers.give("unknown-host")
        end
        return nil
    end
    local entry = routes.parse(value)
    record.source, record.own = source, own_of(entry, source)
    if entry.kind == "R" then
        return answers.redirect((routes.details(source)), prefixes.redirected(record))
    end
    if entry.enforce_https and var.lair_scheme ~= "https" then
        return answers.redirect("https://" .. record.host)
    end
    if entry.kind == "U" then
        local _, problem = routes.details(source)
        if problem ~= "" then
            return answers.give("unresolved", problem)
        end
        -- Its name is just being looked up: nobody who was held until it woke is turned away for that.
        record.waker = wakers.get(entry.waker)
        return nil
    end
    if entry.kind == "L" and not is_failed(record, entry) then
        return entry, value, source
    end
    record.waker = wakers.get(entry.waker)
    if not record.waker then
        return answers.give(entry.kind == "L" and "unreachable" or "asleep")
    end
    if visitor.is_robot(record.own) then
        return answers.give("asleep")
    end
    return nil, value, source
end

-- One look of a request that waits. Returns true when it may go on.
local function consider(record)
    local entry, value, source = look(record)
    local crowd = crowds.keep_with(record)
    if not crowd then
        return answers.give("over-capacity")
    end
    if entry then
        crowd.wanted = nil
        -- A body is read first: that may take long, and holds no place.
        return (record.stage == "body" or windows.take(crowd, record)) and let_go(record, entry, source)
    end
    if not value then
        return false
    end
    endings.hear(record, value)
    entry = routes.parse(value)
    if record.failed or entry.kind ~= "L" then
        crowds.want(crowd, record.waker, order(record, entry))
        crowds.ask(crowd)
        return false
    end
    return consider(record)
end

-- Holds the request until it may go on, or until its time is over.
local function hold(record)
    local entry, _, source = look(record)
    if entry and not record.held and (record.stage == "body" or not crowds.is_waited_for(record.name)) then
        return let_go(record, entry, source)
    end
    if not entry then
        answers.preflight("starting")
    end
    if not crowds.join(record, record.stage == "gate" and tonumber(var.content_length) or 0) then
        return answers.give("over-capacity")
    end
    local now = ngx.now()
    local outcome = calls.outcome(record.name)
    local last = outcome and not calls.is_under_way(record.name) and outcome or nil
    record.held, record.joined = true, now
    record.seen = outcome and outcome.id or 0
    record.first = record.seen
    local deadline = now + endings.time_of(record, record.own)
    while not consider(record) do
        if ngx.worker.exiting() then
            return answers.give("restarting")
        end
        now = ngx.now()
        if now >= deadline then
            return endings.time_over(record, record.crowd, last)
        end
        -- Never nothing at all: a wait of 0 comes back at once, and the clock stands still meanwhile.
        record.semaphore:wait(math.max(SHORTEST_WAIT, deadline - now))
    end
end

local function enter(stage)
    local record = record_of(request.id(), stage)
    record.hops = record.hops + 1
    settle(record)
    if record.hops >= MOST_HOPS then
        return answers.give("over-capacity", "This server comes and goes too fast. Try again in a moment.")
    end
    return hold(record)
end

-- access_by_lua of @gate: the body has been read, or there is none.
function _M.enter()
    return enter("gate")
end

local function refuse_grpc()
    local content_type = var.http_content_type
    if content_type and content_type:sub(1, 16) == "application/grpc" then
        ngx.header["Grpc-Status"] = "12"
        return answers.give("grpc")
    end
end

-- access_by_lua of @body: waits before the body is read. It holds no place while it is uploaded.
function _M.enter_body()
    refuse_grpc()
    return enter("body")
end

-- access_by_lua of @upload: the body is passed on as it comes, so it can't pass twice. It is counted here, and the
-- balancer uses that target. (Who is to be read first moves to another location while it enters.)
function _M.enter_upload()
    refuse_grpc()
    local record = record_of(request.id(), "upload")
    repeat
        enter("upload")
    until require("lair.balancer").claim_upload(record)
end

-- Counts it as a stream if it is one, by its answer.
local function begin_stream(id)
    local entry, bits = records.inflight[id], records.bits[id]
    if not entry or not bits or bits < STREAM or records.streams[id] then
        return
    end
    local kind = ngx.status == 200 and ngx.header["Content-Type"]
    if ngx.status == 101 or kind and tostring(kind):find("text/event-stream", 1, true) == 1 then
        counts.begin_stream(entry, bits)
        records.streams[id] = true
    end
end

-- header_filter_by_lua of the gate's locations: the answer has begun.
function _M.answered()
    local id = request.id()
    begin_stream(id)
    local record = records.by_id[id]
    if record then
        windows.free(record, tonumber(connect_time()))
        crowds.drop_if_empty(record.name)
    end
end

-- The end of a request that came to the gate.
function _M.leave(record)
    crowds.stop_waiting(record)
    windows.free(record)
    crowds.drop_if_empty(record.name)
end

return _M
