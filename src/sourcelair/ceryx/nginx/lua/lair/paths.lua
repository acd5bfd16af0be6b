-- Which path a request asks for, in the one spelling that routes have (`ceryx/sources.py`): what is SAFE as it is, all
-- else percent-encoded.
--
-- A path can be spelt in many ways, and apps differ in which of them are the same to them. So one that is not spelt
-- plainly is read twice: as literally as an app may, and as freely. Where both lead to one route, so does every reading
-- between them, since each prefix that the literal one begins with, the free one begins with too. Where they do not, or
-- where dots lead up and down, the request is refused: nobody reaches another's route, or gets around one, by spelling.

local byte, find, format, gsub, sub = string.byte, string.find, string.format, string.gsub, string.sub
local char, tonumber = string.char, tonumber

local UNSAFE = "[^%w%-._~!$&'()*+,=:@/]"

local _M = {}

local function encode(character)
    return format("%%%02X", byte(character))
end

local function decode(digits)
    return char(tonumber(digits, 16))
end

-- An escape of what need not be one is the character itself; of all others, a slash too, it stays one.
local function literal(digits)
    local character = decode(digits)
    return (character == "/" or find(character, UNSAFE)) and "%" .. digits:upper() or character
end

local function read_literally(path)
    -- "%" is not safe itself: hide those of escapes while all else is encoded.
    path = gsub(path, "%%(%x%x)", literal)
    return (gsub(path, "[^%w%-._~!$&'()*+,=:@/%%]", encode))
end

-- What not everybody takes for a slash, an escaped one, is a backslash, as which that is written too.
local function decode_softly(digits)
    local character = decode(digits)
    return character == "/" and "\\" or character
end

-- As free as apps are known to be: an escaped slash and a backslash are slashes, several are one, a segment ends at a
-- semicolon, and the path at a "#". nil where none is the freest: with such a slash behind a semicolon, as in "/;%2Fa/b",
-- the segment ends at the one for some, and at the other for others.
local function read_freely(path)
    path = gsub(gsub(path, "#.*", ""), "%%(%x%x)", decode_softly)
    if find(path, ";[^/]*\\") then
        return nil
    end
    path = gsub(gsub(path, "\\", "/"), ";[^/]*", "")
    path = gsub(path, "//+", "/")
    if find(path .. "/", "/%.%.?/") then
        return nil
    end
    return (gsub(path, UNSAFE, encode))
end

-- Returns the two readings of a request target's path, which nearly always are one. The second is nil where it has dot
-- segments, or a slash that not all take for one behind a semicolon: browsers send none.
function _M.readings(target)
    local question = find(target, "?", 1, true)
    local path = question and sub(target, 1, question - 1) or target
    if sub(path, 1, 1) ~= "/" then    -- "http://host?query"
        return "/", "/"
    end
    if not find(path, UNSAFE) and not find(path, "//", 1, true) and not find(path, "/.", 1, true) then
        return path, path
    end
    return read_literally(path), read_freely(path)
end

-- Returns a request target without the segments of a prefix with which its path begins, however they are spelt.
function _M.without(target, prefix)
    local question = find(target, "?", 1, true) or #target + 1
    local at = 1
    for _ in prefix:gmatch("/") do
        at = find(target, "/", at + 1, true)
        if not at or at > question then
            return "/" .. sub(target, question)
        end
    end
    return sub(target, at)
end

return _M
