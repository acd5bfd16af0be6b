-- What a worker knows of its open requests, by their identity (see request.lua).

return {
    inflight = {},   -- id -> the entry of the instance to which it is counted
    bits = {},       -- id -> ROBOT and STREAM bits of that count, where not 0
    streams = {},    -- id -> true: it has begun as a stream
    reset = {},      -- id -> true: its pooled connection was reset before any byte of the answer
    by_id = {},      -- id -> the gate's record, for requests that came to the gate
    crowds = {},     -- name (see routes.find) -> the gate's crowd: who waits for it in this worker
}
