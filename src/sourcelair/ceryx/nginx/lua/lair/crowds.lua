-- The crowds: for each host, who waits for it in this worker, and the ticker that wakes them.
--
-- A crowd stands until nobody waits, no place of its window is taken and no body is being read; while it stands,
-- newcomers go through its window too.

local calls = require "lair.calls"
local changes = require "lair.changes"
local config = require "lair.config"
local records = require "lair.records"
local windows = require "lair.windows"
local workers = require "lair.workers"

local shared = ngx.shared.lair_gate
local state = ngx.shared.lair_state

local TICK = 0.001           -- seconds between two looks at what changed
local SWEEP = 0.02           -- seconds between two looks at everything: places, calls that are due

local hosts = records.hosts

local _M = {}

local ticking, seen, held = false, 0, 0

function _M.node()
    return state:get("node") or ""
end

local function wake(crowd)
    windows.scatter(crowd)
    for record in pairs(crowd.waiting) do
        record.semaphore:post(1)
    end
end

-- Sees to it that the waker is being called for this crowd, if it wants that.
function _M.ask(crowd)
    local wanted, now = crowd.wanted, ngx.now()
    if wanted and now >= crowd.ask_at then
        crowd.ask_at = now + calls.ensure(crowd.host, wanted.waker, wanted.order)
    end
end

local function sweep(now)
    for _, crowd in pairs(hosts) do
        windows.sweep(crowd, now)
        _M.ask(crowd)
        _M.drop_if_empty(crowd.host)
    end
    calls.renew(now)
end

local function look(now, sweep_at)
    local number, changed = changes.since(seen)
    seen = number
    if changed then
        for _, host in ipairs(changed) do
            if hosts[host] then
                hosts[host].ask_at = 0
                wake(hosts[host])
            end
        end
    else
        for _, crowd in pairs(hosts) do
            crowd.ask_at = 0
            wake(crowd)
        end
    end
    if now < sweep_at then
        return sweep_at
    end
    sweep(now)
    return now + SWEEP
end

local function wake_all()
    for _, crowd in pairs(hosts) do
        wake(crowd)
    end
end

local function tick()
    local sweep_at = 0
    while next(hosts) or calls.active > 0 do
        ngx.sleep(TICK)
        local ok, result = pcall(look, ngx.now(), sweep_at)
        if ok then
            sweep_at = result
        else
            ngx.log(ngx.CRIT, "ticker: ", result)
        end
        if ngx.worker.exiting() then
            wake_all()
        end
    end
    ticking = false
end

local function start_ticker()
    if ticking then
        return
    end
    ticking, seen = true, changes.last()
    local ok, reason = ngx.timer.at(0, tick)
    if not ok then
        ticking = false
        ngx.log(ngx.CRIT, "no timer for the ticker: ", reason)
    end
end

-- Returns how many are held by other workers under a name, those of dead workers left out.
local function held_elsewhere(name)
    local sum = 0
    for number = 1, workers.count() do
        if number ~= workers.number then
            local count = shared:get("held:" .. number .. name)
            if count and count > 0 and workers.is_alive(number) then
                sum = sum + count
            end
        end
    end
    return sum
end

local function publish(crowd)
    local name = "held:" .. workers.number .. ":" .. crowd.host
    if crowd.count > 0 then
        shared:set(name, crowd.count)
    else
        shared:delete(name)
    end
    shared:set("held:" .. workers.number, held)
end

local function crowd_of(host)
    local crowd = hosts[host]
    if not crowd then
        crowd = { host = host, waiting = {}, count = 0, uploads = 0, ask_at = 0 }
        windows.open(crowd)
        hosts[host] = crowd
    end
    start_ticker()
    return crowd
end

-- Makes a record one of those that wait for its host, and returns the crowd; nil when too many wait already.
function _M.join(record)
    local crowd = crowd_of(record.host)
    if crowd.count + 1 > config.held_per_host - held_elsewhere(":" .. record.host)
        or held + 1 > config.held_total - held_elsewhere("") then
        return nil
    end
    crowd.waiting[record] = true
    crowd.count, held = crowd.count + 1, held + 1
    record.crowd = crowd
    publish(crowd)
    return crowd
end

function _M.stop_waiting(record)
    local crowd = record.crowd
    if crowd then
        record.crowd, record.queued = nil, false
        crowd.waiting[record] = nil
        crowd.count, held = crowd.count - 1, held - 1
        publish(crowd)
    end
end

function _M.begin_upload(record, crowd)
    crowd.uploads = crowd.uploads + 1
    record.uploading = crowd
end

function _M.end_upload(record)
    local crowd = record.uploading
    if crowd then
        record.uploading = nil
        crowd.uploads = crowd.uploads - 1
    end
end

function _M.drop_if_empty(host)
    local crowd = hosts[host]
    if crowd and crowd.count == 0 and crowd.used == 0 and crowd.uploads == 0 then
        hosts[host] = nil
    end
end

return _M
