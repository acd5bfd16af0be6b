-- The identity of a request: its pointer. Unlike ngx.ctx it survives named locations, and every phase sees the same
-- one, the log phase too. It is used again only after that phase.

local ffi = require "ffi"
local get_request = require("resty.core.base").get_request

local cast = ffi.cast
local tonumber = tonumber
local pointer = ffi.typeof("uintptr_t")

local _M = {}

function _M.id()
    return tonumber(cast(pointer, get_request()))
end

return _M
