"""`python -m sourcelair.cli` is `lair`."""

from sourcelair.cli import main

main()
