-- The window through which held requests are let go: a server with a listen backlog of 5 fails most of 1,000 that come
-- at once. Four places at first, which the workers share; one more after each round, half when a connect took long. A
-- place is free again at the answer's headers, or some time after it was given, so that long polls can't block the rest.

local config = require "lair.config"

local FIRST_PLACES = 4       -- of all workers
local SLOW_CONNECT = 0.5     -- seconds; a lost SYN comes back after a second
local LONGEST_HOLD = 0.25    -- seconds that one request keeps a place

local _M = {}

-- Gives a crowd (see gate.lua) its empty window.
function _M.open(crowd)
    crowd.size, crowd.used, crowd.round = math.max(1, math.floor(FIRST_PLACES / config.workers)), 0, 0
    crowd.queue, crowd.first, crowd.last = {}, 1, 0
    crowd.places = {}
end

local function give(crowd, record)
    crowd.used = crowd.used + 1
    crowd.places[record] = ngx.now()
    record.place = crowd
end

local function next_in_queue(crowd)
    while crowd.first <= crowd.last do
        local record = crowd.queue[crowd.first]
        crowd.queue[crowd.first] = nil
        crowd.first = crowd.first + 1
        if record and record.queued then
            record.queued = false
            return record
        end
    end
    return nil
end

local function fill(crowd)
    while crowd.used < crowd.size do
        local record = next_in_queue(crowd)
        if not record then
            return
        end
        give(crowd, record)
        record.semaphore:post(1)
    end
end

-- Takes a place that is free now, if nobody is before this record. Returns whether it has one.
function _M.take_free(crowd, record)
    if crowd.used >= crowd.size or crowd.first <= crowd.last then
        return false
    end
    give(crowd, record)
    return true
end

-- Takes a place for a record, or lets it stand in the queue. Returns whether it has a place.
function _M.take(crowd, record)
    if record.place then
        return true
    end
    if record.queued then
        return false
    end
    if _M.take_free(crowd, record) then
        return true
    end
    crowd.last = crowd.last + 1
    crowd.queue[crowd.last] = record
    record.queued = true
    return false
end

-- Gives the place of a record back. `connect`: seconds that its connect took, nil where that is not known.
function _M.free(record, connect)
    local crowd = record.place or record.had_place
    if not crowd then
        return
    end
    if record.place then
        crowd.places[record] = nil
        crowd.used = crowd.used - 1
    end
    record.place, record.had_place = nil, nil
    crowd.round = crowd.round + 1
    if connect and connect >= SLOW_CONNECT then
        crowd.size, crowd.round = math.max(1, math.floor(crowd.size / 2)), 0
    elseif crowd.round >= crowd.size then
        crowd.size, crowd.round = crowd.size + 1, 0
    end
    fill(crowd)
end

-- Frees the places that were held too long.
function _M.sweep(crowd, now)
    for record, since in pairs(crowd.places) do
        if now - since >= LONGEST_HOLD then
            crowd.places[record] = nil
            crowd.used = crowd.used - 1
            record.place = nil
            record.had_place = crowd
        end
    end
    fill(crowd)
end

-- Forgets who waits in the queue; they take a place anew when the table shows a live route.
function _M.scatter(crowd)
    for at = crowd.first, crowd.last do
        if crowd.queue[at] then
            crowd.queue[at].queued = false
        end
    end
    crowd.queue, crowd.first, crowd.last = {}, 1, 0
end

return _M
