"""Replaces files atomically."""

import os
import tempfile
from pathlib import Path


def replace_private_file(path: Path, text: str) -> None:
    """Replace a file with a new one that only its owner can read. Raises OSError.

    The new file has a name that did not exist, so it does not follow a symbolic link.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()  # It can hold a token.
        raise
