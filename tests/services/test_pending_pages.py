"""BatchReader of pages: the pending executions of several watched devices in one statement."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb

from jobs_grpc.db.store import Row, Store
from jobs_grpc.errors import (
    DatabaseUnavailable,
    Internal,
    QueryTimeout,
    SchemaNotCurrent,
    ServerStopping,
)
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation, response_bytes
from jobs_grpc.services.batch_reader import BatchReader
from jobs_grpc.services.pending_pages import Page, PageQuery, read_pages
from tests.support.database import Database, replaced_function, request_session, shared_store
from tests.support.staged_jobs import rollout
from tests.support.waiting import wait_until_true
from tests.support.world import World

MIB = 1024 * 1024


class Pages:
    """Pages of a tenant's devices, with a memory limit of their own.

    `statements` has the devices of each statement, which awaits `before` first.
    """

    def __init__(self, world: World, store: Store) -> None:
        self.world, self.tenant = world, world.tenant
        self.memory = MemoryLimit(64 * MIB, 32 * MIB)
        self.stopping = asyncio.Event()
        self.statements: list[list[str]] = []
        self.before: Callable[[], Awaitable[None]] | None = None
        self._pages = BatchReader[PageQuery, Page](
            partial(read_pages, store), self.memory, 0.01, self.stopping, _pause, noun="pages"
        )
        read = store.list_watched_executions

        async def record(tenant_id: str, *, device_ids: list[str], **options: Any) -> Any:
            self.statements.append(device_ids)
            if self.before:
                await self.before()
            return await read(tenant_id, device_ids=device_ids, **options)

        store.list_watched_executions = record

    async def create(self, job_id: str = "j", **fields: Any) -> None:
        """Create a job for all devices."""
        await self.world.create(job_id, **fields)

    async def read(
        self, device: str, limit: int = 10, reservation: Reservation | None = None
    ) -> device_pb.WatchPendingExecutionsResponse:
        reservation = reservation or Reservation(self.memory, self.tenant)
        page = await self._pages.read(self.tenant, PageQuery(device, limit), reservation)
        return device_pb.WatchPendingExecutionsResponse.FromString(page.response)

    def reading(self, device: str, **options: Any) -> "asyncio.Task[Any]":
        """Read the page of a device in a task."""
        return asyncio.create_task(self.read(device, **options))

    async def rows(self, max_bytes: int) -> Sequence[Row]:
        """Return the rows of the pages of d0 and d1, read on another session."""
        async with request_session(self.world.database) as (_, store):
            return await store.list_watched_executions(
                self.tenant, device_ids=["d0", "d1"], limits=[10, 10], max_bytes=max_bytes
            )

    async def wait_until_bytes_are_awaited(self) -> None:
        await wait_until_true(lambda: self.memory.waiting > 0)


async def _pause(_: str) -> None:
    await asyncio.sleep(0)


@pytest.fixture
async def pages(world: World) -> AsyncIterator[Pages]:
    await world.add_devices(["d0", "d1", "d2"])
    async with shared_store(world.database) as store:
        yield Pages(world, store)


def job_ids(page: device_pb.WatchPendingExecutionsResponse) -> list[str]:
    return [execution.job_id for execution in page.executions]


async def test_page_equals_the_list_of_pending_executions(pages: Pages) -> None:
    device = pages.world.device("d1")
    await pages.create("first", document_params={"n": [1, {"a": None}]})
    await pages.create("second", in_progress_timeout_minutes=5)
    await device.start("second", status_details={"step": "download"})

    page = await pages.read("d1")

    assert list(page.executions) == list((await device.pending()).executions)
    assert job_ids(page) == ["second", "first"]


async def test_pages_that_are_asked_for_together_share_a_statement(pages: Pages) -> None:
    await pages.create("j", document_params={"n": 1})
    devices = ["d0", "d1", "unknown", "d1"]

    received = await asyncio.gather(*map(pages.read, devices))

    assert [job_ids(page) for page in received] == [["j"], ["j"], [], ["j"]]
    shown = [page.executions[0].device_id for page in received if page.executions]
    assert shown == ["d0", "d1", "d1"]
    assert all(page.executions[0].document_params == {"n": 1} for page in received[:2])
    assert pages.statements == [devices]


async def test_pages_that_are_asked_for_during_a_statement_share_the_next_one(pages: Pages) -> None:
    others: list[asyncio.Task[Any]] = []

    async def ask() -> None:
        if not others:
            others.extend(pages.reading(device) for device in ("d1", "d2"))
            await asyncio.sleep(0)

    pages.before = ask

    await pages.read("d0")
    await asyncio.gather(*others)

    assert pages.statements == [["d0"], ["d1", "d2"]]


async def test_page_has_more_when_more_executions_are_pending_than_its_limit(pages: Pages) -> None:
    for job_id in ("first", "second"):
        await pages.create(job_id, document_params={"job": job_id})

    short, full = await asyncio.gather(pages.read("d0", limit=1), pages.read("d1", limit=2))

    assert (job_ids(short), short.has_more) == (["first"], True)
    assert (job_ids(full), full.has_more) == (["first", "second"], False)
    # The first page has no room for the second job, whose document the second page needs.
    assert full.executions[1].document_params == {"job": "second"}


async def test_statement_reads_no_more_devices_after_its_maximum_of_bytes(pages: Pages) -> None:
    await pages.create(document_params={"n": 1})

    assert [row["position"] for row in await pages.rows(max_bytes=5)] == [1, 1]


async def test_rows_without_documents_count_in_the_maximum_of_bytes(pages: Pages) -> None:
    for number in range(10):
        await pages.create(f"j{number}")

    assert {row["position"] for row in await pages.rows(max_bytes=2000)} == {1}


async def test_devices_that_exceed_the_maximum_of_bytes_are_read_later(pages: Pages) -> None:
    for number in range(3):
        await pages.create(f"j{number}")
    await pages.world.owner_value(
        "UPDATE jobs.job_executions SET status_details = $2 WHERE tenant_id = $1",
        json.dumps({"a": "x" * 400_000}),
    )

    received = await asyncio.gather(*map(pages.read, ("d0", "d1", "d2")))

    assert [job_ids(page)[:1] for page in received] == [["j0"]] * 3
    assert pages.statements == [["d0", "d1", "d2"], ["d1", "d2"], ["d2"]]


async def test_pages_that_exceed_the_reserved_bytes_are_read_later(pages: Pages) -> None:
    """The documents are read once, but each page has all of them."""
    for number in range(90):
        await pages.create(f"j{number}", document_params={"a": "x" * 30_000})
    reservations = [Reservation(pages.memory, pages.tenant) for _ in range(3)]

    received = await asyncio.gather(
        *(
            pages.read(f"d{n}", limit=90, reservation=reservation)
            for n, reservation in enumerate(reservations)
        )
    )

    assert [len(page.executions) for page in received] == [90] * 3
    assert len(pages.statements) == 3
    assert pages.memory.held == sum(response_bytes(page.ByteSize()) for page in received)


async def test_page_of_other_devices_is_returned_when_rows_are_malformed(
    pages: Pages, caplog: pytest.LogCaptureFixture
) -> None:
    await pages.create("j", document_params={"n": 1})
    # A number of JSON that a message can't hold, such as a platform may have stored.
    await pages.world.owner_value(
        "UPDATE jobs.job_executions SET status_details = $2"
        " WHERE tenant_id = $1 AND device_id <> 'd2'",
        '{"n": 1e400}',
    )

    failing = asyncio.gather(*map(pages.read, ("d0", "d1")), return_exceptions=True)

    page = await pages.read("d2")

    assert page.executions[0].document_params == {"n": 1}
    assert pages.memory.held == response_bytes(page.ByteSize())
    _check_failures(await failing, caplog)


async def test_failed_read_is_logged_once(pages: Pages, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError

    pages.before = fail

    failures = await asyncio.gather(*map(pages.read, ("d0", "d1")), return_exceptions=True)

    _check_failures(failures, caplog)


def _check_failures(failures: Sequence[Any], caplog: pytest.LogCaptureFixture) -> None:
    """Check that each of two streams has its own error, and that the log has one line."""
    assert [type(failure) for failure in failures] == [Internal, Internal]
    assert failures[0] is not failures[1]
    [record] = caplog.records
    assert record.getMessage() == "reading pages failed for 2 watches"
    assert record.exc_info


@pytest.fixture
async def waiting_fingerprints(database: Database) -> AsyncIterator[None]:
    """Computing a fingerprint waits for the advisory lock 4711."""
    definition = (
        "CREATE OR REPLACE FUNCTION jobs.text_fingerprint(value text) RETURNS bigint"
        " LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN 1; END $$"
    )
    async with replaced_function(database, "jobs.text_fingerprint", definition):
        yield


@pytest.mark.single_node("an advisory lock is of one node")
@pytest.mark.usefixtures("waiting_fingerprints")
async def test_job_that_is_purged_meanwhile_has_its_document(pages: Pages) -> None:
    await pages.world.operator.create(job_id="j", target_device_id="d1", document_params={"n": 1})

    owner = pages.world.database.owner
    async with owner.transaction():
        await owner.execute("SELECT pg_advisory_xact_lock(4711)")
        # It has read the row of d1, and waits in the fingerprint of d0.
        reading = asyncio.gather(pages.read("d0"), pages.read("d1"))
        await pages.world.database.wait_for_blocked_sessions(1)
        await owner.execute("SELECT set_config('app.tenant_id', $1, true)", pages.tenant)
        await owner.execute("DELETE FROM jobs.jobs WHERE tenant_id = $1", pages.tenant)

    _, page = await reading
    assert page.executions[0].document_params["n"] == 1


async def test_list_has_the_fingerprint_of_the_poll(pages: Pages) -> None:
    await pages.create("first")
    await pages.create("second", rollout=rollout({"remainder": True}, max_in_progress=2))
    await pages.world.device("d0").start("second")
    devices, limits = ["d0", "d1", "d1", "unknown"], [11, 11, 2, 11]
    async with request_session(pages.world.database) as (_, store):

        async def poll(known: Sequence[int | None]) -> Sequence[tuple[int, int]]:
            return await store.changed_pending_fingerprints(
                [pages.tenant] * 4, device_ids=devices, limits=limits, fingerprints=[*known]
            )

        polled = await poll([None] * 4)
        listed = await store.list_watched_executions(
            pages.tenant, device_ids=devices, limits=limits, max_bytes=MIB
        )
        unchanged = await poll([fingerprint for _, fingerprint in polled])

    assert polled == [
        (row["position"] - 1, row["fingerprint"]) for row in listed if row["job_id"] is None
    ]
    assert len({fingerprint for _, fingerprint in polled}) == 3
    assert unchanged == []


@pytest.mark.parametrize("error", [DatabaseUnavailable(), QueryTimeout(1), SchemaNotCurrent()])
async def test_page_is_read_when_the_database_is_back(pages: Pages, error: Exception) -> None:
    await pages.create()

    async def fail_twice() -> None:
        if len(pages.statements) < 3:
            raise error

    pages.before = fail_twice

    page = await pages.read("d0")

    assert job_ids(page) == ["j"]
    assert pages.memory.held == response_bytes(page.ByteSize())


async def test_read_ends_when_the_server_stops_while_the_database_is_away(pages: Pages) -> None:
    failed = asyncio.Event()

    async def fail() -> None:
        failed.set()
        raise DatabaseUnavailable

    pages.before = fail
    reading = [pages.reading("d0"), pages.reading("d1")]
    await failed.wait()

    pages.stopping.set()

    for read in reading:
        with pytest.raises(ServerStopping):
            await read
    assert pages.memory.held == 0


async def test_streams_that_end_while_they_wait_for_bytes_are_forgotten(pages: Pages) -> None:
    await pages.create()
    slow = Reservation(pages.memory, pages.tenant)
    slow.set_size(32 * MIB)
    ended = pages.reading("d0")
    await pages.wait_until_bytes_are_awaited()
    assert pages.statements == []
    ended_while_queued, reading = pages.reading("d1"), pages.reading("d2")
    await asyncio.sleep(0)
    for read in (ended, ended_while_queued):
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read

    slow.release()

    assert job_ids(await reading) == ["j"]
    assert pages.statements == [["d2"]]


async def test_stream_that_ends_while_its_page_is_read_holds_no_bytes(pages: Pages) -> None:
    await pages.create()
    reading_d0 = pages.reading("d0")

    async def cancel() -> None:
        reading_d0.cancel()

    pages.before = cancel
    reservation = Reservation(pages.memory, pages.tenant)
    others = pages.reading("d1", reservation=reservation)

    assert job_ids(await others) == ["j"]
    reservation.release()
    assert pages.memory.held == 0
