-- What a host's entry tells of routes that are more specific than its own, so that a look-up of the host alone says
-- whether there is more to look up: PATHS, there are routes for paths of it; WILDCARDS, on `$wildcard`: there are `*.`
-- hosts. A host without a route of its own gets a tombstone of revision 0 to tell it. Under the control lock.

local matches = require "lair.matches"
local tombstones = require "lair.tombstones"
local versions = require "lair.versions"

local dictionary = ngx.shared.lair_routes
local details = ngx.shared.lair_details

local byte, find, sub = string.byte, string.find, string.sub

local _M = {}

-- Returns the hosts that tell of a source, each with its flag.
local function tellers(source)
    local found = {}
    local slash = find(source, "/", 1, true)
    if slash then
        found[1] = { host = sub(source, 1, slash - 1), flag = matches.PATHS }
    end
    if byte(source) == byte("*") then
        found[#found + 1] = { host = matches.WILDCARD, flag = matches.WILDCARDS }
    end
    return found
end

local function count_key(teller)
    return "below:" .. teller.flag .. ":" .. teller.host
end

-- Notes that a teller has one more to tell of. Returns whether there is room.
local function raise(teller, marker)
    local key = count_key(teller)
    local count = details:get(key) or 0
    if not details:safe_set(key, count + 1) then
        return false
    end
    -- Whoever raised the count may have been killed before he wrote the flag: the entry itself says whether it has one.
    local value = dictionary:get(teller.host) or marker
    local told = matches.with(value, teller.flag, true)
    if told ~= value and not versions.set(teller.host, told) then
        details:delete(key)
        return false
    end
    return true
end

local function lower(teller)
    local key = count_key(teller)
    local count = (details:get(key) or 1) - 1
    if count > 0 then
        details:safe_set(key, count)
        return
    end
    details:delete(key)
    local value = matches.with(dictionary:get(teller.host), teller.flag, false)
    versions.set(teller.host, value)
    if matches.is_deleted(value) and not matches.tells(value) then
        if tonumber(sub(value, 3, 18)) == 0 then
            versions.delete(teller.host)
        else
            tombstones.bury_later(teller.host)
        end
    end
end

-- Notes that a source is about to have a route. `marker`: what a host without an entry gets. Returns whether there is
-- room; where there is none, nothing has changed.
function _M.add(source, marker)
    local raised = {}
    for _, teller in ipairs(tellers(source)) do
        if not raise(teller, marker) then
            for _, other in ipairs(raised) do
                lower(other)
            end
            return false
        end
        raised[#raised + 1] = teller
    end
    return true
end

-- Notes that a source has no route any more.
function _M.remove(source)
    for _, teller in ipairs(tellers(source)) do
        lower(teller)
    end
end

-- Returns the flags that a source's new entry takes over from its old one.
function _M.flags(source, value)
    return value and not find(source, "/", 1, true) and matches.tells(value) or 0
end

return _M
