"""SourceLair: a stable public URL for every project server, wherever it runs, and whether or not it is running."""

__version__ = "0.1.0"
