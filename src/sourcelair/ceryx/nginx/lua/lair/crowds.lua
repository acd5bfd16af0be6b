-- The crowds: for each host, who waits for it in this worker, and the ticker that wakes them.
--
-- A crowd stands until nobody waits and no place of its window is taken. While somebody waits, newcomers stand in line.

local semaphore = require "ngx.semaphore"
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

local ticking, seen = false, 0
local held = { count = 0, bytes = 0 }

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
    if not wanted then
        crowd.is_owed = false
    elseif now >= crowd.ask_at then
        local pause, is_asked = calls.ensure(crowd.host, wanted.waker, wanted.order)
        crowd.ask_at = now + pause
        if is_asked then
            crowd.is_owed, crowd.asked_at = false, now
        end
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

-- Wakes those whose host changed. What was changed in this worker need not wait for the ticker.
function _M.look()
    if not ticking then
        return
    end
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
end

local function look_and_sweep(now, sweep_at)
    _M.look()
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
        local ok, result = pcall(look_and_sweep, ngx.now(), sweep_at)
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

-- Returns how many (or how many bytes) other workers hold under a name, those of dead workers left out.
local function held_elsewhere(kind, name)
    local sum = 0
    for number = 1, workers.count() do
        if number ~= workers.number then
            local amount = shared:get(kind .. number .. name)
            if amount and amount > 0 and workers.is_alive(number) then
                sum = sum + amount
            end
        end
    end
    return sum
end

-- Returns how many requests are held on this node right now.
function _M.held()
    return held.count + held_elsewhere("held:", "")
end

local function publish_one(kind, name, amount)
    if amount > 0 then
        shared:set(kind .. workers.number .. name, amount)
    else
        shared:delete(kind .. workers.number .. name)
    end
end

local function publish(crowd, bytes)
    local name = ":" .. crowd.host
    publish_one("held:", name, crowd.count)
    publish_one("held:", "", held.count)
    if bytes > 0 then
        publish_one("bytes:", name, crowd.bytes)
        publish_one("bytes:", "", held.bytes)
    end
end

-- Tells whether there is no room for one more, or for its body. A single body may have any size: it lies on the disk
-- already.
local function is_full(here, name, bytes, most, most_bytes)
    if here.count + 1 > most - held_elsewhere("held:", name) then
        return true
    end
    if bytes == 0 then
        return false
    end
    local others = here.bytes + held_elsewhere("bytes:", name)
    return others > 0 and others + bytes > most_bytes
end

-- Returns the crowd of a host, a new one where none stands.
function _M.of(host)
    local crowd = hosts[host]
    if not crowd then
        crowd = { host = host, waiting = {}, count = 0, bytes = 0, ask_at = 0 }
        windows.open(crowd)
        hosts[host] = crowd
    end
    start_ticker()
    return crowd
end

-- Tells whether somebody waits for a host in this worker.
function _M.is_waited_for(host)
    return hosts[host] ~= nil and hosts[host].count > 0
end

-- Makes a record one of those that wait for its host, and returns the crowd; nil when too many wait already. `bytes`:
-- of its body, where that was read.
function _M.join(record, bytes)
    local crowd = _M.of(record.host)
    if is_full(crowd, ":" .. record.host, bytes, config.held_per_host, config.held_bytes_per_host)
        or is_full(held, "", bytes, config.held_total, config.held_bytes_total) then
        return nil
    end
    record.semaphore = record.semaphore or semaphore.new()
    record.crowd, record.bytes = crowd, bytes
    crowd.waiting[record] = true
    crowd.count, held.count = crowd.count + 1, held.count + 1
    crowd.bytes, held.bytes = crowd.bytes + bytes, held.bytes + bytes
    publish(crowd, bytes)
    return crowd
end

function _M.stop_waiting(record)
    local crowd, bytes = record.crowd, record.bytes
    if crowd then
        record.crowd, record.queued = nil, false
        crowd.waiting[record] = nil
        crowd.count, held.count = crowd.count - 1, held.count - 1
        crowd.bytes, held.bytes = crowd.bytes - bytes, held.bytes - bytes
        publish(crowd, bytes)
    end
end

-- Wants the waker to be called with this order, unless what another wants is better: its address has no limit now.
function _M.want(crowd, waker, order)
    if not crowd.wanted or not calls.is_limited(crowd.host, order.address) then
        crowd.wanted = { waker = waker, order = order }
    end
end

-- Sees to it that the waker is asked though a record stops waiting, where that was not done since it came.
function _M.owe(crowd, record)
    if crowd.wanted and (crowd.asked_at or 0) < record.joined then
        crowd.is_owed = true
        _M.ask(crowd)
    end
end

-- Asks the waker for somebody who does not wait for it: now, or once the pause after the last call is over.
function _M.ask_for(host, waker, order)
    local crowd = _M.of(host)
    crowd.is_owed = true
    _M.want(crowd, waker, order)
    _M.ask(crowd)
end

function _M.drop_if_empty(host)
    local crowd = hosts[host]
    if crowd and crowd.count == 0 and crowd.used == 0 and not crowd.is_owed then
        hosts[host] = nil
    end
end

return _M
