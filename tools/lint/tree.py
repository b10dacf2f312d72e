"""The files that the linter reads, and the problems that it finds in them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """A line that breaks a rule."""

    path: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text} [{self.rule}]"


class Tree:
    """A folder. `planted` has the texts of files that differ from it, by path."""

    def __init__(self, root: Path, planted: Mapping[str, str] | None = None) -> None:
        self.root = root
        self._planted = planted or {}

    def text(self, path: str) -> str:
        """Return the text of a file."""
        if path in self._planted:
            return self._planted[path]
        return (self.root / path).read_text(encoding="utf-8")

    def files(self, *patterns: str) -> list[str]:
        """Return the paths of the files that match a pattern. `**/` also matches no folder."""
        found = {
            str(path.relative_to(self.root))
            for pattern in patterns
            for path in self.root.glob(pattern)
        }
        for path in self._planted:
            if any(fnmatch(path, pattern.replace("**/", "*")) for pattern in patterns):
                found.add(path)
        return sorted(found)

    def exists(self, path: str) -> bool:
        """Whether a file or a folder exists."""
        return path in self._planted or (self.root / path).exists()


def line_of(text: str, position: int) -> int:
    """Return the number of the line at a position, from 1."""
    return text.count("\n", 0, position) + 1


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text with their numbers."""
    return enumerate(text.splitlines(), 1)
