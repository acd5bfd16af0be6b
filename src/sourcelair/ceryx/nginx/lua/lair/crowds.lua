-- The crowds: for each name, who waits for it in this worker, and the ticker that wakes them. A name is a host, or a host
-- and the prefix of a path's route (`routes.find` gives it).
--
-- A crowd stands until nobody waits and no place of its window is taken. While somebody waits, newcomers stand in line.

local semaphore = require "ngx.semaphore"
local calls = require "lair.calls"
local changes = require "lair.changes"
local config = require "lair.config"
local records = require "lair.records"
local routes = require "lair.routes"
local windows = require "lair.windows"
local workers = require "lair.workers"

local shared = ngx.shared.lair_gate
local state = ngx.shared.lair_state

local TICK = 0.001           -- seconds between two looks at what changed
local SWEEP = 0.02           -- seconds between two looks at everything: places, calls that are due

local crowds = records.crowds

local _M = {}

local with_paths = {}        -- crowd -> host, of those whose name has a prefix
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
        local pause, is_asked = calls.ensure(crowd.name, wanted.waker, wanted.order)
        crowd.ask_at = now + pause
        if is_asked then
            crowd.is_owed, crowd.asked_at = false, now
        end
    end
end

local function sweep(now)
    for _, crowd in pairs(crowds) do
        windows.sweep(crowd, now)
        _M.ask(crowd)
        _M.drop_if_empty(crowd.name)
    end
    calls.renew(now)
end

local function look_again(crowd)
    crowd.ask_at = 0
    wake(crowd)
end

-- Wakes all who wait for a host: a change of one of its routes may have given any of them another.
local function look_at(host)
    if crowds[host] then
        look_again(crowds[host])
    end
    for crowd, its_host in pairs(with_paths) do
        if its_host == host then
            look_again(crowd)
        end
    end
end

-- Wakes those whose host changed. What was changed in this worker need not wait for the ticker.
function _M.look()
    if not ticking then
        return
    end
    local number, changed = changes.since(seen)
    seen = number
    if changed then
        for _, source in ipairs(changed) do
            look_at(routes.host_of(source))
        end
    else
        for _, crowd in pairs(crowds) do
            look_again(crowd)
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
    for _, crowd in pairs(crowds) do
        wake(crowd)
    end
end

local function tick()
    local sweep_at = 0
    while next(crowds) or calls.active > 0 do
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
    local name = ":" .. crowd.name
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

-- Returns the crowd of a name, a new one where none stands.
function _M.of(name)
    local crowd = crowds[name]
    if not crowd then
        crowd = { name = name, waiting = {}, count = 0, bytes = 0, ask_at = 0 }
        windows.open(crowd)
        crowds[name] = crowd
        local host = routes.host_of(name)
        if host ~= name then
            with_paths[crowd] = host
        end
    end
    start_ticker()
    return crowd
end

-- Tells whether somebody waits for a name in this worker.
function _M.is_waited_for(name)
    return crowds[name] ~= nil and crowds[name].count > 0
end

-- Makes a record one of those that wait for its name, and returns the crowd; nil when too many wait already. `bytes`:
-- of its body, where that was read.
function _M.join(record, bytes)
    local crowd = _M.of(record.name)
    if is_full(crowd, ":" .. record.name, bytes, config.held_per_host, config.held_bytes_per_host)
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

-- Sees to it that a record waits for the name that it has now, since its request may have another route. Returns as `join`.
function _M.keep_with(record)
    if record.crowd.name == record.name then
        return record.crowd
    end
    local bytes, outcome = record.bytes, calls.outcome(record.name)
    _M.stop_waiting(record)
    windows.free(record)
    record.seen = outcome and outcome.id or 0
    record.first = record.seen
    return _M.join(record, bytes)
end

-- Wants the waker to be called with this order, unless what another wants is better: its address has no limit now.
function _M.want(crowd, waker, order)
    if not crowd.wanted or not calls.is_limited(crowd.name, order.address) then
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
function _M.ask_for(name, waker, order)
    local crowd = _M.of(name)
    crowd.is_owed = true
    _M.want(crowd, waker, order)
    _M.ask(crowd)
end

function _M.drop_if_empty(name)
    local crowd = crowds[name]
    if crowd and crowd.count == 0 and crowd.used == 0 and not crowd.is_owed then
        crowds[name], with_paths[crowd] = nil, nil
    end
end

return _M
