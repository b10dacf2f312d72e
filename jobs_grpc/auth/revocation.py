"""That something counts no more, such as a key, told to those who go by it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Revocation:
    """Of one thing. It happens once, and for good."""

    def __init__(self) -> None:
        self.revoked = False
        self._listeners: set[Callable[[], None]] = set()

    def revoke(self) -> None:
        """Say so to whoever listens."""
        self.revoked = True
        for tell in tuple(self._listeners):
            tell()

    @contextmanager
    def subscribe(self, tell: Callable[[], None]) -> Iterator[None]:
        """Have `tell` called, which must not fail, if it happens within the block."""
        self._listeners.add(tell)
        try:
            yield
        finally:
            self._listeners.discard(tell)
