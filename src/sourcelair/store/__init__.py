"""The store: a small, revisioned key-value interface, embedded (SQLite) or clustered (etcd)."""

from sourcelair.store.opening import Seats, Stores, open_stores

__all__ = ["Seats", "Stores", "open_stores"]
