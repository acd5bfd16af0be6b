-- All writes of the route table, and how often each of its parts was written: a worker that remembers a route need not look
-- whether it is still the same while its part has the same version. An odd version: a write is under way, or whoever wrote
-- was killed.

local config = require "lair.config"
local mapped = require "lair.mapped"

local dictionary = ngx.shared.lair_routes

local PARTS = 4096

local versions = mapped.numbers("versions", PARTS)

local _M = {}

-- Returns the part in which a source is.
function _M.part_of(source)
    return ngx.crc32_short(source) % PARTS
end

function _M.of(part)
    return versions[part]
end

-- Writes are made under the control lock, so there is one at a time. The dictionary's own lock is the barrier between them.
local function begin(part)
    local version = versions[part]
    versions[part] = version + 1 - version % 2
    config.linger()
end

local function finish(part)
    config.linger()
    versions[part] = versions[part] + 1
end

-- Sets the entry of a source. Returns whether there was room.
function _M.set(source, value)
    local part = _M.part_of(source)
    begin(part)
    local ok = dictionary:safe_set(source, value)
    finish(part)
    return ok
end

function _M.delete(source)
    local part = _M.part_of(source)
    begin(part)
    dictionary:delete(source)
    finish(part)
end

return _M
