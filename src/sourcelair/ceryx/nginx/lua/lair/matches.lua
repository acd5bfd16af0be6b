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

-- Returns a value with or without one of these two flags.
function _M.with(value, flag, is_set)
    if has(value, flag) == is_set then
        return value
    end
    return sub(value, 1, 1) .. string.char(byte(value, 2) + (is_set and flag or -flag)) .. sub(value, 3)
end

function _M.is_deleted(value)
    return byte(value) == DELETED
end

-- Returns what a host's entry tells of more specific routes: the sum of its flags, nil where it tells nothing.
function _M.tells(value)
    local flags = byte(value, 2) % 32
    return flags >= PATHS and flags - flags % PATHS or nil
end

-- Of the look-up that is under way (nothing yields in one): the request target, its path's readings once they are needed,
-- and where the segments of one end.
local target, literal, free
local ends = {}

-- Returns value and source of the longest route below a host that a path begins with; nil where there is none.
local function longest(host, path)
    local count, at = 0, 1
    while count < MOST_SEGMENTS and at < #path do
        local slash = find(path, "/", at + 1, true) or #path + 1
        count = count + 1
        ends[count] = slash - 1
        at = slash
    end
    for number = count, 1, -1 do
        local source = host .. sub(path, 1, ends[number])
        local value = dictionary:get(source)
        if value and byte(value) ~= DELETED then
            return value, source
        end
    end
    return nil
end

-- Returns value and source of the route that a host, with this entry, has for the path; nil where it has none.
local function at_host(host, value, reads_freely)
    if has(value, PATHS) then
        if not literal then
            literal, free = paths.readings(target or var.request_uri)
        end
        local found, source = longest(host, reads_freely and free or literal)
        if found then
            return found, source
        end
    end
    if byte(value) ~= DELETED then
        return value, host
    end
    return nil
end

-- Returns value and source of the first route in the order of hosts. `value`: the host's own entry, or nil.
local function choose(host, value, is_loaded, reads_freely)
    local found, source
    if value then
        found, source = at_host(host, value, reads_freely)
    end
    if found or not is_loaded then
        return found, source
    end
    local last = dictionary:get(WILDCARD)
    if last and has(last, WILDCARDS) and #host <= MOST_HOST then
        local at = find(host, ".", 1, true)
        while at do
            local wildcard = "*" .. sub(host, at)
            value = dictionary:get(wildcard)
            if value then
                found, source = at_host(wildcard, value, reads_freely)
                if found then
                    return found, source
                end
            end
            at = find(host, ".", at + 1, true)
        end
    end
    if last then
        return at_host(WILDCARD, last, reads_freely)
    end
    return nil
end

-- Returns what `routes.find` does. `value`: the host's own entry, or nil; `wanted`: its `target`.
function _M.find(host, value, wanted, is_loaded)
    target, literal, free = wanted, nil, nil
    local found, source = choose(host, value, is_loaded, false)
    if literal ~= free and not (free and select(2, choose(host, value, is_loaded, true)) == source) then
        return nil, host, host, true
    end
    if not found then
        return nil, host, host
    end
    local slash = find(source, "/", 1, true)
    return found, source, slash and host .. sub(source, slash) or host
end

return _M
