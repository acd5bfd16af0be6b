"""The NGINX engine behind Ceryx: its configuration, its Lua, its process, and the client of its control socket."""
