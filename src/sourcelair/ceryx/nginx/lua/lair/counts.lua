-- How many requests every instance was sent, and how many have ended: two numbers that only grow, per worker. What is in
-- flight is the difference, so whoever reads `ended` before `started` can never read too few.
--
-- Each worker writes only its own numbers (see cells.lua). What a dead one had in flight is over; what it sent stays in the
-- totals.

local cells = require "lair.cells"
local config = require "lair.config"
local mapped = require "lair.mapped"
local workers = require "lair.workers"

local numbers = cells.numbers

-- What is counted apart. IDLE: a stream that keeps nothing awake by being open; with ROBOT too it is no open robot,
-- so that nothing is taken off twice.
local ROBOT, STREAM, IDLE = 1, 2, 4

-- Where in a cell the pairs lie: how many began, and after it how many have ended.
local ALL, ROBOTS, STREAMS, IDLES = 0, 2, 4, 6

local _M = { ROBOT = ROBOT, STREAM = STREAM, IDLE = IDLE }

local era = cells.era()

local function add(at, amount)
    numbers[at] = numbers[at] + amount
end

-- Finds where this worker counts the requests to an entry's instance. Returns whether there is room for that.
local function find_cell(entry)
    local row = cells.own_row()
    local column = row and (cells.column(entry.instance) or cells.new_column(entry.instance))
    if not column then
        return false
    end
    entry.cell, entry.era = cells.at(row, column), era
    return true
end

-- Tells whether this worker knows where requests to an entry's instance are counted.
function _M.has_place(entry)
    return not entry.instance or entry.era == cells.era()
end

-- Counts a request that is about to be sent. `bits`: ROBOT, STREAM, IDLE. Returns whether there was room for that: a
-- request that can't be counted must not be sent.
--
-- Here and below: whoever reads takes robots and streams off all requests. What is to be taken off is never seen without
-- what it is taken off from, so it is written later when it begins, and earlier when it ends.
function _M.start(entry, bits)
    era = cells.era()
    if not entry.instance then
        return true
    end
    if entry.era ~= era and not find_cell(entry) then
        return false
    end
    local cell = entry.cell
    add(cell + ALL, 1)
    if bits % 2 == ROBOT then
        mapped.barrier()
        add(cell + ROBOTS, 1)
    end
    return true
end

-- Tells whether what was counted last went to the right instance. To be asked after the second look at the route: its
-- instance may have been forgotten before that, and another one may be counted there now.
function _M.is_right()
    return cells.era() == era
end

-- Counts a stream whose answer has begun: before that it is a request like any other, which nobody may cut.
function _M.begin_stream(entry, bits)
    if not entry.instance then
        return
    end
    if bits >= IDLE then
        if bits % 2 == ROBOT then
            add(entry.cell + ROBOTS + 1, 1)
            mapped.barrier()
        end
        add(entry.cell + IDLES, 1)
    end
    add(entry.cell + STREAMS, 1)
end

-- Takes a count back: the request was not sent after all.
function _M.undo(entry, bits)
    if not entry.instance then
        return
    end
    if bits % 2 == ROBOT then
        add(entry.cell + ROBOTS, -1)
        mapped.barrier()
    end
    add(entry.cell + ALL, -1)
end

-- Counts the end of a request that was sent. `is_stream`: it had begun as a stream.
function _M.finish(entry, bits, is_stream)
    if not entry.instance then
        return
    end
    local cell = entry.cell
    if bits ~= 0 then
        local is_idle = is_stream and bits >= IDLE
        if is_idle then
            add(cell + IDLES + 1, 1)
        end
        if bits % 2 == ROBOT and not is_idle then
            add(cell + ROBOTS + 1, 1)
        end
        if is_stream then
            add(cell + STREAMS + 1, 1)
        end
        mapped.barrier()
    end
    add(cell + ALL + 1, 1)
end

-- Returns the sum of one number of all rows: those of dead workers too, whose requests are still in the totals.
local function sum(column, kind, rows)
    local all = 0
    for row = 0, rows do
        all = all + numbers[cells.at(row, column) + kind]
    end
    return all
end

-- Returns one number of each worker's row.
local function each(column, kind, rows)
    local list = {}
    for row = 1, rows do
        list[row] = numbers[cells.at(row, column) + kind]
    end
    return list
end

-- Returns how many idle streams were open all the time since `began` was read, by `each`. Whoever takes them off what was
-- in flight meanwhile never gets too few: each of them was counted there.
local function idle_since(began, column)
    local open = 0
    for row, number in ipairs(began) do
        open = open + math.max(0, number - numbers[cells.at(row, column) + IDLES + 1])
    end
    return open
end

-- Between two readings, of which the second must not come first.
local function pass()
    config.linger()
    mapped.barrier()
end

-- Returns how many workers of an earlier master still run: each may hold a request to any instance.
local function orphans()
    local number = 0
    for _, orphan in ipairs(config.orphans) do
        if workers.process_lives(orphan[1], orphan[2]) then
            number = number + 1
        end
    end
    return number
end

-- What is read in which order: see `start`.
local ENDED, BEGAN = { ALL + 1, ROBOTS + 1, STREAMS + 1 }, { ROBOTS, STREAMS, ALL }

-- Reads these numbers of all columns. Returns a list of tables with their sums; nil for those that are no column.
local function read(kinds, columns, rows)
    local found = {}
    for at, column in ipairs(columns) do
        local sums = column and {} or nil
        for _, kind in ipairs(sums and kinds or {}) do
            sums[kind] = sum(column, kind, rows)
        end
        found[at] = sums
    end
    return found
end

-- Returns {in flight, streams, total, robots, robots in flight, idle streams} for each instance. Called under the
-- control lock. A worker that begins after the rows were counted sees every change that was made before.
-- A worker of an earlier master that still runs may hold a request to any instance: it counts as one in flight.
function _M.read(instances)
    cells.reap()
    local rows, orphaned, columns, idle_began = cells.rows(), orphans(), {}, {}
    for at, instance in ipairs(instances) do
        columns[at] = cells.column(instance) or false
        idle_began[at] = columns[at] and each(columns[at], IDLES, rows)
    end
    pass()
    local ended = read(ENDED, columns, rows)
    pass()
    local began = read(BEGAN, columns, rows)
    pass()
    local found = {}
    for at, column in ipairs(columns) do
        local b, e = began[at], ended[at]
        found[at] = not column and { orphaned, 0, 0, 0, 0, 0 } or {
            b[ALL] - e[ALL + 1] + orphaned, b[STREAMS] - e[STREAMS + 1], b[ALL], b[ROBOTS], b[ROBOTS] - e[ROBOTS + 1],
            idle_since(idle_began[at], column),
        }
    end
    return found
end

-- Drops the counts of instances that have nothing in flight, and returns which. Called under the control lock, and for
-- instances without a route only: so what is not in flight now will not be.
function _M.forget(instances)
    cells.reap()
    local rows, forgotten = cells.rows(), {}
    if orphans() > 0 then
        return forgotten
    end
    for _, instance in ipairs(instances) do
        local column = cells.column(instance)
        local ended = column and sum(column, ALL + 1, rows)
        mapped.barrier()
        if not column or sum(column, ALL, rows) == ended then
            forgotten[#forgotten + 1] = instance
        end
    end
    cells.give_back(forgotten)
    return forgotten
end

return _M
