"""Replaces files atomically."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def replacing_file(path: Path, mode: int) -> Iterator[TextIO]:
    """Yield a new file that gets this name and mode when the block ends. Raises OSError.

    Until then, it has a name that did not exist before, so it follows no link that another user
    has created. If the block fails, it is removed.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            os.fchmod(descriptor, mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
