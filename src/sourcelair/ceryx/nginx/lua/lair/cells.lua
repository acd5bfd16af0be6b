-- Numbers that every worker reads and only one writes: a row for each worker, a column for each instance, and in every
-- cell of that table the pairs of numbers that counts.lua keeps. It lies in mapped memory: a worker counts without a lock.
--
-- A row belongs to a worker until that is known to be dead; the next one goes on with the numbers it finds. A column belongs
-- to an instance until it is forgotten. Row 0 belongs to no worker: it makes a column's numbers begin at zero.

local config = require "lair.config"
local mapped = require "lair.mapped"
local workers = require "lair.workers"

local state = ngx.shared.lair_state
local columns = ngx.shared.lair_counts

local KINDS = 8                      -- numbers in a cell, 8 bytes each: a line of the processor's cache
-- In the dictionary, beside the instances, whose names have no blanks.
local NEXT, FREE = " next", " free"

local LAST_ROW, LAST_COLUMN = config.count_rows, config.count_columns
local WIDTH = (LAST_COLUMN + 1) * KINDS    -- numbers in a row

local numbers = mapped.numbers("cells", (LAST_ROW + 1) * WIDTH)
local own

local _M = { numbers = numbers }

-- Returns how many rows were ever given out: rows 1 to this.
function _M.rows()
    return math.min(state:get("rows") or 0, LAST_ROW)
end

-- Returns where the numbers of a cell begin.
function _M.at(row, column)
    return row * WIDTH + column * KINDS
end

local function take_row()
    for row = 1, LAST_ROW do
        if state:safe_add("row " .. row, workers.number) then
            while _M.rows() < row do
                state:incr("rows", 1, 0)
            end
            return row
        end
    end
    ngx.log(ngx.CRIT, "no room to count this worker's requests: too many workers of before are still ending")
    return nil
end

-- Returns this worker's row, or nil while all are taken.
function _M.own_row()
    if not own and workers.number > 0 then
        own = take_row()
    end
    return own
end

-- Makes the first number of each pair the second one too: what was open is over.
local function settle(row)
    local first = row * WIDTH
    for at = first, first + math.min(columns:get(NEXT) or 0, LAST_COLUMN) * KINDS + KINDS - 1, 2 do
        numbers[at + 1] = numbers[at]
    end
end

-- Takes the rows of dead workers back. Called under the control lock.
function _M.reap()
    for row = 1, _M.rows() do
        local number = state:get("row " .. row)
        if number and not workers.is_alive(number) then
            settle(row)
            state:delete("row " .. row)
        end
    end
end

-- Returns the column of an instance, or nil.
function _M.column(instance)
    return columns:get(instance)
end

-- Makes row 0 say what all other rows say of a column, with the opposite sign. What has ended is taken for both numbers of a
-- pair: who is about to take a count back writes the other one.
local function begin_at_zero(column)
    local base = _M.at(0, column)
    for kind = 0, KINDS - 1, 2 do
        local sum = 0
        for row = 1, _M.rows() do
            sum = sum + numbers[_M.at(row, column) + kind + 1]
        end
        numbers[base + kind], numbers[base + kind + 1] = -sum, -sum
    end
end

-- Gives an instance a column. Returns it, or nil where there is no room.
function _M.new_column(instance)
    local column = columns:lpop(FREE)
    if not column then
        column = columns:incr(NEXT, 1, 0)
        if not column or column > LAST_COLUMN then
            columns:incr(NEXT, -1)
            return nil
        end
    end
    begin_at_zero(column)
    local ok, reason = columns:safe_add(instance, column)
    if ok then
        return column
    end
    columns:rpush(FREE, column)
    return reason == "exists" and columns:get(instance) or nil    -- another worker was first
end

-- How often columns were taken from their instances: what a worker knows of columns holds until this changes.
function _M.era()
    return numbers[0]
end

-- Takes the columns of instances back. Called under the control lock, for what nobody has open.
function _M.give_back(instances)
    local free = {}
    for _, instance in ipairs(instances) do
        free[#free + 1] = columns:get(instance)
        columns:delete(instance)
    end
    -- Even where there was none: whoever took it back may have been killed before he could say so.
    numbers[0] = numbers[0] + 1
    mapped.barrier()
    for _, column in ipairs(free) do
        columns:rpush(FREE, column)
    end
end

return _M
