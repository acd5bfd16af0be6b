-- The page built into NGINX, for when nobody else can make one. It needs nothing but itself, and works in an iframe.

local PAGE = [[
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
%s<title>%s</title>
<style>
:root { color-scheme: light dark }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; font: 16px/1.5 system-ui, sans-serif;
       background: Canvas; color: CanvasText }
main { max-width: 32rem; padding: 2rem; text-align: center }
h1 { font-size: 1.5rem; font-weight: 600; margin: 0 0 .5rem }
p { margin: .25rem 0; opacity: .75 }
</style>
</head>
<body>
<main>
<h1>%s</h1>
<p>%s</p>
<p>%s</p>
</main>
</body>
</html>
]]

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local _M = {}

local function escape(text)
    return (text:gsub("[&<>\"']", ENTITIES))
end

-- Returns the page. `refresh`: seconds after which the browser asks again, false for never.
function _M.render(heading, detail, refresh)
    local meta = refresh and '<meta http-equiv="refresh" content="' .. refresh .. '">\n' or ""
    local title = escape(heading)
    detail = refresh and detail .. " This page asks again by itself." or detail
    return PAGE:format(meta, title, title, escape(detail), escape(ngx.var.host or ""))
end

return _M
