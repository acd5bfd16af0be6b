-- Our own answers: never cached, readable for scripts of other origins, a page for people and problem+json for the rest.

local json = require "lair.json"
local page = require "lair.page"
local records = require "lair.records"
local request = require "lair.request"
local visitor = require "lair.visitor"

local TITLES = {
    [400] = "Bad Request", [429] = "Too Many Requests", [501] = "Not Implemented", [502] = "Bad Gateway",
    [503] = "Service Unavailable", [504] = "Gateway Timeout",
}

-- state -> status, seconds for Retry-After, heading, detail
local ANSWERS = {
    ["asleep"] = { 503, 5, "This server is asleep", "It is not running right now." },
    ["starting"] = { 503, 1, "This server is starting", "It will be here in a moment." },
    ["start-timeout"] = { 504, 5, "This server is still starting", "It did not start in time." },
    ["waker-unreachable"] = { 503, 3, "This server can't be woken right now", "What would wake it does not answer." },
    ["waker-timeout"] = { 504, 5, "This server can't be woken right now", "What would wake it does not answer." },
    ["failed"] = { 503, 5, "This server did not start", "The last attempt to start it failed." },
    ["disabled"] = { 503, 30, "This server is switched off", "It wakes for nobody until it is enabled again." },
    ["rate-limited"] = { 429, 5, "Too many servers started", "Too many were started from your address. Try again soon." },
    ["unknown-host"] = { 503, 30, "Nothing is here yet", "No server has this address. Check the spelling, or create it first." },
    ["ambiguous-path"] = { 400, nil, "This address can be read in two ways", "Write its path with single slashes and without dots." },
    ["unresolved"] = { 503, 5, "This server can't be found", "The name of its target has no address." },
    ["unreachable"] = { 503, 2, "This server does not answer", "It refuses connections." },
    ["over-capacity"] = { 503, 5, "Too many visitors at once", "Too many requests wait here. Try again in a moment." },
    ["restarting"] = { 503, 1, "The proxy is restarting", "Try again in a moment." },
    ["broken"] = { 502, 2, "This server broke off", "It ended the connection before it had answered." },
    ["timeout"] = { 504, 5, "This server is too slow", "It did not answer in time." },
    ["grpc"] = { 501, 3600, "gRPC is not supported", "This proxy speaks HTTP and WebSocket to its servers, not gRPC." },
}

-- Answers that tell a state of another name.
local TOLD = { ["start-timeout"] = "starting", ["waker-timeout"] = "waker-unreachable" }

local _M = {}

-- Sets the headers that all our own answers carry.
function _M.headers(state, retry_after)
    local header = ngx.header
    header["Cache-Control"] = "no-store"
    header["Retry-After"] = retry_after
    header["Lair-State"] = state
    header["Access-Control-Allow-Origin"] = "*"
    header["Access-Control-Expose-Headers"] = "Lair-State, Retry-After, Preference-Applied"
    local record = records.by_id[request.id()]
    header["Preference-Applied"] = record and record.applied
end

function _M.send(status, content_type, body)
    ngx.status = status
    ngx.header["Content-Type"] = content_type
    ngx.header["Content-Length"] = #body
    ngx.print(body)
    return ngx.exit(ngx.HTTP_OK)
end

-- Ends a preflight (CORS) that asks for nothing but to send `Prefer` with a GET: without a yes its script could not read
-- what we answer. Any other is the app's to allow: a yes of ours might reach it, once it is there.
function _M.preflight(state)
    if ngx.req.get_method() ~= "OPTIONS" then
        return
    end
    local method, names = ngx.var.http_access_control_request_method, ngx.var.http_access_control_request_headers
    if (method == "GET" or method == "HEAD") and names and names:lower() == "prefer" then
        _M.headers(state, 1)
        ngx.header["Access-Control-Allow-Methods"] = "GET, HEAD"
        ngx.header["Access-Control-Allow-Headers"] = "Prefer"
        return ngx.exit(204)
    end
end

-- Ends the request with the answer for a state. `detail` replaces the usual sentence, `retry_after` the usual seconds.
function _M.give(state, detail, retry_after)
    local told = TOLD[state] or state
    _M.preflight(told)
    local answer = ANSWERS[state]
    local status, heading = answer[1], answer[3]
    retry_after = retry_after or answer[2]
    detail = detail or answer[4]
    _M.headers(told, retry_after)
    if visitor.wants_html() then
        status = status == 429 and 503 or status
        -- What was sent by a form is not asked for again: it would be another request.
        local refresh = status == 503 and visitor.is_navigation() and retry_after
        return _M.send(status, "text/html; charset=utf-8", page.render(heading, detail, refresh))
    end
    return _M.send(status, "application/problem+json", json.object {
        type = "about:blank", title = TITLES[status], status = status, detail = detail, state = told, host = ngx.var.host,
    })
end

-- Ends the request with "it is being woken, come again": for who prefers that to waiting.
function _M.later()
    _M.headers("starting", 1)
    return _M.send(202, "application/json", json.object {
        state = "starting", detail = "It is being started. Ask again in a moment.", host = ngx.var.host,
    })
end

-- Ends the request with what a waker said in problem+json; with our own words where it said nothing of the kind, or to a
-- person who has sent a form (`as_page`).
function _M.pass_on(outcome, status, state, as_page)
    local retry_after = outcome.retry_after ~= "" and outcome.retry_after or nil
    if as_page and ANSWERS[outcome.state] then
        return _M.give(outcome.state, nil, tonumber(retry_after))
    end
    if as_page or not outcome.content_type:find("json", 1, true) or outcome.body == "" then
        return _M.give(state, nil, tonumber(retry_after))
    end
    state = outcome.state ~= "" and outcome.state or state
    _M.preflight(state)
    _M.headers(state, retry_after or 5)
    local body = outcome.body
    if outcome.code ~= status then    -- a problem names the status with which it comes (RFC 9457)
        body = body:gsub('("status"%s*:%s*)%d+', "%1" .. status, 1)
        body = body:gsub('("title"%s*:%s*)"[^"\\]*"', '%1"' .. TITLES[status] .. '"', 1)
    end
    return _M.send(status, "application/problem+json", body)
end

-- Ends the request of an address that has caused too many starts: a page of ours for people, for the waker's own would
-- show them a server that is starting.
function _M.limited(outcome, state)
    if visitor.is_navigation() then
        return _M.give(state, nil, tonumber(outcome.retry_after))
    end
    return _M.pass_on(outcome, 429, state)
end

-- Ends the request with a redirect that keeps path and query. `target`: the request target, where it is another than was
-- sent.
function _M.redirect(base, target)
    ngx.header["Cache-Control"] = "no-store"
    return ngx.redirect(base .. (target or ngx.var.request_uri), 301)
end

return _M
