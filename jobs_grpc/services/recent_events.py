"""The newest events of a tenant, which all its streams share."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from jobs_grpc.limits.memory_limit import Reservation
from jobs_grpc.services.event_pages import EventPage
from jobs_grpc.services.watch_group import Watch

# Maximum bytes of pages that are kept for slow streams. Streams that fall behind further read the
# database.
_MAX_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class _Entry:
    after: int
    page: EventPage
    reservation: Reservation


class RecentEvents:
    """Keeps all events after `start` up to `end`, until all its streams have read them.

    Each page holds a reservation of its bytes in the memory limit.
    """

    def __init__(self) -> None:
        self.start: int | None = None
        """None: not in use."""
        self.end = 0
        # Ordered by the position of the page. There can be thousands, of one event each, if a
        # stream does not read them.
        self._entries: list[_Entry] = []
        self._size = 0
        self._streams: set[Watch[int]] = set()
        # The streams that have not read all pages.
        self._behind: set[Watch[int]] = set()

    def begin(self, position: int) -> None:
        """Keep the events after a position."""
        self.start = self.end = position

    def reset(self) -> None:
        """Stop keeping events: the streams read the database."""
        self._clear()
        self.start = None

    def has(self, position: int) -> bool:
        """Return whether all events after a position are here."""
        return self.start is not None and position >= self.start

    def enter(self, stream: Watch[int]) -> None:
        """Keep pages for a stream until it has read them."""
        self._streams.add(stream)

    def leave(self, stream: Watch[int]) -> None:
        """Stop keeping pages for a stream."""
        self._streams.discard(stream)
        self.note_read(stream)

    def note_read(self, stream: Watch[int]) -> None:
        """Note that a stream has read all pages."""
        self._behind.discard(stream)
        if not self._behind:
            self._clear()

    @property
    def streams(self) -> Sequence[Watch[int]]:
        """The streams that read from here."""
        return tuple(self._streams)

    def append(self, page: EventPage, reservation: Reservation) -> None:
        """Add the page of all events after `end`, and take over the reservation of its bytes."""
        self._entries.append(_Entry(self.end, page, reservation))
        self._size += len(page.response)
        self.end = page.position
        self._behind = set(self._streams)
        if not self._behind:
            self._clear()
        while self._size > _MAX_BYTES and len(self._entries) > 1:
            self._drop_oldest(1)

    def page_after(self, position: int) -> tuple[EventPage, bool] | None:
        """Return the first page with events after a position, and whether all its events are.

        None: the stream has read all events. `has(position)` must be true.
        """
        index = bisect_right(self._entries, position, key=lambda entry: entry.page.position)
        if index == len(self._entries):
            return None
        entry = self._entries[index]
        return entry.page, entry.after >= position

    def _clear(self) -> None:
        self._drop_oldest(len(self._entries))

    def _drop_oldest(self, count: int) -> None:
        for entry in self._entries[:count]:
            self._size -= len(entry.page.response)
            entry.reservation.release()
            self.start = entry.page.position
        del self._entries[:count]
