-- Addresses as text that a pattern can match: "4" and 8 hexadecimal digits, or "6" and 32. The agent makes a pattern of
-- every range, so that a range is one `find` here. And whose address a visitor's is.

local config = require "lair.config"

local find, format, lower = string.find, string.format, string.lower
local var = ngx.var

local LONGEST = 64           -- characters that a waker takes

local _M = {}

local function key_of_4(text)
    local a, b, c, d = text:match("^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$")
    if not a then
        return nil
    end
    a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
    if a > 255 or b > 255 or c > 255 or d > 255 then
        return nil
    end
    return format("4%02x%02x%02x%02x", a, b, c, d)
end

-- Returns the groups of one side of "::" as hexadecimal digits and how many they are; nil where it is no address.
local function groups(text)
    local digits, count = "", 0
    if text == "" then
        return digits, count
    end
    for group in (text .. ":"):gmatch("([^:]*):") do
        if not find(group, "^%x%x?%x?%x?$") then
            return nil
        end
        digits, count = digits .. ("0"):rep(4 - #group) .. lower(group), count + 1
    end
    return digits, count
end

local function key_of_6(text)
    text = text:gsub("%%.*$", "")
    local last = text:match("[^:]*$")
    if find(last, ".", 1, true) then
        local key = key_of_4(last)
        if not key then
            return nil
        end
        text = text:sub(1, -#last - 1) .. key:sub(2, 5) .. ":" .. key:sub(6, 9)
    end
    local from, to = find(text, "::", 1, true)
    local head, missing, tail = text, 0, ""
    local front, back = nil, ""
    if from then
        head, tail = text:sub(1, from - 1), text:sub(to + 1)
    end
    local many, few
    front, many = groups(head)
    back, few = groups(tail)
    if not front or not back then
        return nil
    end
    missing = 8 - many - few
    if missing < 0 or (from == nil and missing > 0) then
        return nil
    end
    local digits = front .. ("0000"):rep(missing) .. back
    if find(digits, "^00000000000000000000ffff") then
        return "4" .. digits:sub(25)
    end
    return "6" .. digits
end

-- Returns what patterns are matched against; nil where the text is no address.
function _M.key(text)
    return find(text, ":", 1, true) and key_of_6(text) or key_of_4(text)
end

local function is_trusted(key)
    for _, pattern in ipairs(config.trusted) do
        if find(key, pattern) then
            return true
        end
    end
    return false
end

-- Returns an address without the port and the brackets that some proxies write, and its key; nil where it is none.
local function cleaned(text)
    if #text > LONGEST then  -- before any pattern: visitors may write a part of it
        return nil
    end
    text = text:match("^%s*(.-)%s*$")
    text = text:match("^%[([^%]]*)%]") or text:match("^([%d.]+):%d+$") or text
    local key = _M.key(text)
    if key then
        return text, key
    end
end

-- Returns the visitor's address, and its key: the peer's, or what a trusted proxy says of it: the last address in
-- X-Forwarded-For that is not a trusted proxy's own, X-Real-IP without one. Proxies write to the end of the former,
-- whatever came; of the latter many know nothing, and pass on what the visitor wrote.
function _M.of_visitor()
    local peer = var.remote_addr
    if var.lair_trusted ~= "1" then
        return peer, _M.key(peer)
    end
    local last
    for part in ("," .. (var.http_x_forwarded_for or "")):reverse():gmatch("([^,]*),") do
        local address, key = cleaned(part:reverse())
        if not address then
            break
        end
        last = address
        if not is_trusted(key) then
            return address, key
        end
    end
    peer = last or cleaned(var.http_x_real_ip or "") or peer
    return peer, _M.key(peer)
end

return _M
