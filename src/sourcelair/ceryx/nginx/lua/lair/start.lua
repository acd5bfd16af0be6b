-- What NGINX runs when it starts: everything is loaded here, in the master, so that workers of another user need to
-- read no file.

local _M = {}

local MODULES = {
    "addresses", "answers", "balancer", "below", "calls", "cells", "changes", "config", "control", "counts", "crowds",
    "endings", "flows", "gate", "handover", "json", "lock", "matches", "page", "paths", "prefer", "prefixes", "quiet",
    "records", "request", "routes", "settings", "tables", "tombstones", "visitor", "wakers", "windows", "workers",
}

-- init_by_lua, in the master.
function _M.master(settings)
    require("lair.config").set(settings)
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
    require("lair.workers").register()
end

return _M
