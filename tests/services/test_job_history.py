"""ListJobEvents: the history of a job."""

from typing import Any

import pytest
from fleet.jobs.v1 import events_pb2 as pb

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Events
from tests.support.database import Database
from tests.support.event_rows import queue_event, store_events
from tests.support.failures import expect_error
from tests.support.world import World


@pytest.fixture(autouse=True)
async def device(world: World) -> None:
    await world.add_devices(["pump"])


def types(page: pb.ListJobEventsResponse) -> list[str]:
    return [event.type.removeprefix("job.") for event in page.events]


async def all_pages(events: Events, job_id: str, **fields: Any) -> list[list[str]]:
    """The types on each page."""
    page = await events.history(job_id, **fields)
    pages = [types(page)]
    while page.next_page_token:
        page = await events.history(job_id, **fields, page_token=page.next_page_token)
        pages.append(types(page))
    return pages


async def purge(database: Database) -> None:
    async with Sweeper(database.owner_dsn) as sweeper:
        await sweeper.run_cleanup()


async def test_history_of_a_job_begins_with_its_creation(world: World) -> None:
    await world.create("other")
    await world.create()
    await world.operator.pause("j")
    await world.operator.resume("j")

    oldest_first = await world.events.history("j")
    newest_first = await world.events.history("j", newest_first=True)

    assert types(oldest_first) == ["created", "paused", "resumed"]
    assert list(newest_first.events) == list(reversed(oldest_first.events))
    assert (oldest_first.next_page_token, newest_first.next_page_token) == ("", "")


@pytest.mark.parametrize("newest_first", [False, True])
async def test_pages_have_each_event_once(world: World, newest_first: bool) -> None:
    for n in range(5):
        await queue_event(world.database.owner, world.tenant, "j", f"job.n{n}")

    pages = await all_pages(world.events, "j", limit=2, newest_first=newest_first)

    oldest_first = [["n0", "n1"], ["n2", "n3"], ["n4"]]
    assert pages == ([["n4", "n3"], ["n2", "n1"], ["n0"]] if newest_first else oldest_first)


@pytest.mark.parametrize("newest_first", [False, True])
async def test_types_are_found_beyond_the_events_that_a_page_examines(
    world: World, newest_first: bool
) -> None:
    for name in ("first", "second"):
        await queue_event(world.database.owner, world.tenant, "job-0", f"job.{name}")
    await world.events.history("job-0")  # moves them to the log
    await store_events(world.database, world.tenant, 5000, jobs=1)
    await queue_event(world.database.owner, world.tenant, "job-0", "job.last")
    wanted = ["job.first", "job.second", "job.last"]

    pages = await all_pages(world.events, "job-0", types=wanted, newest_first=newest_first, limit=2)

    expected = [["last"], ["second", "first"]] if newest_first else [["first", "second"], ["last"]]
    assert [found for found in pages if found] == expected
    assert len(pages) <= 3
    other = await world.events.history("job-0", types=["job.none"], newest_first=newest_first)
    assert (types(other), bool(other.next_page_token)) == ([], True)


async def test_history_of_a_deleted_job_ends_with_its_deletion(world: World) -> None:
    await world.create()
    await world.operator.cancel("j")
    await world.operator.delete("j")

    assert types(await world.events.history("j"))[:2] == ["created", "canceled"]
    assert types(await world.events.history("j", types=["job.canceled"])) == ["canceled"]
    assert types(await world.events.history("j", types=["job.paused"])) == []
    await purge(world.database)
    # What is still part of the stream is also part of the history.
    assert types(await world.events.history("j"))[:2] == ["created", "canceled"]


@pytest.mark.parametrize("newest_first", [False, True])
async def test_job_with_a_reused_id_has_its_own_history(world: World, newest_first: bool) -> None:
    await world.create()
    await world.operator.cancel("j")
    page = await world.events.history("j", limit=1, newest_first=newest_first)
    await world.operator.delete("j")
    # Its events are still queued when the id is used again.
    await queue_event(world.database.owner, world.tenant, "j", "job.last")
    await purge(world.database)
    await world.create()

    assert types(await world.events.history("j")) == ["created"]
    await expect_error(
        "INVALID_PAGE_TOKEN",
        world.events.history(
            "j", limit=1, newest_first=newest_first, page_token=page.next_page_token
        ),
    )
    in_stream = [event.type for event in await world.events.list_all()]
    assert in_stream.count("job.created") == 2
    assert in_stream[-2:] == ["job.last", "job.created"]


async def test_job_without_events_has_an_empty_history(world: World) -> None:
    """Such as one that was created by an earlier version."""
    await world.create()
    await world.execute("DELETE FROM jobs.event_queue WHERE tenant_id = $1")

    assert types(await world.events.history("j")) == []


async def test_unknown_job_is_not_found(world: World) -> None:
    await queue_event(world.database.owner, f"{world.tenant}-2", "j")

    await expect_error("JOB_NOT_FOUND", world.events.history("j"))
