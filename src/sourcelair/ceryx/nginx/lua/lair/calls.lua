-- Calls to wakers: one at a time per host on the whole node, however many requests wait, from a timer, not from a
-- visitor's request (who may leave). The claim lies in shared memory and is renewed, since its worker may be killed.

local changes = require "lair.changes"
local json = require "lair.json"
local routes = require "lair.routes"
local wakers = require "lair.wakers"
local workers = require "lair.workers"

local shared = ngx.shared.lair_gate
local state = ngx.shared.lair_state

local CLAIM = 4              -- seconds that a claim lasts unless it is renewed
local RENEW = 1              -- seconds between renewals
local MOST = 400             -- calls of one worker at once; NGINX drops timers above its own limit
local CONNECT_TIMEOUT = 2000     -- milliseconds
local ANSWER_TIMEOUT = 75        -- seconds: a waker long-polls
local LOOK = 1000                -- milliseconds between looks at whether it is still the one to ask
local MOST_BODY = 32768          -- bytes of a waker's answer that are passed on: all of it, or nothing
local KEEP_OUTCOME = 30          -- seconds
local FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2    -- seconds between calls for one host
local STARTING_PAUSE = 0.5       -- seconds from call to call while the waker says "still starting"
local REMEMBER_TRIES = 5         -- seconds
local LIMITED_PAUSE = 1          -- seconds from call to call for one host and an address that has caused too many starts

local _M = { active = 0 }

local active, renew_at = {}, 0
local jobs, first_job, last_job, running = {}, 1, 0, 0
local unpacked = {}

-- Returns the last outcome for a host: id, code, address (of the visitor for whom was asked), state, retry_after,
-- content_type, body; nil where there is none.
function _M.outcome(host)
    local text = shared:get("outcome:" .. host)
    if not text then
        return nil
    end
    local known = unpacked[host]
    if known and known.text == text then
        return known
    end
    local id, code, address, lair_state, retry, content_type, body =
        text:match("^(%d+)\t(%d+)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t(.*)$")
    unpacked = { [host] = {
        text = text, id = tonumber(id), code = tonumber(code), address = address, state = lair_state, retry_after = retry,
        content_type = content_type, body = body,
    } }
    return unpacked[host]
end

local function entry_of(host)
    local value = routes.find(host)
    return value and routes.parse(value)
end

local function published_at(answer)
    return tonumber((answer.body or ""):match('"revision"%s*:%s*(%d+)'))
end

-- Tells whether a waker has published something that this node does not know yet: its agent may be away.
function _M.is_ahead(answer, entry)
    return (published_at(answer) or 0) > entry.revision
end

-- Tells whether a host was woken, by the table of this node: it is live, as of what the waker says that it published, or
-- that has been withdrawn again.
local function was_woken(job, answer)
    local entry = entry_of(job.host)
    local published = published_at(answer)
    return entry and not _M.is_ahead(answer, entry) and (entry.kind == "L" or published and published > job.revision)
end

local function limit_key(host, address)
    return "limited:" .. host .. ":" .. (address or "")
end

-- Tells whether the waker said a moment ago that this address has caused too many starts.
function _M.is_limited(host, address)
    return shared:get(limit_key(host, address)) ~= nil
end

-- Tells whether a call for this host is under way on this node.
function _M.is_under_way(host)
    return active[host] ~= nil or shared:get("call:" .. host) ~= nil
end

local function settle(job, started, answer)
    local host, order = job.host, job.order
    local now, address = ngx.now(), order.address
    local pause
    if answer.code == 429 then
        -- Of one address. Others are asked for at once.
        pause = 0
        shared:set(limit_key(host, address), now + LIMITED_PAUSE, LIMITED_PAUSE)
    elseif answer.code == 202 then
        pause = STARTING_PAUSE - (now - started)
    elseif answer.code == 200 and was_woken(job, answer) then
        -- It was woken: the next call is another story, and no try of this one. What refuses connections though it is
        -- published is the same story still.
        shared:delete("tries:" .. host)
        pause = order.reason == "unreachable" and FIRST_PAUSE or 0
    else
        local tries = shared:incr("tries:" .. host, 1, 0, REMEMBER_TRIES) or 1
        pause = math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ^ (tries - 1))
    end
    if pause > 0 then
        shared:set("next:" .. host, now + pause, pause + 1)
    end
    local id = state:incr("outcomes", 1, 0)
    shared:set("outcome:" .. host, table.concat({
        id, answer.code, address or "", answer.state or "", answer.retry_after or "", answer.content_type or "", answer.body or "",
    }, "\t"), KEEP_OUTCOME)
    shared:delete("call:" .. host)
    changes.announce(host)
end

local function read_headers(socket)
    local headers = {}
    while true do
        local line, reason = socket:receive("*l")
        if not line then
            return nil, reason
        end
        if line == "" then
            return headers
        end
        local name, value = line:match("^([^:]+):%s*(.-)%s*$")
        if name then
            headers[name:lower()] = value:gsub("%c", " ")
        end
    end
end

-- Receives the first line of an answer. One that stands still may have been followed by another, elsewhere: then that
-- one is to be asked, and this one is given up.
local function first_line(socket, waker)
    local deadline = ngx.now() + ANSWER_TIMEOUT
    local line, reason, part
    local begun = ""
    socket:settimeouts(CONNECT_TIMEOUT, CONNECT_TIMEOUT, LOOK)
    repeat
        line, reason, part = socket:receive("*l")
        if line then
            socket:settimeouts(CONNECT_TIMEOUT, CONNECT_TIMEOUT, ANSWER_TIMEOUT * 1000)
            return begun .. line
        end
        begun = begun .. (part or "")
        if wakers.has_moved(waker) then
            return nil, "another one has its place"
        end
    until reason ~= "timeout" or ngx.now() > deadline
    return nil, reason
end

-- Sends one wake request and returns {code, ...}; code 0: the waker can't be reached.
local function ask(waker, order)
    local socket = ngx.socket.tcp()
    socket:settimeouts(CONNECT_TIMEOUT, CONNECT_TIMEOUT, ANSWER_TIMEOUT * 1000)
    local ok, reason = socket:connect(waker.address, waker.port)
    if not ok then
        return { code = 0, reason = reason }
    end
    local body = json.object(order)
    local authorization = wakers.authorization(waker)
    -- HTTP/1.0: the answer comes whole and unchunked, and the connection ends with it.
    ok, reason = socket:send {
        "POST ", waker.path, "/wake HTTP/1.0\r\nHost: ", waker.host, "\r\nContent-Type: application/json\r\n",
        authorization ~= "" and "Authorization: " .. authorization .. "\r\n" or "",
        "Content-Length: ", #body, "\r\nConnection: close\r\n\r\n", body,
    }
    local line
    if ok then
        line, reason = first_line(socket, waker)
    end
    local code = line and tonumber(line:match("^HTTP/1%.%d (%d%d%d)"))
    if not code then
        socket:close()
        return { code = reason == "timeout" and 202 or 0, reason = reason }
    end
    local headers = read_headers(socket) or {}
    local length = tonumber(headers["content-length"])
    local text, _, part = socket:receive(math.min(length or MOST_BODY, MOST_BODY))
    socket:close()
    -- Without a length it ends with the connection; so what filled the buffer may have been cut.
    local whole = length and length <= MOST_BODY and text or not length and part
    return {
        code = code, state = headers["lair-state"], retry_after = headers["retry-after"],
        content_type = headers["content-type"], body = whole or "",
    }
end

local function run(premature, job)
    local started = ngx.now()
    local ok, answer = true, { code = 0 }
    if not premature and job.waker.usable then
        ok, answer = pcall(ask, job.waker, job.order)
        if not ok then
            ngx.log(ngx.ERR, "waker call: ", answer)
            answer = { code = 0 }
        end
    end
    if answer.code == 0 then
        ngx.log(ngx.WARN, "the waker of ", job.host, " can't be reached: ", answer.reason or "its address is not known")
    end
    active[job.host] = nil
    _M.active, running = _M.active - 1, running - 1
    settle(job, started, answer)
    _M.pump()
end

-- Starts queued calls while there is room for them.
function _M.pump()
    while running < MOST and first_job <= last_job do
        local job = jobs[first_job]
        jobs[first_job] = nil
        first_job = first_job + 1
        running = running + 1
        local ok, reason = ngx.timer.at(0, run, job)
        if not ok then
            ngx.log(ngx.ERR, "no timer for a waker call: ", reason)
            running = running - 1
            active[job.host] = nil
            _M.active = _M.active - 1
            shared:delete("call:" .. job.host)
            return
        end
    end
end

-- Sees to it that a call for this host is under way on this node, unless one ended a moment ago. Returns the seconds
-- after which to look again, and whether one is.
function _M.ensure(host, waker, order)
    if active[host] then
        return 0.1, true
    end
    local now = ngx.now()
    local due = shared:get("next:" .. host) or shared:get(limit_key(host, order.address))
    if due and due > now then
        return due - now, false
    end
    if not shared:add("call:" .. host, workers.number, CLAIM) then
        local owner = shared:get("call:" .. host)
        if owner and not workers.is_alive(owner) then
            shared:delete("call:" .. host)
            return 0, false
        end
        return 0.05, true
    end
    due = shared:get("next:" .. host)
    if due and due > now then
        shared:delete("call:" .. host)
        return due - now, false
    end
    active[host] = true
    _M.active = _M.active + 1
    last_job = last_job + 1
    local entry = entry_of(host)
    jobs[last_job] = { host = host, waker = waker, order = order, revision = entry and entry.revision or 0 }
    _M.pump()
    return 0.1, true
end

-- Renews the claims of this worker's calls; the ticker calls it.
function _M.renew(now)
    if now < renew_at then
        return
    end
    renew_at = now + RENEW
    for host in pairs(active) do
        shared:set("call:" .. host, workers.number, CLAIM)
    end
end

return _M
