-- Changes of the route table, in the words of the control socket. Everything here runs under the lock.

local below = require "lair.below"
local changes = require "lair.changes"
local routes = require "lair.routes"
local tombstones = require "lair.tombstones"
local versions = require "lair.versions"
local wakers = require "lair.wakers"

local dictionary = ngx.shared.lair_routes
local details = ngx.shared.lair_details
local state = ngx.shared.lair_state

local KINDS = { live = "L", null = "N", redirect = "R", unresolved = "U", deleted = "D" }
local STATES = { L = "live", N = "null", R = "redirect", U = "unresolved", D = "deleted" }
local BURIED_PER_CHANGE = 2  -- tombstones cleared away for each change that is applied
local MANY = 200             -- changes that are announced one by one; more are announced as "anything"
-- Bytes that an entry takes at most, with the longest source (300 characters); a short one takes 256. The first path of a
-- host without a route of its own takes two.
local MOST_PER_ROUTE = 512

local MARKER = routes.encode("D", 0, 0, 0, wakers.NONE, "", "")

local _M = {}

local function split(line)
    local fields, at = {}, 1
    while true do
        local tab = line:find("\t", at, true)
        fields[#fields + 1] = line:sub(at, tab and tab - 1)
        if not tab then
            return fields
        end
        at = tab + 1
    end
end

-- Sets what has no fixed length. Returns false when there is no room: then it is as it was.
local function set_details(source, location, problem, server_name, own)
    local key = "d:" .. source
    if location == "" and problem == "" and server_name == "" and own == "" then
        details:delete(key)
        return true
    end
    local text = table.concat({ location, problem, server_name, own }, "\t")
    local old = details:get(key)
    if text == old then
        return true
    end
    if details:safe_set(key, text) then
        return true
    end
    if old then  -- `safe_set` has removed it
        details:safe_set(key, old)
    end
    return false
end

-- Applies one line: source, state, revision, flags, port, waker, address, instance, location, problem, server name, own
-- settings. Returns false when there is no room.
local function apply_entry(fields, numbers)
    local source, kind, revision = fields[1], KINDS[fields[2]], tonumber(fields[3])
    local old = dictionary:get(source)
    if old and tonumber(old:sub(3, 18)) > revision then
        return true
    end
    local waker = fields[6] == "" and wakers.NONE or numbers[fields[6]]
    if not waker then
        return false
    end
    local flags = tonumber(fields[4]) + (fields[12] ~= "" and routes.OWN or 0)
    if not set_details(source, fields[9], fields[10], fields[11], fields[12]) then
        if kind ~= "N" or not old then
            return false
        end
        -- What takes a target off is never refused: there it must go without the settings that have no room.
        details:delete("d:" .. source)
        flags = flags - routes.OWN
    end
    local was, is = old ~= nil and old:sub(1, 1) ~= "D", kind ~= "D"
    if is and not was then
        if not below.add(source, MARKER) then
            details:delete("d:" .. source)
            return false
        end
    end
    flags = flags + below.flags(source, old)
    local value = routes.encode(kind, flags, revision, tonumber(fields[5]), waker, fields[7], fields[8])
    if not versions.set(source, value) then
        -- A deletion of what is not there needs no room: there is nothing to take off.
        if not old then
            details:delete("d:" .. source)
        end
        if is and not was then
            below.remove(source)
        end
        return kind == "D" and not old
    end
    if was ~= is then
        state:incr("routes", is and 1 or -1, 0)
    end
    if was and not is then
        below.remove(source)
    end
    if not is and (was or not old) then
        tombstones.bury_later(source)
    end
    return true
end

-- Applies a batch in order. Lines that begin with W name wakers: W, url, address, port. Returns nil, or the source for
-- which there was no room; what came before it was applied.
function _M.apply(body)
    local numbers, sources = {}, {}
    local full
    local anything = false
    for line in body:gmatch("[^\n]+") do
        local fields = split(line)
        if fields[1] == "W" then
            local number, moved = wakers.number(fields[2], fields[3], fields[4])
            numbers[fields[2]] = number
            anything = anything or moved
        elseif apply_entry(fields, numbers) then
            sources[#sources + 1] = fields[1]
        else
            full = fields[1]
            break
        end
    end
    -- More than were added: else they pile up, and hold the room of routes that could be there.
    tombstones.bury(BURIED_PER_CHANGE * #sources)
    if anything or #sources > MANY then
        changes.announce_all()
    else
        for _, source in ipairs(sources) do
            changes.announce(source)
        end
    end
    return full
end

-- Returns one line per source of the body: state, revision, flags, port, address, instance, waker's url, details;
-- an empty line where there is nothing.
function _M.read(body)
    local lines = {}
    for source in body:gmatch("[^\n]+") do
        local value = dictionary:get(source)
        if value then
            local entry = routes.decode(value)
            local waker = wakers.get(entry.waker)
            lines[#lines + 1] = table.concat({
                STATES[entry.kind], string.format("%.0f", entry.revision), entry.flags, entry.port, entry.raw_address,
                entry.instance or "", waker and waker.url or "", details:get("d:" .. source) or "\t\t\t",
            }, "\t")
        else
            lines[#lines + 1] = ""
        end
    end
    return table.concat(lines, "\n")
end

-- Returns the sources that were looked up longest ago, at most so many. A look makes them the newest, so that the next call
-- goes on from there: visitors wait for no more than one call's part of the table.
function _M.oldest(most)
    local sources = dictionary:get_keys(most)
    for _, source in ipairs(sources) do
        dictionary:get(source)
    end
    return sources
end

function _M.count()
    return state:get("routes") or 0
end

-- Returns how many routes fit for certain: those that are there, and as many long ones as the free pages hold. With
-- short hosts more fit; the number grows as they come.
function _M.capacity()
    return _M.count() + math.floor(dictionary:free_space() / MOST_PER_ROUTE)
end

return _M
