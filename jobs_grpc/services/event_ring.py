"""The newest events of a tenant, which all its streams share."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from jobs_grpc.limits.memory_limit import Reservation
from jobs_grpc.services.event_pages import EventPage
from jobs_grpc.services.watch_group import Watch

# Bytes of pages that wait for slow streams. Streams that are slower read the database.
_MAX_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class _Entry:
    after: int
    page: EventPage
    reservation: Reservation


class EventRing:
    """Has all events after `start` up to `end`, until all streams in it have read them.

    Its pages hold their bytes of the memory limit.
    """

    def __init__(self) -> None:
        self.start: int | None = None
        """None: the ring is not in use."""
        self.end = 0
        self._entries: deque[_Entry] = deque()
        self._size = 0
        self._streams: set[Watch[int]] = set()
        # Those that have not read all pages.
        self._behind: set[Watch[int]] = set()

    def begin(self, position: int) -> None:
        """Use the ring from a position on."""
        self.start = self.end = position

    def reset(self) -> None:
        """Stop using the ring: its streams read the database."""
        self._clear()
        self.start = None

    def has(self, position: int) -> bool:
        """Return whether the ring has the events after a position, if there are any."""
        return self.start is not None and position >= self.start

    def enter(self, stream: Watch[int]) -> None:
        """Let a stream wait for pages."""
        self._streams.add(stream)

    def leave(self, stream: Watch[int]) -> None:
        """Do not keep pages for a stream."""
        self._streams.discard(stream)
        self.note_read(stream)

    def note_read(self, stream: Watch[int]) -> None:
        """Note that a stream has read all pages."""
        self._behind.discard(stream)
        if not self._behind:
            self._clear()

    @property
    def streams(self) -> Sequence[Watch[int]]:
        """The streams that wait for pages."""
        return tuple(self._streams)

    def append(self, page: EventPage, reservation: Reservation) -> None:
        """Add the page of all events after `end`; it keeps the bytes of the reservation."""
        self._entries.append(_Entry(self.end, page, reservation))
        self._size += len(page.response)
        self.end = page.position
        self._behind = set(self._streams)
        if not self._behind:
            self._clear()
        while self._size > _MAX_BYTES and len(self._entries) > 1:
            self._drop_oldest()

    def page_after(self, position: int) -> tuple[EventPage, bool] | None:
        """Return the first page with events after a position, and whether it has no other events.

        None: the stream has read all events. The ring must have the position.
        """
        for entry in self._entries:
            if entry.page.position > position:
                return entry.page, entry.after >= position
        return None

    def _clear(self) -> None:
        while self._entries:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        entry = self._entries.popleft()
        self._size -= len(entry.page.response)
        entry.reservation.release()
        self.start = entry.page.position
