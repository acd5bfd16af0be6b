"""Control groups (cgroups) of instances: what holds all that an instance forks, limits it and freezes it.

The kernel has two versions of them, see cgroups(7): v1 with a hierarchy for each controller, v2 with one for all. A
machine has either, or both at once with a controller in one of them. `hierarchies` finds where this process may make
groups, `tree` makes them, `limits` and `freezer` are what they do, and `groups` is all of it together.
"""

from sourcelair.servers.drivers.process.groups.groups import Groups
from sourcelair.servers.drivers.process.groups.hierarchies import Hierarchy, find_hierarchies

__all__ = ["Groups", "Hierarchy", "find_hierarchies"]
