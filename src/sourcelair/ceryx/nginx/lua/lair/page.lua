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
:root { color-scheme: light dark; --ink: #1b2333; --soft: #4a556b; --paper: #eef1f7; --card: #fff; --line: #d8deea;
        --sky: #8fb6e8; --air: #cfdff3; --dawn: #ffd9a8; --far: #b7c6de; --glow: #f7a428 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #edf0f8; --soft: #b4bdd0; --paper: #0d111b; --card: #171d2b; --line: #2d364b;
          --sky: #10172c; --air: #28305a; --dawn: #7d4a5c; --far: #2a3352; --glow: #ffb13d }
}
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; display: grid; place-items: start center; background: var(--paper);
       color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
       padding: clamp(1rem, 10vh, 7rem) 1.25rem 1.25rem }
main { width: min(35rem, 100%%); overflow: hidden; background: var(--card); border: 1px solid var(--line);
       border-radius: 1.25rem; box-shadow: 0 1.5rem 4rem -2rem rgb(10 20 50 / .35) }
svg { display: block; width: 100%%; height: 7rem;
      background: linear-gradient(var(--sky), var(--air) 55%%, var(--dawn)) }
div { padding: .5rem 2rem 2rem }
h1 { font-size: 1.65rem; line-height: 1.25; letter-spacing: -.015em; margin: 0 }
p { margin: .75rem 0 0; color: var(--soft); overflow-wrap: anywhere }
h1 + p { margin: .15rem 0 0; font: .875rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace }
</style>
</head>
<body>
<main>
<svg viewBox="0 0 560 112" preserveAspectRatio="xMidYMax slice" aria-hidden="true"><circle cx="280" cy="84" r="34"
fill="var(--glow)"/><path fill="var(--far)" d="M0 84c70-38 130-30 200-8s120-24 190-14 110 22 170 6v44H0z"/><path
fill="var(--card)" d="M0 106c90-16 190-14 290-6s190-2 270-8v20H0z"/></svg>
<div>
<h1>%s</h1>
<p>%s</p>
<p role="status">%s</p>
</div>
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
    return PAGE:format(meta, title, title, escape(ngx.var.host or ""), escape(detail))
end

return _M
