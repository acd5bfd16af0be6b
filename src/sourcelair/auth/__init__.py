"""Who may do what: tokens, their scopes, and the check that every API makes.

Six kinds of token: `admin`; `owner` (that owner's servers only); `read` (sees, changes nothing); `service` (what the
services use among themselves: as an administrator, but never lists or makes tokens); `waker` (what a proxy node shows
to a waker, good for nothing else); `instance` (with which a project server says that it is busy, and nothing else; none
of them is stored).
"""

from sourcelair.auth.instances import InstanceTokens
from sourcelair.auth.tokens import Identity, Kind, TokenRecord, TokenRegistry

__all__ = ["Identity", "InstanceTokens", "Kind", "TokenRecord", "TokenRegistry"]
