-- Which route is a request's, where a look-up of its host does not tell: there are routes for paths of the host, or the
-- host has none of its own. The most specific host comes first (itself, then the longest `*.` suffix, then `$wildcard`),
-- and with each the longest prefix of whole segments; a host's own route takes what is left, and the next host what that
-- leaves. A request for a host without any of this never comes here.

local paths = require "lair.paths"

local dictionary = ngx.shared.lair_routes
local var = ngx.var

local byte, find, sub = string.byte, string.find, string.sub

local DELETED = 68
local PATHS, WILDCARDS = 8, 16
local WILDCARD = "$wildcard"
local MOST_HOST = 253        -- characters of a host in DNS: so many labels are not looked up one by one
local MOST_SEGMENTS = 8      -- of a prefix; as in ceryx/sources.py

local _M = { DELETED = DELETED, PATHS = PATHS, WILDCARDS = WILDCARDS, WILDCARD = WILDCARD }

-- Tells whether a value has one of these two flags.
local function has(value, flag)
    return byte(value, 2) % (2 * flag) >= flag
end

function _M.is_deleted(value)
    return byte(value) == DELETED
end

-- Returns what a host's entry tells of more specific routes: the sum of its flags, nil where it tells nothing.
function _M.tells(value)
    local flags = byte(value, 2) % 32
    return flags >= PATHS and flags - flags % PATHS or nil
end

-- Adds a host to those that may match. Returns whether its own route takes whatever comes to it.
local function add(hosts, source, value)
    if not value then
        return false
    end
    hosts[#hosts + 1] = { source = source, value = value }
    hosts.have_paths = hosts.have_paths or has(value, PATHS)
    return byte(value) ~= DELETED
end

-- Returns the hosts that may match, the most specific first; none stands behind one that takes everything.
local function hosts_of(host, value, is_loaded)
    local hosts = {}
    if add(hosts, host, value) or not is_loaded then
        return hosts
    end
    local last = dictionary:get(WILDCARD)
    if last and has(last, WILDCARDS) and #host <= MOST_HOST then
        local at = find(host, ".", 1, true)
        while at do
            local source = "*" .. sub(host, at)
            if add(hosts, source, dictionary:get(source)) then
                return hosts
            end
            at = find(host, ".", at + 1, true)
        end
    end
    add(hosts, WILDCARD, last)
    return hosts
end

-- Returns value, source and prefix of the longest route below a host that a path begins with; nil where there is none.
local function longest(host, path)
    local ends, at = {}, 1
    while #ends < MOST_SEGMENTS and at < #path do
        local slash = find(path, "/", at + 1, true) or #path + 1
        ends[#ends + 1] = slash - 1
        at = slash
    end
    for number = #ends, 1, -1 do
        local prefix = sub(path, 1, ends[number])
        local source = host .. prefix
        local value = dictionary:get(source)
        if value and byte(value) ~= DELETED then
            return value, source, prefix
        end
    end
    return nil
end

local function choose(hosts, host, path)
    for _, one in ipairs(hosts) do
        if path and has(one.value, PATHS) then
            local value, source, prefix = longest(one.source, path)
            if value then
                return value, source, host .. prefix
            end
        end
        if byte(one.value) ~= DELETED then
            return one.value, one.source, host
        end
    end
    return nil, host, host
end

-- Returns what `routes.find` does. `value`: the host's own.
function _M.find(host, value, target, is_loaded)
    local hosts = hosts_of(host, value, is_loaded)
    if not hosts.have_paths then
        return choose(hosts, host, nil)
    end
    local literal, free = paths.readings(target or var.request_uri)
    local found, source, name = choose(hosts, host, literal)
    if literal ~= free and not (free and select(2, choose(hosts, host, free)) == source) then
        return nil, host, host, true
    end
    return found, source, name
end

return _M
