-- The wakers that routes name: a small number stands for each in the route's entry. Their names are looked up by the
-- agent. Only the waker that belongs to this node is shown the node's token.

local state = ngx.shared.lair_state

local MOST = 9999

local _M = { NONE = 0 }

local parsed = {}

-- Returns the number of a waker, new or known, and whether it can be called otherwise than before: its address is noted,
-- and an empty one leaves it as it was. Called under the control lock.
function _M.number(url, address, port)
    local number = state:get("waker of:" .. url)
    if not number then
        number = (state:get("wakers") or 0) + 1
        if number > MOST or not state:safe_set("waker of:" .. url, number) then
            return nil
        end
        state:safe_set("wakers", number)
    end
    local known = state:get("waker:" .. number)
    if known and address == "" then
        return number, false
    end
    local text = table.concat({ url, address, port }, "\t")
    if not state:safe_set("waker:" .. number, text) then
        return nil
    end
    return number, address ~= "" and text ~= known
end

-- Returns a waker by number: url, address, port, host (for the Host header) and path (without a last slash).
function _M.get(number)
    if number == _M.NONE then
        return nil
    end
    local text = state:get("waker:" .. number)
    if not text then
        return nil
    end
    local waker = parsed[number]
    if waker and waker.text == text then
        return waker
    end
    local url, address, port = text:match("^([^\t]*)\t([^\t]*)\t([^\t]*)$")
    local host, path = url:match("^http://([^/]+)(.*)$")
    waker = { number = number, text = text, url = url, address = address, port = tonumber(port), host = host, path = path or "" }
    if address:find(":", 1, true) then
        waker.address = "[" .. address .. "]"
    end
    waker.usable = host ~= nil and address ~= ""
    parsed[number] = waker
    return waker
end

-- Tells whether a waker is called otherwise by now than when it was got.
function _M.has_moved(waker)
    return state:get("waker:" .. waker.number) ~= waker.text
end

-- Returns the Authorization header for a waker, empty unless it is this node's own.
function _M.authorization(waker)
    if waker.url ~= state:get("own waker") then
        return ""
    end
    local token = state:get("waker token")
    return token and "Bearer " .. token or ""
end

return _M
