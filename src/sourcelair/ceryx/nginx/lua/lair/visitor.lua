-- Who asks, and for what: robots keep nothing awake, streams are counted apart, navigations get a page.

local counts = require "lair.counts"
local quiet = require "lair.quiet"

local find = string.find
local lower = string.lower
local var = ngx.var

local ROBOT, STREAM, IDLE = counts.ROBOT, counts.STREAM, counts.IDLE
local MOST_AGENTS, LONGEST_AGENT = 2000, 500    -- remembered

local ROBOT_WORDS = {
    "bot/", "bot;", "bot ", "bot)", "bot-", "crawl", "spider", "slurp", "facebookexternalhit", "mediapartners",
    "uptime", "pingdom", "statuscake", "monitor", "healthcheck", "health-check", "kube-probe", "prometheus",
    "blackbox", "site24x7", "newrelic", "datadog", "nagios", "check_http", "zabbix", "censys", "shodan", "zgrab",
    "masscan", "nmap", "nuclei", "expanse", "internetmeasurement", "archive.org", "headlinebot", "lighthouse",
}

-- What a browser does not show as a page of its own (Sec-Fetch-Dest).
local ASSETS = {}
for _, destination in ipairs {
    "empty", "script", "style", "image", "font", "audio", "video", "track", "manifest", "worker", "sharedworker",
    "serviceworker", "audioworklet", "paintworklet", "report", "xslt",
} do
    ASSETS[destination] = true
end

local _M = {}

local known, known_count = {}, 0

-- Tells whether a user agent is a known robot or monitor. An empty or unknown one is a visitor.
function _M.is_robot_agent(agent)
    local answer = known[agent]
    if answer ~= nil then
        return answer
    end
    local text = lower(agent) .. ";"
    answer = false
    if not find(text, "cubot", 1, true) then
        for _, word in ipairs(ROBOT_WORDS) do
            if find(text, word, 1, true) then
                answer = true
                break
            end
        end
    end
    if #agent <= LONGEST_AGENT then
        if known_count >= MOST_AGENTS then
            known, known_count = {}, 0
        end
        known[agent] = answer
        known_count = known_count + 1
    end
    return answer
end

-- Tells whether the current request neither wakes a server nor keeps it awake. `own`: the route's settings, which come
-- first; nil where it has none.
function _M.is_robot(own)
    if own and own.rules then
        local is_quiet = quiet.decide(own.rules)
        if is_quiet ~= nil then
            return is_quiet
        end
    end
    local uri = var.uri
    if uri == "/favicon.ico" or uri == "/robots.txt" then
        return true
    end
    local agent = var.http_user_agent
    return agent ~= nil and _M.is_robot_agent(agent)
end

-- Tells whether the answer may never end. An event stream is asked for by GET; what merely accepts one in answer to a
-- POST is a request like any other.
local function is_stream()
    if var.lair_class == "" then
        return false    -- see maps.conf: neither a WebSocket nor an event stream, and one variable is read instead of two
    end
    local accept = var.http_accept
    if accept and find(accept, "text/event-stream", 1, true) and ngx.req.get_method() == "GET" then
        return true
    end
    return var.lair_upgrade == "websocket"
end

-- Returns the bits under which the current request is counted. A robot's stream keeps nothing awake by being open; of
-- others the route's settings (`own`, or nil) may say the same.
function _M.bits(own)
    local bits = _M.is_robot(own) and ROBOT or 0
    if not is_stream() then
        return bits
    end
    return (bits == ROBOT or own and own.streams) and bits + STREAM + IDLE or STREAM
end

-- Tells whether a person would read the answer: a browser that goes to a page. Browsers say so; of one that is too old to
-- say, only a GET that accepts HTML counts, since scripts send forms too.
function _M.wants_html()
    local accept = var.http_accept
    if not accept or not find(accept, "text/html", 1, true) or var.lair_upgrade == "websocket" then
        return false
    end
    local mode = var.http_sec_fetch_mode
    if mode then
        return mode == "navigate"
    end
    return not ASSETS[var.http_sec_fetch_dest or ""] and var.http_x_requested_with ~= "XMLHttpRequest"
        and ngx.req.get_method() == "GET"
end

-- Tells whether another page can be shown meanwhile: nothing but the address is lost then.
function _M.is_navigation()
    return ngx.req.get_method() == "GET" and _M.wants_html()
end

return _M
