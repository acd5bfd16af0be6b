-- What a client prefers while its server wakes, by RFC 7240: `wait` and `respond-async`. The first of a name counts.

local LONGEST = 1000         -- characters that are looked at, one by one; a longer text says nothing

local _M = {}

-- Returns the elements of a list header, commas within quotes left alone.
local function elements(text)
    local found, from, quoted, escaped = {}, 1, false, false
    for at = 1, #text do
        local character = text:sub(at, at)
        if escaped then
            escaped = false
        elseif quoted and character == "\\" then
            escaped = true
        elseif character == '"' then
            quoted = not quoted
        elseif character == "," and not quoted then
            found[#found + 1] = text:sub(from, at - 1)
            from = at + 1
        end
    end
    found[#found + 1] = text:sub(from)
    return found
end

-- Returns `wait` (seconds, nil where not said) and whether `respond-async` is preferred, of the current request.
function _M.read()
    if not ngx.var.http_prefer then
        return nil, false
    end
    local header = ngx.req.get_headers(0)["prefer"]
    local text = type(header) == "table" and table.concat(header, ",") or tostring(header)
    local wait, is_async, has_wait = nil, false, false
    if #text > LONGEST then
        return nil, false
    end
    for _, element in ipairs(elements(text)) do
        local name, rest = element:match("^%s*([^%s=;,]+)%s*(.*)$")
        name = name and name:lower()
        if name == "respond-async" then
            is_async = true
        elseif name == "wait" and not has_wait then
            has_wait = true
            local number = rest:match('^=%s*(%d+)%s*$') or rest:match('^=%s*(%d+)%s*;')
                or rest:match('^=%s*"(%d+)"')
            wait = tonumber(number)
        end
    end
    return wait, is_async
end

return _M
