-- What goes to a waker by way of NGINX: the waiting page of a navigation, and the visitor's side of it under /.hemera/.

local addresses = require "lair.addresses"
local answers = require "lair.answers"
local ngx_balancer = require "ngx.balancer"
local records = require "lair.records"
local request = require "lair.request"
local routes = require "lair.routes"
local wakers = require "lair.wakers"

local var = ngx.var

local PREFIX = "/.hemera/"

local _M = {}

local function address_to(waker, path, name)
    var.lair_waker_path = waker.path .. path
    var.lair_source = name
    var.lair_waker_host = waker.host
    var.lair_visitor = addresses.of_visitor()
    var.lair_waker_authorization = wakers.authorization(waker)
end

-- Ends the request with the waker's page, or with the one built in here.
function _M.page(record, waker)
    if ngx.worker.exiting() then
        return answers.give("restarting")
    end
    if not waker then  -- the table is not loaded yet
        return answers.give("starting")
    end
    if not waker.usable then
        return _M.gone()
    end
    record.waker = waker
    local escape = ngx.escape_uri
    address_to(waker, "/page?source=" .. escape(record.name) .. "&path=" .. escape(var.request_uri), record.name)
    return ngx.exec("@page")
end

-- header_filter_by_lua of @page: whatever the waker says, the page is not cached and says that it is not the app.
function _M.page_headers()
    local header = ngx.header
    if ngx.status ~= 504 then
        ngx.status = 503
    end
    answers.headers(header["Lair-State"] or "starting", header["Retry-After"] or 1)
    header["Set-Cookie"] = nil
end

local function encode(character)
    return string.format("%%%02X", character:byte())
end

-- Returns the path at the waker for a path under /.hemera/. It is made of the normalised path that NGINX chose the
-- location by, not of what was sent: with dots in it, that could lead to what is not for visitors.
local function visitor_path()
    local path = var.uri:sub(#PREFIX + 1):gsub("[^%w%-._~/]", encode)
    return "/visitor/" .. path .. var.is_args .. (var.args or "")
end

-- access_by_lua of /.hemera/: finds the waker of this host, or of the path of it that the argument `path` names.
function _M.visitor()
    local path = ngx.unescape_uri(var.arg_path or "/")
    local value, _, name, is_ambiguous = routes.find(var.host, path)
    if is_ambiguous then
        return answers.give("ambiguous-path")
    end
    local entry = value and routes.parse(value)
    local waker = entry and wakers.get(entry.waker)
    if not waker or not waker.usable then
        return answers.give(value and "asleep" or routes.is_loaded() and "unknown-host" or "starting")
    end
    address_to(waker, visitor_path(), name)
    local id = request.id()
    records.by_id[id] = { id = id, host = var.host, name = name, hops = 0, waker = waker }
end

-- balancer_by_lua of the waker's upstream.
function _M.balance()
    local record = records.by_id[request.id()]
    local waker = record and record.waker
    if not waker or not ngx_balancer.set_current_peer(waker.address, waker.port) then
        return ngx.exit(ngx.DECLINED)
    end
end

-- @waker_gone: the waker can't be reached.
function _M.gone()
    return answers.give("waker-unreachable")
end

return _M
