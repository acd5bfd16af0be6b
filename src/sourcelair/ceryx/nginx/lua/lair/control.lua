-- The control socket: how the agent changes and reads this NGINX. Lines of fields with tabs between them.
--
-- Every change names its agent's session; those of older sessions are refused with 409, so that a killed agent's last
-- change can't land behind its successor's.

local config = require "lair.config"
local counts = require "lair.counts"
local crowds = require "lair.crowds"
local flows = require "lair.flows"
local lock = require "lair.lock"
local changes = require "lair.changes"
local tables = require "lair.tables"
local tombstones = require "lair.tombstones"
local workers = require "lair.workers"

local state = ngx.shared.lair_state

local BURIED_AT_ONCE = 500   -- tombstones cleared away whenever the agent looks: less than a millisecond, often

local _M = {}

local function body()
    ngx.req.read_body()
    local data = ngx.req.get_body_data()
    if data then
        return data
    end
    local path = ngx.req.get_body_file()
    if not path then
        return ""
    end
    local file = assert(io.open(path, "rb"))
    data = file:read("*a")
    file:close()
    return data
end

local function lines(text)
    local list = {}
    for line in text:gmatch("[^\n]+") do
        list[#list + 1] = line
    end
    return list
end

-- Returns how many connections clients have open, but for the one that asks; "" where NGINX was built without a count.
local function connections()
    local active = tonumber(ngx.var.connections_active)
    return active and math.max(0, active - 1) or ""
end

local ACTIONS = {}

function ACTIONS.hello()
    tombstones.bury(BURIED_AT_ONCE)
    return 200, table.concat({
        config.generation, state:get("loaded") and "1" or "0", tables.count(), tables.capacity(), crowds.held(),
        connections(),
    }, "\t")
end

function ACTIONS.apply(text)
    local full = tables.apply(text)
    return full and 507 or 200, full or ""
end

function ACTIONS.read(text)
    return 200, tables.read(text)
end

function ACTIONS.oldest(text)
    return 200, table.concat(tables.oldest(tonumber(text)), "\n")
end

function ACTIONS.loaded(text)
    local node, waker, token = text:match("^([^\t]*)\t([^\t]*)\t([^\t\n]*)$")
    for name, value in pairs { ["node"] = node, ["own waker"] = waker, ["waker token"] = token } do
        if value == "" then
            state:delete(name)
        else
            assert(state:safe_set(name, value))
        end
    end
    assert(state:safe_set("loaded", true))
    changes.announce_all()
    return 200, ""
end

function ACTIONS.counts(text)
    local found = counts.read(lines(text))
    for at, numbers in ipairs(found) do
        found[at] = table.concat(numbers, "\t")
    end
    return 200, table.concat(found, "\n")
end

function ACTIONS.flows()
    return 200, table.concat(flows.read(), "\n")
end

function ACTIONS.forget(text)
    return 200, table.concat(counts.forget(lines(text)), "\n")
end

local function act(action, session, text)
    local newest = state:get("session") or 0
    if session < newest then
        return 409, tostring(newest)
    end
    if session > newest then
        assert(state:safe_set("session", session))
    end
    return action(text)
end

-- content_by_lua of the control server.
function _M.serve()
    if workers.number == 0 then
        return ngx.exit(503)    -- it could not register: to others its lock is a dead one's
    end
    local action = ACTIONS[ngx.var.uri:sub(2)]
    local session = tonumber(ngx.var.http_lair_session)
    if not action or not session then
        return ngx.exit(404)
    end
    local status, answer = lock.with(act, action, session, body())
    crowds.look()
    ngx.status = status
    ngx.header["Content-Length"] = #answer
    ngx.print(answer)
end

return _M
