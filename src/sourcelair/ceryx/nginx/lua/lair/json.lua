-- JSON, as much as we write: objects of strings and numbers. (lua-cjson is not part of every NGINX.)

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\" }

local _M = {}

-- Returns a JSON string. Bytes that are not ASCII are percent-encoded: they need not be UTF-8.
function _M.string(text)
    text = text:gsub("[\128-\255]", function(byte)
        return string.format("%%%02X", byte:byte())
    end)
    text = text:gsub('[%c"\\]', function(byte)
        return ESCAPES[byte] or string.format("\\u%04x", byte:byte())
    end)
    return '"' .. text .. '"'
end

local function number(value)
    return string.format(value % 1 == 0 and "%.0f" or "%.3f", value)
end

-- Returns a JSON object with its keys in order.
function _M.object(values)
    local names = {}
    for name in pairs(values) do
        names[#names + 1] = name
    end
    table.sort(names)
    for at, name in ipairs(names) do
        local value = values[name]
        names[at] = _M.string(name) .. ":" .. (type(value) == "number" and number or _M.string)(value)
    end
    return "{" .. table.concat(names, ",") .. "}"
end

return _M
