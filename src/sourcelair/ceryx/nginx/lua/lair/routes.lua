-- The route table: a source (a host, or `host/path`) maps to a value of one fixed length, so that every change overwrites
-- in place. (`safe_set` of a longer value into a full table would remove the old one.) What has no fixed length lies in
-- `details`.
--
-- Value, by bytes: state 1, flags 1, revision 16, port 5, waker 4, address 39, instance 64.

local dictionary = ngx.shared.lair_routes
local details = ngx.shared.lair_details
local matches = require "lair.matches"
local state = ngx.shared.lair_state

local sub = string.sub
local byte = string.byte
local format = string.format
local tonumber = tonumber

local WILDCARD = matches.WILDCARD
local DELETED = matches.DELETED
local ENFORCE_HTTPS, TLS, OWN = 1, 2, 4
local PATHS = matches.PATHS    -- the first of the flags that the table keeps itself, see below.lua
local FLAGS = 64             -- added to the flags, so that they are a printable character
local MOST_PARSED = 20000    -- parsed values that a worker keeps

local _M = { ENFORCE_HTTPS = ENFORCE_HTTPS, TLS = TLS, OWN = OWN, PATHS = PATHS, WILDCARD = WILDCARD }

local parsed, parsed_count = {}, 0
local loaded = false

local function trimmed(text)
    local last = string.find(text, " ", 1, true)
    return last and sub(text, 1, last - 1) or text
end

-- Returns the value of an entry: `kind` is L(ive), N(ull), R(edirect), U(nresolved) or D(eleted).
function _M.encode(kind, flags, revision, port, waker, address, instance)
    return format("%s%s%016d%05d%04d%-39s%-64s", kind, string.char(FLAGS + flags), revision, port, waker, address,
        instance)
end

-- Returns a new entry for a value.
function _M.decode(value)
    local flags = byte(value, 2) - FLAGS
    local address = trimmed(sub(value, 28, 66))
    local instance = trimmed(sub(value, 67, 130))
    return {
        value = value,
        kind = sub(value, 1, 1),
        enforce_https = flags % 2 == 1,
        tls = flags % OWN >= TLS,
        own = flags % PATHS >= OWN,    -- the route has settings of its own, see settings.lua
        flags = flags,
        revision = tonumber(sub(value, 3, 18)),
        port = tonumber(sub(value, 19, 23)),
        waker = tonumber(sub(value, 24, 27)),
        raw_address = address,
        address = address:find(":", 1, true) and "[" .. address .. "]" or address,
        instance = instance ~= "" and instance or nil,
    }
end

-- Returns the entry that a value stands for. It is kept by the value itself, so it needs no invalidation.
function _M.parse(value)
    local entry = parsed[value]
    if entry then
        return entry
    end
    if parsed_count >= MOST_PARSED then
        parsed, parsed_count = {}, 0
    end
    entry = _M.decode(value)
    parsed[value] = entry
    parsed_count = parsed_count + 1
    return entry
end

function _M.is_loaded()
    if not loaded then
        loaded = state:get("loaded") == true
    end
    return loaded
end

function _M.raw(host)
    return dictionary:get(host)
end

-- Returns the value that counts for a request; the source under which it stands; and the name by which a waker knows what
-- was asked for: the host, and the prefix of a path's route. nil where there is none; then a fourth value tells whether
-- the path has several readings, which lead to different routes. `target`: the request target, the current one if nil.
function _M.find(host, target)
    local value = dictionary:get(host)
    if value then
        local kind, flags = byte(value, 1, 2)
        if flags % 32 >= PATHS then
            return matches.find(host, value, target, _M.is_loaded())
        end
        if kind ~= DELETED then
            return value, host, host
        end
    end
    if loaded or _M.is_loaded() then
        value = dictionary:get(WILDCARD)
        if value then
            local kind, flags = byte(value, 1, 2)
            if flags % 32 >= PATHS then
                return matches.find(host, nil, target, true)
            end
            if kind ~= DELETED then
                return value, WILDCARD, host
            end
        end
    end
    return nil, host, host
end

-- Returns what `find` does, for a name that it gave.
function _M.find_named(name)
    local slash = string.find(name, "/", 1, true)
    if slash then
        return _M.find(sub(name, 1, slash - 1), sub(name, slash))
    end
    return _M.find(name, "/")
end

-- Returns the host of a source or a name.
function _M.host_of(source)
    local slash = string.find(source, "/", 1, true)
    return slash and sub(source, 1, slash - 1) or source
end

-- Returns location, problem, server name and own settings (as text) of a source; empty strings where there are none.
function _M.details(source)
    local text = details:get("d:" .. source)
    if not text then
        return "", "", "", ""
    end
    local location, problem, server_name, own = text:match("^([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)$")
    return ngx.unescape_uri(location), ngx.unescape_uri(problem), ngx.unescape_uri(server_name), own
end

return _M
