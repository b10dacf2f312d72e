"""A one-shot revocation event with subscribers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from jobs_grpc.errors import InvalidToken, JobsError

_KEY_REVOKED = "is signed with a key that was revoked"


class Revocation:
    """The withdrawal of trust in a key, a certificate or its device. It happens at most once."""

    def __init__(self) -> None:
        self.revoked = False
        self.make_error: Callable[[], JobsError] = partial(InvalidToken, _KEY_REVOKED)
        """Creates the error of calls that fail because of it."""
        self._callbacks: set[Callable[[], None]] = set()

    def revoke(self, make_error: Callable[[], JobsError] | None = None) -> None:
        """Set `revoked` and call the subscribers. By default, calls fail because of their key."""
        self.make_error = make_error or self.make_error
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
