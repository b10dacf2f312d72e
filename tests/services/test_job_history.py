"""ListJobEvents: the history of a job."""

from typing import Any

import pytest
from fleet.jobs.v1 import events_pb2 as pb

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Events, Operator
from tests.support.database import Database
from tests.support.event_rows import queue_event, store_events
from tests.support.failures import expect_error
from tests.support.server import Server
from tests.support.world import World


@pytest.fixture
async def events(database: Database, server: Server, tenant: str) -> Events:
    """A caller in the test's tenant, which has a device."""
    await database.add_devices(tenant, ["pump"])
    return server.events(tenant)


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


async def test_history_of_a_job_begins_with_its_creation(world: World, events: Events) -> None:
    await world.operator.create(job_id="other", target_all=True)
    await world.operator.create(job_id="j", target_all=True)
    await world.operator.pause("j")
    await world.operator.resume("j")

    oldest_first = await events.history("j")
    newest_first = await events.history("j", newest_first=True)

    assert types(oldest_first) == ["created", "paused", "resumed"]
    assert list(newest_first.events) == list(reversed(oldest_first.events))
    assert (oldest_first.next_page_token, newest_first.next_page_token) == ("", "")


@pytest.mark.parametrize("newest_first", [False, True])
async def test_pages_have_each_event_once(world: World, events: Events, newest_first: bool) -> None:
    for n in range(5):
        await queue_event(world.database.owner, world.tenant, "j", f"job.n{n}")

    pages = await all_pages(events, "j", limit=2, newest_first=newest_first)

    oldest_first = [["n0", "n1"], ["n2", "n3"], ["n4"]]
    assert pages == ([["n4", "n3"], ["n2", "n1"], ["n0"]] if newest_first else oldest_first)


@pytest.mark.parametrize("newest_first", [False, True])
async def test_types_are_found_beyond_the_events_that_a_page_examines(
    database: Database, events: Events, tenant: str, newest_first: bool
) -> None:
    for name in ("first", "second"):
        await queue_event(database.owner, tenant, "job-0", f"job.{name}")
    await events.history("job-0")  # moves them to the log
    await store_events(database, tenant, 5000, jobs=1)
    await queue_event(database.owner, tenant, "job-0", "job.last")
    wanted = ["job.first", "job.second", "job.last"]

    pages = await all_pages(events, "job-0", types=wanted, newest_first=newest_first, limit=2)

    expected = [["last"], ["second", "first"]] if newest_first else [["first", "second"], ["last"]]
    assert [found for found in pages if found] == expected
    assert len(pages) <= 3
    other = await events.history("job-0", types=["job.none"], newest_first=newest_first)
    assert (types(other), bool(other.next_page_token)) == ([], True)


async def test_history_of_a_deleted_job_ends_with_its_deletion(
    database: Database, operator: Operator, events: Events
) -> None:
    await operator.create(job_id="j", target_all=True)
    await operator.cancel("j")
    await operator.delete("j")

    assert types(await events.history("j"))[:2] == ["created", "canceled"]
    assert types(await events.history("j", types=["job.canceled"])) == ["canceled"]
    assert types(await events.history("j", types=["job.paused"])) == []
    await purge(database)
    # What is still part of the stream is also part of the history.
    assert types(await events.history("j"))[:2] == ["created", "canceled"]


@pytest.mark.parametrize("newest_first", [False, True])
async def test_job_with_a_reused_id_has_its_own_history(
    database: Database, operator: Operator, events: Events, newest_first: bool
) -> None:
    await operator.create(job_id="j", target_all=True)
    await operator.cancel("j")
    page = await events.history("j", limit=1, newest_first=newest_first)
    await operator.delete("j")
    # Its events are still queued when the id is used again.
    await queue_event(database.owner, operator.tenant, "j", "job.last")
    await purge(database)
    await operator.create(job_id="j", target_all=True)

    assert types(await events.history("j")) == ["created"]
    await expect_error(
        "INVALID_PAGE_TOKEN",
        events.history("j", limit=1, newest_first=newest_first, page_token=page.next_page_token),
    )
    in_stream = [event.type for event in await events.list_all()]
    assert in_stream.count("job.created") == 2
    assert in_stream[-2:] == ["job.last", "job.created"]


async def test_job_without_events_has_an_empty_history(world: World, events: Events) -> None:
    """Such as one that was created by an earlier version."""
    await world.operator.create(job_id="j", target_all=True)
    await world.database.owner.execute(
        "DELETE FROM jobs.event_queue WHERE tenant_id = $1", world.tenant
    )

    assert types(await events.history("j")) == []


async def test_unknown_job_is_not_found(world: World, events: Events) -> None:
    await queue_event(world.database.owner, f"{world.tenant}-2", "j")

    await expect_error("JOB_NOT_FOUND", events.history("j"))
