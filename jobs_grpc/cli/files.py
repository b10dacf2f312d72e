"""Replaces files atomically."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from jobs_grpc.cli.errors import CliError


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
