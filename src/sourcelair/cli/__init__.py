"""The `lair` command: one module per group of commands."""
