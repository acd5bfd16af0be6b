-- What deleted routes leave: an entry without a target, whose revision keeps an older change from bringing them back. It
-- is cleared away after some time, unless it says of its host that there are more specific routes.

local matches = require "lair.matches"
local versions = require "lair.versions"

local dictionary = ngx.shared.lair_routes
local details = ngx.shared.lair_details

local KEEP = 600             -- seconds

local _M = {}

-- Has a tombstone cleared away once it is old enough.
function _M.bury_later(source)
    details:rpush("tombstones", ngx.time() + KEEP .. " " .. source)
end

-- Clears away tombstones that are old enough, at most so many.
function _M.bury(most)
    for _ = 1, most do
        local oldest = details:lpop("tombstones")
        if not oldest then
            return
        end
        local due, source = oldest:match("^(%d+) (.*)$")
        if tonumber(due) > ngx.time() then
            details:lpush("tombstones", oldest)
            return
        end
        local value = dictionary:get(source)
        if value and matches.is_deleted(value) and not matches.tells(value) then
            versions.delete(source)
        end
    end
end

return _M
