"""A one-shot revocation event with subscribers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Revocation:
    """The withdrawal of trust in a verification key. It happens at most once."""

    def __init__(self) -> None:
        self.revoked = False
        self._callbacks: set[Callable[[], None]] = set()

    def revoke(self) -> None:
        """Set `revoked` and call the subscribers."""
        self.revoked = True
        for callback in tuple(self._callbacks):
            callback()

    @contextmanager
    def subscribe(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` if `revoke` is called within the block. `callback` must not raise."""
        self._callbacks.add(callback)
        try:
            yield
        finally:
            self._callbacks.discard(callback)
