"""Logs and metrics, the same way in every service.

`get_logger(__name__)` gives the one logger; events are words with key-value facts, never sentences with values in
them. Secrets (tokens, `env` values) are never passed to it.
"""

from __future__ import annotations

import logging
import sys

import structlog
from prometheus_client import CollectorRegistry

METRICS = CollectorRegistry()
"""The one registry that `/metrics` shows."""


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(module=name)
    return logger


def configure_logging(log_format: str = "auto", level: str = "info") -> None:
    """Set up logging for this process, to standard error.

    Args:
        log_format: `console`, `json`, or `auto`: console where standard error is a terminal.
        level: the lowest level that is written.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
