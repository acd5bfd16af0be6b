-- Our own answers: never cached, readable for scripts of other origins, a page for people and problem+json for the rest.

local json = require "lair.json"
local page = require "lair.page"
local visitor = require "lair.visitor"

local TITLES = {
    [501] = "Not Implemented", [502] = "Bad Gateway", [503] = "Service Unavailable", [504] = "Gateway Timeout",
}

-- state -> status, seconds for Retry-After, heading, detail
local ANSWERS = {
    ["asleep"] = { 503, 5, "This server is asleep", "It is not running right now." },
    ["starting"] = { 503, 1, "This server is starting", "It will be here in a moment." },
    ["start-timeout"] = { 504, 5, "This server is still starting", "It did not start in time." },
    ["waker-unreachable"] = { 503, 3, "This server can't be woken right now", "What would wake it does not answer." },
    ["waker-timeout"] = { 504, 5, "This server can't be woken right now", "What would wake it does not answer." },
    ["failed"] = { 503, 5, "This server did not start", "The last attempt to start it failed." },
    ["unknown-host"] = { 503, 30, "Nothing is here yet", "No server has this address. Check the spelling, or create it first." },
    ["unresolved"] = { 503, 5, "This server can't be found", "The name of its target has no address." },
    ["unreachable"] = { 503, 2, "This server does not answer", "It refuses connections." },
    ["over-capacity"] = { 503, 5, "Too many visitors at once", "Too many requests wait here. Try again in a moment." },
    ["restarting"] = { 503, 1, "The proxy is restarting", "Try again in a moment." },
    ["broken"] = { 502, 2, "This server broke off", "It ended the connection before it had answered." },
    ["timeout"] = { 504, 5, "This server is too slow", "It did not answer in time." },
    ["grpc"] = { 501, nil, "gRPC is not supported", "This proxy speaks HTTP and WebSocket to its servers, not gRPC." },
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
    header["Access-Control-Expose-Headers"] = "Lair-State, Retry-After"
end

function _M.send(status, content_type, body)
    ngx.status = status
    ngx.header["Content-Type"] = content_type
    ngx.header["Content-Length"] = #body
    ngx.print(body)
    return ngx.exit(ngx.HTTP_OK)
end

-- Ends the request with the answer for a state. `detail` replaces the usual sentence.
function _M.give(state, detail)
    local answer = ANSWERS[state]
    local status, retry_after, heading = answer[1], answer[2], answer[3]
    detail = detail or answer[4]
    _M.headers(TOLD[state] or state, retry_after)
    if visitor.wants_html() then
        return _M.send(status, "text/html; charset=utf-8", page.render(heading, detail, status == 503 and retry_after))
    end
    return _M.send(status, "application/problem+json", json.object {
        type = "about:blank", title = TITLES[status], status = status, detail = detail, state = TOLD[state] or state,
        host = ngx.var.host,
    })
end

-- Ends the request with what a waker said in problem+json; with our own words where it said nothing of the kind.
function _M.pass_on(outcome, state)
    local content_type = outcome.content_type
    if not content_type:find("json", 1, true) or outcome.body == "" then
        return _M.give(state)
    end
    _M.headers(outcome.state ~= "" and outcome.state or state, outcome.retry_after ~= "" and outcome.retry_after or 5)
    return _M.send(503, "application/problem+json", outcome.body)
end

-- Ends the request with a redirect that keeps path and query.
function _M.redirect(base)
    ngx.header["Cache-Control"] = "no-store"
    return ngx.redirect(base .. ngx.var.request_uri, 301)
end

return _M
