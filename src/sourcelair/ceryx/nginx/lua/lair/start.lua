-- What NGINX runs when it starts: everything is loaded here, in the master, so that workers of another user need to
-- read no file.

local _M = {}

local MODULES = {
    "addresses", "answers", "balancer", "below", "calls", "cells", "changes", "config", "control", "counts", "crowds",
    "endings", "flows", "gate", "handover", "json", "lock", "mapped", "matches", "page", "paths", "prefer", "prefixes", "quiet",
    "records", "request", "routes", "settings", "tables", "tombstones", "versions", "visitor", "wakers", "windows", "workers",
}

-- Shared memory outlives a reload, and so do the workers of before: none must come that would use it in another way. LAYOUT
-- changes with what is in there.
local LAYOUT = "1"

local function check_layout(sizes)
    local state, layout = ngx.shared.lair_state, LAYOUT .. " " .. sizes
    local known = state:get("layout")
    if not known and not state:get("workers") then
        assert(state:safe_set("layout", layout))
    else
        assert(known == layout, "NGINX can't be reloaded with another version or other sizes: start it anew")
    end
end

-- init_by_lua, in the master.
function _M.master(settings)
    require("lair.config").set(settings)
    check_layout(settings.sizes)
    for _, name in ipairs(MODULES) do
        require("lair." .. name)
    end
    -- What every request runs is found as a global: `require` is no Lua function, and LuaJIT compiles nothing around it.
    local balancer = require "lair.balancer"
    rawset(_G, "lair", { balance = balancer.run, finish = balancer.finish })
end

-- init_worker_by_lua.
function _M.worker()
    math.randomseed(ngx.worker.pid() + ngx.now() * 1000)
    require("lair.mapped").begin()
    require("lair.workers").register()
end

return _M
