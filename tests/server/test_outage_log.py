"""The log over an outage of the database: one line when it begins and one when it ends."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.db.outage import Outage
from jobs_grpc.dev import embedded_postgres
from jobs_grpc.observability import logs
from tests.support.clock import Clock
from tests.support.logging_setup import configured_logging
from tests.support.postgres import new_data_dir
from tests.support.server_process import connected_operator, serving
from tests.support.waiting import wait_until_true

OUTAGE_SECONDS = 3.0
CALLERS = 8
CALL = re.compile(r" (ListJobs|WatchJob) [A-Z_]+ ")


@pytest.mark.slow
async def test_outage_is_one_warning_and_one_line_at_its_end_in_each_worker() -> None:
    """As after `pg_ctl stop -m fast`, three seconds, and `pg_ctl start`, while clients call."""
    async with AsyncExitStack() as stack:
        data_dir = stack.enter_context(new_data_dir())
        with embedded_postgres.running(data_dir, "fsync=off") as cluster:
            owner_dsn = cluster.dsn("postgres")
            await migrate(owner_dsn, RequestRole())
            request_dsn = cluster.dsn("postgres", RequestRole().name)
            service = await stack.enter_async_context(
                serving(request_dsn, "--workers", "2", JOBS_OWNER_DATABASE_URL=owner_dsn)
            )
            log = service.log
            address = await service.address()
            await wait_until_true(lambda: _logged(log, r"INFO +serving", 2))
            callers = [await stack.enter_async_context(_calling(address)) for _ in range(CALLERS)]
            await _wait_until_all_succeed_again(callers)
            before = len(log)
        until = time.monotonic() + OUTAGE_SECONDS
        await wait_until_true(lambda: all(caller.last_failure >= until for caller in callers))
        with embedded_postgres.running(data_dir, "fsync=off"):
            await wait_until_true(lambda: _logged(log[before:], "responds again", 2))
            await _wait_until_all_succeed_again(callers)
            lines = log[before:]

    assert "\n".join(lines).count("Traceback") == 0
    others = [line for line in lines if not CALL.search(line)]
    assert len(others) == 4, "\n".join(others)
    began = [line for line in others if " WARNING the database is unavailable; calls fail" in line]
    ended = [line for line in others if " INFO    the database responds again after " in line]
    for pair in (began, ended):
        assert sorted(re.findall(r"worker=(\d)$", "\n".join(pair), re.MULTILINE)) == ["1", "2"]
    assert not any("request_id" in line for line in others)
    # Thousands of calls have failed. Each worker writes a line a second.
    refused = [line for line in lines if " ListJobs UNAVAILABLE " in line]
    assert 2 <= len(refused) < 60
    assert sum(int(n) for n in re.findall(r" others=(\d+)", "\n".join(refused))) > 100


@dataclass
class Caller:
    """What a client has seen that calls all the time."""

    succeeded: int = 0
    last_failure: float = 0.0


@asynccontextmanager
async def _calling(address: str) -> AsyncIterator[Caller]:
    """Call ListJobs all the time on a connection of its own, and watch a job."""
    caller = Caller()
    async with connected_operator(address, "acme") as operator:
        request = pb.WatchJobRequest(job_id="none")
        watch = operator.stub.WatchJob(request, metadata=operator.metadata)

        async def call_repeatedly() -> None:
            while True:
                try:
                    await operator.list()
                    caller.succeeded += 1
                except grpc.aio.AioRpcError:
                    caller.last_failure = time.monotonic()
                # Hundreds of calls a second are enough; more would only keep the processors busy.
                await asyncio.sleep(0.03)

        calling = asyncio.create_task(call_repeatedly())
        try:
            yield caller
        finally:
            calling.cancel()
            await asyncio.wait({calling})
            watch.cancel()


def _logged(log: list[str], pattern: str, count: int) -> bool:
    return sum(bool(re.search(pattern, line)) for line in log) >= count


async def _wait_until_all_succeed_again(callers: list[Caller]) -> None:
    for caller in callers:
        caller.succeeded = 0
    await wait_until_true(lambda: all(caller.succeeded for caller in callers))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outage(clock: Clock) -> Outage:
    return Outage(clock)


def test_outage_logs_one_line_when_it_begins_and_one_when_it_ends(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for _ in range(1000):
        outage.note_failure(ConnectionError("connection\nlost"))
    clock.now += 3
    outage.note_response(clock.now)
    outage.note_response(clock.now)

    assert caplog.messages == [
        "the database is unavailable; calls fail with UNAVAILABLE until it responds:"
        " ConnectionError: connection lost",
        "the database responds again after 3.0 s; failed statements and checks: 1000",
    ]


def test_outage_goes_on_when_a_response_is_older_than_the_last_failure(
    outage: Outage, clock: Clock
) -> None:
    """A check can pass just before the database stops, and be noted after a call has failed."""
    asked_at = clock.now
    clock.now += 1
    outage.note_failure("lost")
    outage.note_response(asked_at)

    assert outage.active


def test_outage_goes_on_when_statements_still_fail_between_checks(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the database accepts the health check, but no further connections."""
    for _ in range(10):
        outage.note_failure("too many connections")
        clock.now += 0.5
        outage.note_response(clock.now)

    assert outage.active
    assert len(caplog.messages) == 1


def test_outage_has_no_request_id(outage: Outage) -> None:
    token = logs.request_id.set("order-66")
    with configured_logging("json") as written:
        outage.note_failure("lost")
    logs.request_id.reset(token)

    assert "the database is unavailable" in written.getvalue()
    assert "order-66" not in written.getvalue()
