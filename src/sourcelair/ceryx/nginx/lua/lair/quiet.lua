-- A route's own rules of what neither wakes its server nor keeps it awake. The agent has checked and compiled them: agents
-- are lower-case, ranges of addresses are patterns, headers are names of variables.

local addresses = require "lair.addresses"

local find, lower, sub = string.find, string.lower, string.sub
local var = ngx.var

local _M = {}

-- Tells whether a rule's path, "=" and all of it or "^" and how it begins, is the request's.
local function is_path(path, uri)
    local wanted = sub(path, 2)
    if sub(path, 1, 1) == "=" then
        return uri == wanted
    end
    return sub(uri, 1, #wanted) == wanted
end

local function has_header(rule)
    local value = var["http_" .. rule.header]
    return value ~= nil and (not rule.value or find(value, rule.value, 1, true) ~= nil)
end

local function has_agent(part)
    local agent = var.http_user_agent
    return agent ~= nil and find(lower(agent), part, 1, true) ~= nil
end

-- Tells whether the visitor's address is in a range. `known` keeps it for the rules to come.
local function is_from(pattern, known)
    if known.key == nil then
        local _, key = addresses.of_visitor()
        known.key = key or false
    end
    return known.key and find(known.key, pattern) ~= nil
end

local function matches(rule, known)
    return (not rule.path or is_path(rule.path, var.uri))
        and (not rule.method or rule.method == ngx.req.get_method())
        and (not rule.agent or has_agent(rule.agent))
        and (not rule.header or has_header(rule))
        and (not rule.address or is_from(rule.address, known))
end

-- Returns what the first rule that matches says of the current request: true (quiet) or false (a visit after all); nil
-- where none matches.
function _M.decide(rules)
    local known = {}
    for _, rule in ipairs(rules) do
        if matches(rule, known) then
            return not rule.wakes
        end
    end
    return nil
end

return _M
