"""The store: a small, revisioned key-value interface with an embedded (SQLite) and a clustered implementation."""
