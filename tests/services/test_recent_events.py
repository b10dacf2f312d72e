"""The newest events of a tenant, which its streams share: the cost of finding a page."""

import asyncio

from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation
from jobs_grpc.services.event_pages import EventPage
from jobs_grpc.services.recent_events import RecentEvents
from jobs_grpc.services.watch_group import Watch

PAGES = 2000


class _CountingPage(EventPage):
    """A page that counts how often the position of any page is read."""

    reads = 0

    @property
    def position(self) -> int:
        _CountingPage.reads += 1
        return self[1]


async def test_stream_finds_its_page_at_once_when_another_stream_reads_nothing() -> None:
    memory = MemoryLimit(1 << 30, 1 << 30)
    recent = RecentEvents()
    recent.begin(0)
    recent.enter(Watch("t", 0, asyncio.Event()))
    for position in range(1, PAGES + 1):
        page = _CountingPage((), position, has_more=False, response=b"x" * 100)
        recent.append(page, Reservation(memory, "t"))

    _CountingPage.reads = 0
    for position in (0, 1, PAGES // 2, PAGES - 1):
        found = recent.page_after(position)
        assert found is not None
        assert (found[0][1], found[1]) == (position + 1, True)
    assert recent.page_after(PAGES) is None
    assert _CountingPage.reads <= 5 * 12
