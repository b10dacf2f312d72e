"""Files that are read again after they change."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ReloadingFiles(Generic[T]):
    """The content of files, read again after they change. Keeps the last valid content."""

    def __init__(
        self, noun: str, find_paths: Callable[[], Iterable[Path]], read: Callable[[], T]
    ) -> None:
        """Read the files. Raises OSError or ValueError.

        `noun` names the files in the log, and `find_paths` returns them. `read` raises OSError or
        ValueError for files that are not valid.
        """
        self._noun = noun
        self._find_paths = find_paths
        self._read = read
        # What the last read found: the state of the files, or the text of an error.
        self._last_result: object = self._stat_key()
        self._content = read()

    def read(self) -> T:
        """Return the content: the same object as before unless the files have changed."""
        try:
            stat_key = self._stat_key()
            if stat_key != self._last_result:
                content = self._read()
                # If the files changed while they were read, the next call reads them again.
                if self._stat_key() == stat_key:
                    self._last_result, self._content = stat_key, content
                    logger.info("the %s have changed and were read again", self._noun)
        except (OSError, ValueError) as e:
            error = str(e)
            if error != self._last_result:
                self._last_result = error
                logger.warning(
                    "could not use the new %s; the previous content stays in use: %s",
                    *(self._noun, error),
                )
        return self._content

    def _stat_key(self) -> tuple[tuple[Path, int, int, int], ...]:
        """A value that changes when a file is written, replaced, added or removed."""
        stats = ((path, path.stat()) for path in self._find_paths())
        return tuple((path, s.st_ino, s.st_size, s.st_mtime_ns) for path, s in stats)
