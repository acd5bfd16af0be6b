"""The embedded store: one SQLite file that belongs to one process.

- `files`: finding, locking, creating and migrating the file;
- `ledger`: the tables, and what one transaction does to them;
- `writer`: the one thread that writes, and group commit;
- `reader`: the one thread that reads;
- `turns`: letting these two run while the event loop is busy;
- `watches`: waking watchers after each commit, from memory or from history;
- `leases`: when leases run out;
- `store`: `SqliteStore`, which puts these together.
"""

from sourcelair.store.sqlite.store import HISTORY, SqliteStore, open_sqlite

__all__ = ["HISTORY", "SqliteStore", "open_sqlite"]
