-- What a route says of itself beyond its target: how long its visitors are held, what is quiet, what its streams count
-- for, what is buffered. Few routes say anything; a flag in the entry tells which do, and their text lies in `details`.
--
-- Text: patience|wake_timeout|streams|strip|buffering|rule|rule…, a rule: wakes,path,method,agent,address,header,value.
-- What is empty is not said, and all between is percent-encoded.

local routes = require "lair.routes"

local MOST_KNOWN = 5000      -- parsed ones that a worker keeps

local _M = {}

local known, known_count = {}, 0

local function split(text, separator)
    local fields = {}
    for field in (text .. separator):gmatch("(.-)%" .. separator) do
        fields[#fields + 1] = field ~= "" and ngx.unescape_uri(field) or false
    end
    return fields
end

local function rule_of(text)
    local wakes, path, method, agent, address, header, value = unpack(split(text, ","), 1, 7)
    return {
        wakes = wakes == "1", path = path, method = method, agent = agent, address = address, header = header,
        value = value,
    }
end

local function parse(text)
    local patience, wake_timeout, streams, strip, buffering, rest =
        text:match("^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)(.*)$")
    if not rest then  -- they are being taken off, and the entry is not changed yet
        return {}
    end
    local own = {
        patience = tonumber(patience), wake_timeout = tonumber(wake_timeout), streams = streams ~= "" and streams,
        strip = strip ~= "",    -- the prefix of its path is taken off
        buffering = buffering ~= "" and buffering or nil,
    }
    for rule in rest:gmatch("|([^|]*)") do
        own.rules = own.rules or {}
        table.insert(own.rules, rule_of(rule))
    end
    return own
end

-- Returns the settings of a source whose entry has the flag. They are known by the entry's value: its details are
-- written first, so who sees a new value sees the new details too. (Many sources may have one value.)
function _M.of(source, value)
    local own = known[source]
    if own and own.of == value then
        return own
    end
    if not own then
        if known_count >= MOST_KNOWN then
            known, known_count = {}, 0
        end
        known_count = known_count + 1
    end
    own = parse(select(4, routes.details(source)))
    own.of = value
    known[source] = own
    return own
end

return _M
