"""Drivers: what actually runs instances. `base` is the interface, each other module is one driver."""
