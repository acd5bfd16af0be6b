-- How the wait at the gate ends without the app: what the waker said, or that the time is over. How long a request may
-- wait is the route's word, the settings' or, within that, its client's own (`Prefer`, RFC 7240).

local answers = require "lair.answers"
local calls = require "lair.calls"
local config = require "lair.config"
local crowds = require "lair.crowds"
local handover = require "lair.handover"
local prefer = require "lair.prefer"
local routes = require "lair.routes"
local visitor = require "lair.visitor"

-- Whose body need not be taken: an answer may be "later" without anything being lost.
local WITHOUT_BODY = { GET = true, HEAD = true }

-- Codes of a waker with which a wake has ended, and the state where the waker says none.
local FINAL = { [403] = "asleep", [404] = "unknown-host", [429] = "rate-limited", [503] = "failed" }

local _M = {}

-- Returns the seconds for which a request may be held. `own`: the route's settings, nil where it has none.
function _M.time_of(record, own)
    local longest = own and own.wake_timeout or config.wake_timeout
    local wait, is_async = prefer.read()
    record.is_async = is_async
    if wait then
        record.wait = math.min(wait, longest)
        return record.wait
    end
    if is_async then
        return 0
    end
    return visitor.is_navigation() and (own and own.patience or config.patience) or longest
end

-- Ends the request with a waker's final word.
local function conclude(record, outcome)
    crowds.stop_waiting(record)
    local state = FINAL[outcome.code]
    if outcome.code == 429 then
        return answers.limited(outcome, state)
    end
    if visitor.is_navigation() and not record.is_async then
        return handover.page(record, record.waker)
    end
    return answers.pass_on(outcome, 503, state, not record.is_async and visitor.wants_html())
end

-- Looks whether the waker's last word ends this request. `value` is what the table showed before.
function _M.hear(record, value)
    local outcome = calls.outcome(record.host)
    if not outcome or outcome.id <= record.seen then
        return
    end
    record.seen = outcome.id
    if routes.find(record.host) ~= value then
        return
    end
    if outcome.code == 200 then
        if not calls.is_ahead(outcome, routes.parse(value)) then  -- else that refuses still what refused
            record.failed = nil
        end
    elseif FINAL[outcome.code] and (outcome.code ~= 429 or outcome.address == record.address) then
        return conclude(record, outcome)
    end
end

-- Notes what preference is followed, for the answer that comes now.
local function apply(record, preference)
    if record.wait then
        preference = (preference and preference .. ", " or "") .. "wait=" .. math.floor(record.wait)
    end
    record.applied = preference
end

-- Ends the request: its time is over. `last` is the waker's last word of before, where nothing is under way.
function _M.time_over(record, crowd, last)
    crowds.owe(crowd, record)
    crowds.stop_waiting(record)
    local outcome = calls.outcome(record.host)
    local news = outcome and outcome.id > record.first and outcome
    local is_gone = news and news.code == 0
    if visitor.is_navigation() and not record.is_async then
        apply(record)
        return handover.page(record, record.waker)
    end
    if (record.is_async or record.wait == 0) and not record.failed and (news or last) then
        local known = news or last
        is_gone = known.code == 0
        if FINAL[known.code] and (known.code ~= 429 or known.address == record.address) then
            apply(record)
            return conclude(record, known)
        end
    end
    if not record.is_async then
        apply(record)
        return answers.give(record.failed and "unreachable" or is_gone and "waker-timeout" or "start-timeout")
    end
    if is_gone or not record.waker or not WITHOUT_BODY[ngx.req.get_method()] then
        apply(record)
        return answers.give(is_gone and "waker-unreachable" or "starting")
    end
    apply(record, "respond-async")
    return answers.later()
end

return _M
