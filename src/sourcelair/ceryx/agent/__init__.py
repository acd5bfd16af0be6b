"""The agent of one proxy node: it brings the routes of Ceryx's API into NGINX, and NGINX's counts back.

`feed` follows the API; `table` holds what is wanted and what NGINX shows; `engine` is the one that speaks to NGINX;
`journal` keeps the last known routes on disk; `resolve` looks names up; `compiled` and `flows` are about what routes
say of themselves; `reports` and `answers` tell the API how far this node is. What each promises is in docs/protocol.md.
"""

from sourcelair.ceryx.agent.agent import Agent

__all__ = ["Agent"]
