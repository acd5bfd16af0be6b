-- Who asks, and for what: robots keep nothing awake, streams are counted apart, navigations get a page.

local counts = require "lair.counts"

local find = string.find
local lower = string.lower
local var = ngx.var

local ROBOT, STREAM = counts.ROBOT, counts.STREAM
local MOST_AGENTS, LONGEST_AGENT = 2000, 500    -- remembered

local ROBOT_WORDS = {
    "bot/", "bot;", "bot ", "bot)", "bot-", "crawl", "spider", "slurp", "facebookexternalhit", "mediapartners",
    "uptime", "pingdom", "statuscake", "monitor", "healthcheck", "health-check", "kube-probe", "prometheus",
    "blackbox", "site24x7", "newrelic", "datadog", "nagios", "check_http", "zabbix", "censys", "shodan", "zgrab",
    "masscan", "nmap", "nuclei", "expanse", "internetmeasurement", "archive.org", "headlinebot", "lighthouse",
}

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

function _M.is_robot()
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
    local accept = var.http_accept
    if accept and find(accept, "text/event-stream", 1, true) and ngx.req.get_method() == "GET" then
        return true
    end
    return var.lair_upgrade == "websocket"
end

-- Returns the bits under which the current request is counted.
function _M.bits()
    local bits = _M.is_robot() and ROBOT or 0
    return is_stream() and bits + STREAM or bits
end

-- Tells whether a person would read the answer: a browser that goes to a page, by whatever method.
function _M.wants_html()
    local mode = var.http_sec_fetch_mode
    if mode and mode ~= "navigate" then
        return false
    end
    local accept = var.http_accept
    return accept ~= nil and find(accept, "text/html", 1, true) ~= nil and var.lair_upgrade ~= "websocket"
end

-- Tells whether another page can be shown meanwhile: nothing but the address is lost then.
function _M.is_navigation()
    return ngx.req.get_method() == "GET" and _M.wants_html()
end

return _M
