"""Logging as `jobs-grpc serve` configures it. It is global, so tests restore it."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from jobs_grpc.observability import logs

_FLAGS = ("logThreads", "logProcesses", "logMultiprocessing")


@contextmanager
def restored_logging() -> Iterator[None]:
    """Restore everything that `configure_logging` changes when the block ends."""
    root, audit = logging.getLogger(), logging.getLogger("jobs_grpc.audit")
    handlers, levels = root.handlers, (root.level, audit.level)
    flags = {name: getattr(logging, name) for name in _FLAGS}
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(levels[0])
        audit.setLevel(levels[1])
        vars(logging).update(flags)


@contextmanager
def configured_logging(log_format: str, level: str = "INFO") -> Iterator[io.StringIO]:
    """Configure logging and capture it during the block."""
    written = io.StringIO()
    with restored_logging():
        with redirect_stderr(written):
            logs.configure_logging(level, log_format)
        yield written
