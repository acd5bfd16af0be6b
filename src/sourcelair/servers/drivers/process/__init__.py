"""Instances as processes of this machine. `driver` is the driver; each other module is one of its subjects."""

from sourcelair.servers.drivers.process.driver import ProcessDriver

__all__ = ["ProcessDriver"]
