-- How many requests every instance was sent, and how many have ended: two numbers that only grow, per worker. What is in
-- flight is the difference, so whoever reads `ended` before `started` can never read too few.
--
-- Each worker writes only its own numbers. What a dead one had in flight is over; what it sent stays in the totals.

local dictionary = ngx.shared.lair_counts
local config = require "lair.config"
local workers = require "lair.workers"

-- What is counted apart. IDLE: a stream that keeps nothing awake by being open; with ROBOT too it is no open robot,
-- so that nothing is taken off twice.
local ROBOT, STREAM, IDLE = 1, 2, 4

local _M = { ROBOT = ROBOT, STREAM = STREAM, IDLE = IDLE }

local function key(number, kind, instance)
    return number .. kind .. instance
end

-- Adds one to a number of this worker, and makes the pair when it is the first. Returns false when there is no room:
-- a request that can't be counted must not be sent.
local function add_first(started, ended)
    local ok, reason = dictionary:safe_add(ended, 0)
    if not ok and reason ~= "exists" then
        return false
    end
    ok, reason = dictionary:safe_add(started, 1)
    if not ok and reason == "exists" then
        return dictionary:incr(started, 1) ~= nil
    end
    return ok
end

local function keys_of(entry)
    local number, instance = workers.number, entry.instance
    entry.started, entry.ended = key(number, ":s:", instance), key(number, ":e:", instance)
    return entry.started
end

-- Counts a request that is about to be sent. `bits`: ROBOT, STREAM, IDLE. Returns whether there was room for that.
function _M.start(entry, bits)
    if not entry.instance then
        return true
    end
    local started = entry.started or keys_of(entry)
    if not dictionary:incr(started, 1) and not add_first(started, entry.ended) then
        return false
    end
    if bits % 2 == ROBOT then
        add_first(key(workers.number, ":rs:", entry.instance), key(workers.number, ":re:", entry.instance))
    end
    return true
end

-- Counts a stream whose answer has begun: before that it is a request like any other, which nobody may cut. Returns
-- the bits under which it is counted from now on.
function _M.begin_stream(entry, bits)
    if not entry.instance then
        return bits
    end
    local number, instance = workers.number, entry.instance
    -- Idle are taken off what is in flight by whoever reads: what has no room for that is not.
    if bits >= IDLE and not add_first(key(number, ":is:", instance), key(number, ":ie:", instance)) then
        bits = bits - IDLE
    end
    if bits >= IDLE and bits % 2 == ROBOT then
        dictionary:incr(key(number, ":re:", instance), 1)
    end
    add_first(key(number, ":ss:", instance), key(number, ":se:", instance))
    return bits
end

-- Takes a count back: the request was not sent after all.
function _M.undo(entry, bits)
    if not entry.instance then
        return
    end
    dictionary:incr(entry.started, -1)
    if bits % 2 == ROBOT then
        dictionary:incr(key(workers.number, ":rs:", entry.instance), -1)
    end
end

-- Counts the end of a request that was sent. `is_stream`: it had begun as a stream.
function _M.finish(entry, bits, is_stream)
    if not entry.instance then
        return
    end
    local is_idle = is_stream and bits >= IDLE
    if is_idle then
        dictionary:incr(key(workers.number, ":ie:", entry.instance), 1)
    end
    dictionary:incr(entry.ended, 1)
    if bits == 0 then
        return
    end
    if bits % 2 == ROBOT and not is_idle then
        dictionary:incr(key(workers.number, ":re:", entry.instance), 1)
    end
    if is_stream then
        dictionary:incr(key(workers.number, ":se:", entry.instance), 1)
    end
end

-- Returns what is open and what was ever sent, of one kind, by living workers and by dead ones.
local function sum(living, dead, instance, started_kind, ended_kind)
    local open, total = 0, dictionary:get(key(0, started_kind, instance)) or 0
    for _, number in ipairs(living) do
        local ended = dictionary:get(key(number, ended_kind, instance)) or 0
        local started = dictionary:get(key(number, started_kind, instance)) or 0
        open, total = open + started - ended, total + started
    end
    for _, number in ipairs(dead) do
        local started = dictionary:get(key(number, started_kind, instance))
        if started then
            total = total + started
            if not add_first(key(0, started_kind, instance), key(0, ended_kind, instance)) then
                break
            end
            dictionary:incr(key(0, started_kind, instance), started - 1)
            dictionary:delete(key(number, started_kind, instance))
            dictionary:delete(key(number, ended_kind, instance))
        end
    end
    return open, total
end

-- Returns how many idle streams of each worker had started, to be given to `idle_since` after everything else was read.
local function idle_started(living, instance)
    local started = {}
    for at, number in ipairs(living) do
        started[at] = dictionary:get(key(number, ":is:", instance)) or 0
    end
    return started
end

-- Returns how many idle streams were open all the time since `started` was read. Whoever takes them off what was in
-- flight meanwhile never gets too few: each of them was counted there.
local function idle_since(started, living, dead, instance)
    local open = 0
    for at, number in ipairs(living) do
        open = open + math.max(0, started[at] - (dictionary:get(key(number, ":ie:", instance)) or 0))
    end
    for _, number in ipairs(dead) do
        dictionary:delete(key(number, ":is:", instance))
        dictionary:delete(key(number, ":ie:", instance))
    end
    return open
end

local function census()
    local living, dead = {}, {}
    for number = 1, workers.count() do
        local list = workers.is_alive(number) and living or dead
        list[#list + 1] = number
    end
    local orphans = 0
    for _, orphan in ipairs(config.orphans) do
        if workers.process_lives(orphan[1], orphan[2]) then
            orphans = orphans + 1
        end
    end
    return living, dead, orphans
end

-- Returns {in flight, streams, total, robots, robots in flight, idle streams} for each instance. Called under the
-- control lock.
-- A worker of an earlier master that still runs may hold a request to any instance: it counts as one in flight.
function _M.read(instances)
    local living, dead, orphans = census()
    local found = {}
    for at, instance in ipairs(instances) do
        local idle = idle_started(living, instance)
        if config.stall > 0 then
            config.linger()
        end
        local open, total = sum(living, dead, instance, ":s:", ":e:")
        local streams = sum(living, dead, instance, ":ss:", ":se:")
        local robots_open, robots = sum(living, dead, instance, ":rs:", ":re:")
        if config.stall > 0 then
            config.linger()
        end
        found[at] = { open + orphans, streams, total, robots, robots_open, idle_since(idle, living, dead, instance) }
    end
    return found
end

-- Drops the counts of instances that have nothing in flight, and returns which. Called under the control lock, and for
-- instances without a route only: so what is not in flight now will not be.
function _M.forget(instances)
    local living, dead, orphans = census()
    local forgotten = {}
    for _, instance in ipairs(instances) do
        if orphans + sum(living, dead, instance, ":s:", ":e:") == 0 then
            for number = 0, workers.count() do
                -- What has ended goes first: a worker that begins to count meanwhile, and takes it back, makes both anew.
                for _, kind in ipairs { ":e:", ":s:", ":re:", ":rs:", ":se:", ":ss:", ":ie:", ":is:" } do
                    dictionary:delete(key(number, kind, instance))
                end
            end
            forgotten[#forgotten + 1] = instance
        end
    end
    return forgotten
end

return _M
