-- Memory that all workers share without a lock: the master maps it before it forks. What one processor writes there, and
-- when others see it, only a barrier puts in order.

local ffi = require "ffi"
local config = require "lair.config"

local state = ngx.shared.lair_state

local READ_WRITE, SHARED, ANONYMOUS, UNRESERVED = 3, 1, 0x20, 0x4000    -- mmap(2), Linux on x86 and ARM of 64 bits

ffi.cdef [[
    void *lair_mmap(void *, size_t, int, int, int, int64_t) __asm__("mmap");
]]

local _M = {}

local own    -- dictionary

-- Returns so many numbers, all zero at first; what is neither read nor written of them takes no memory. NGINX's reload makes
-- a new Lua in the same master, whose workers of before go on: it is the same memory for both.
function _M.numbers(name, number)
    local key = "address of " .. name
    if not state:get(key) then
        local size, kind = number * ffi.sizeof("double"), SHARED + ANONYMOUS + UNRESERVED
        local mapped = ffi.C.lair_mmap(nil, size, READ_WRITE, kind, -1, 0)
        local address = tonumber(ffi.cast("intptr_t", mapped))
        assert(address ~= -1, "no memory for " .. name)
        assert(state:safe_set(key, address))
    end
    return ffi.cast("double *", state:get(key))
end

-- Chooses a dictionary for barriers: its own for each worker, as far as they go, so that none waits for another.
function _M.begin()
    own = assert(ngx.shared["lair_barrier_" .. ngx.worker.id() % config.barriers])
end

-- Puts what this processor read and wrote before it before all that it will: the lock of a dictionary does.
function _M.barrier()
    return own:get("-")
end

return _M
