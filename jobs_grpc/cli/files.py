"""Reads files of text, and replaces files atomically."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from jobs_grpc.cli.errors import CliError, InvalidInput
from jobs_grpc.server.signals import interrupt_on_stop_signals


def read_text(path: str) -> str:
    """Read a file of UTF-8, or standard input if the path is "-". Raises CliError."""
    try:
        # A read of a terminal or a pipe would block the handler of asyncio for Ctrl-C.
        with interrupt_on_stop_signals():
            content = standard_input().read() if path == "-" else Path(path).read_bytes()
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8"
        raise InvalidInput(f"can't read {path}: {reason}") from None


def standard_input() -> BinaryIO:
    """Return standard input as bytes: its text has the locale's encoding. Raises CliError."""
    if sys.stdin is None:
        raise InvalidInput("standard input is closed")
    return sys.stdin.buffer


@contextmanager
def reporting_write_errors(path: Path) -> Iterator[None]:
    """Raise a CliError that names the file in place of an OSError."""
    try:
        yield
    except OSError as e:
        raise CliError(f"can't write {path}: {e.strerror}") from None


@contextmanager
def replacing_file(path: Path, mode: int) -> Iterator[TextIO]:
    """Yield a new file that gets this name and mode when the block ends.

    Until then, it has a name that did not exist before, so it follows no link that another user
    has created. If the block fails, it is removed. Raises CliError if the file cannot be created or
    renamed; errors of the block stay as they are.
    """
    with reporting_write_errors(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".part")
    file = os.fdopen(descriptor, "w", encoding="utf-8", newline="")
    try:
        yield file
        with reporting_write_errors(path):
            file.flush()
            os.fchmod(descriptor, mode)
            file.close()
            Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        with suppress(OSError):  # It writes what it has buffered.
            file.close()
        raise
