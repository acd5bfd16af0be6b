"""Who may do what: tokens, their scopes, and the check that every API makes.

Five kinds of token: `admin`; `owner` (that owner's servers only); `read` (sees, changes nothing); `service` (what the
services use among themselves: as an administrator, but never lists or makes tokens); `waker` (what a proxy node shows
to a waker, good for nothing else).
"""

from sourcelair.auth.tokens import Identity, Kind, TokenRecord, TokenRegistry

__all__ = ["Identity", "Kind", "TokenRecord", "TokenRegistry"]
