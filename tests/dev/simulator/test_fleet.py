"""Fleets of simulated devices."""

from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.client import DeviceClient
from jobs_grpc.client.errors import create_error
from jobs_grpc.dev.simulator.totals import Totals
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.fleets import make_fleet, running_fleet
from tests.support.jobs import wait_for_counts
from tests.support.server import Server, reserved_address, running_server
from tests.support.waiting import wait_until_equal, wait_until_true
from tests.support.world import World


@pytest.fixture
async def job(database: Database, operator: Operator) -> str:
    await database.add_devices(operator.tenant, 20)
    await operator.create(job_id="j", target_all=True)
    return "j"


async def wait_until_idle(totals: Totals, started: int) -> None:
    """Return when the devices have started that many executions and carry out none.

    The server stores the last report before the device has its response.
    """

    await wait_until_true(lambda: totals.started >= started and totals.active == 0)


@pytest.mark.slow
@pytest.mark.parametrize("bridge", [False, True], ids=["unary", "bridge"])
@pytest.mark.parametrize("poll_interval", [None, 0.1], ids=["watch", "poll"])
async def test_fleet_completes_jobs_one_after_the_other(
    server: Server, operator: Operator, job: str, bridge: bool, poll_interval: float | None
) -> None:
    fleet = make_fleet(
        20, server.address, operator.tenant, bridge=bridge, poll_interval=poll_interval
    )
    async with running_fleet(fleet) as totals:
        first = await wait_for_counts(operator, job, succeeded=20)
        await operator.create(job_id="second", target_all=True)
        second = await wait_for_counts(operator, "second", succeeded=20)
        await wait_until_idle(totals, started=40)

    assert first.status == second.status == pb.Job.COMPLETED
    assert first.executions[0].status_details == {"percent": 100}
    assert (totals.started, totals.succeeded, totals.errors, totals.interrupted) == (40, 40, 0, 0)


@pytest.mark.parametrize("bridge", [False, True], ids=["unary", "bridge"])
async def test_fleet_reports_the_version_of_the_document_after_a_success(
    world: World, job: str, bridge: bool
) -> None:
    await world.create("update", target_device_id="d00001", document_params={"version": "2.1"})
    # The device d00021 does not exist.
    fleet = make_fleet(21, world.server.address, world.tenant, bridge=bridge, initial_version="2.0")

    async def versions() -> tuple[int, int]:
        lists = [await world.fleet.list(selector=f"fact.version=2.{n}") for n in (0, 1)]
        return len(lists[0].devices), len(lists[1].devices)

    async with running_fleet(fleet):
        await wait_for_counts(world.operator, job, succeeded=20)
        await wait_until_equal(versions, (19, 1))


async def test_version_is_reported_again_after_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.add_devices(1)
    await world.create(target_all=True, document_params={"version": "2.1"})
    store = DeviceClient.update_facts
    errors = [create_error(grpc.StatusCode.ABORTED, "")]

    async def fail_once(client: DeviceClient, facts: dict[str, str]) -> None:
        if facts == {"version": "2.1"} and errors:
            raise errors.pop()
        await store(client, facts)

    async def is_stored() -> bool:
        return bool((await world.fleet.list(selector="fact.version=2.1")).devices)

    monkeypatch.setattr(DeviceClient, "update_facts", fail_once)
    async with running_fleet(
        make_fleet(1, world.server.address, world.tenant, initial_version="2.0")
    ) as totals:
        await wait_until_equal(is_stored, True)

    assert (totals.succeeded, totals.interrupted, totals.errors) == (1, 0, 1)


async def test_fleet_polls_when_the_server_asks_for_it(world: World, job: str) -> None:
    async with running_server(world.database.request_dsn, JOBS_POLL_AFTER="0.1") as server:
        fleet = make_fleet(1, server.address, world.tenant, poll=True)
        async with running_fleet(fleet):
            await wait_for_counts(world.operator, job, queued=19, succeeded=1)
            # The device has found that nothing is pending, and polls again.
            await world.operator.create(job_id="second", target_device_id="d00001")
            await wait_for_counts(world.operator, "second", succeeded=1)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("failure_rate", {"failed": 20}),
        ("reject_rate", {"rejected": 20}),
        ("stall_rate", {"in_progress": 20}),
    ],
)
@pytest.mark.parametrize("bridge", [False, True], ids=["unary", "bridge"])
async def test_every_device_has_same_outcome_when_its_rate_is_one(
    server: Server, operator: Operator, job: str, name: str, counts: dict[str, int], bridge: bool
) -> None:
    fleet = make_fleet(20, server.address, operator.tenant, bridge=bridge, **{name: 1.0})
    async with running_fleet(fleet) as totals:
        result = await wait_for_counts(operator, job, **counts)
        await wait_until_idle(totals, started=20)

    assert totals.started == totals.failed + totals.rejected + totals.stalled == 20
    assert totals.succeeded == totals.interrupted == totals.errors == 0
    if name != "stall_rate":
        assert result.status == pb.Job.COMPLETED
        assert result.executions[0].status_details["reason"]


@pytest.mark.slow
async def test_stalled_devices_do_nothing_until_another_fleet_continues(
    server: Server, operator: Operator, job: str
) -> None:
    stalling = make_fleet(20, server.address, operator.tenant, stall_rate=1.0, poll_interval=0.02)
    async with running_fleet(stalling) as totals:
        await wait_for_counts(operator, job, in_progress=20)
        await operator.create(job_id="second", target_all=True)
        await wait_for_counts(operator, "second", queued=20)
        await wait_until_idle(totals, started=20)
    assert totals.started == totals.stalled == 20

    async with running_fleet(make_fleet(20, server.address, operator.tenant)) as totals:
        await wait_for_counts(operator, job, succeeded=20)
        await wait_for_counts(operator, "second", succeeded=20)
        await wait_until_idle(totals, started=40)
    assert totals.started == totals.succeeded == 40


@pytest.mark.parametrize("bridge", [False, True], ids=["unary", "bridge"])
async def test_execution_is_interrupted_when_it_times_out_while_in_progress(
    database: Database, server: Server, operator: Operator, job: str, bridge: bool
) -> None:
    # One hour, with a report every tenth of a second.
    slow: dict[str, Any] = {"latency": (3600, 3600), "progress": 35_999}
    fleet = make_fleet(1, server.address, operator.tenant, bridge=bridge, **slow)
    async with running_fleet(fleet) as totals:
        await wait_for_counts(operator, job, queued=19, in_progress=1)
        await database.set_status(operator.tenant, job, "d00001", "TIMED_OUT")

        await wait_until_true(lambda: totals.interrupted == 1)

    assert totals.succeeded == totals.errors == totals.active == 0


@pytest.mark.parametrize("bridge", [False, True], ids=["unary", "bridge"])
@pytest.mark.parametrize("force", [False, True])
async def test_device_ends_its_execution_when_the_job_is_canceled(
    server: Server, operator: Operator, job: str, bridge: bool, force: bool
) -> None:
    slow: dict[str, Any] = {"latency": (3600, 3600), "progress": 35_999}
    fleet = make_fleet(1, server.address, operator.tenant, bridge=bridge, **slow)
    async with running_fleet(fleet) as totals:
        await wait_for_counts(operator, job, queued=19, in_progress=1)
        await operator.cancel(job, force=force)

        await wait_for_counts(operator, job, rejected=20)
        await wait_until_true(lambda: totals.interrupted == 1)
        device = server.device(operator.tenant, "d00001")
        await wait_until_equal(device.ended, [])

    (execution, *_) = (await operator.get(job)).executions
    assert execution.end_cause == pb.JobExecution.JOB_CANCELED
    assert totals.errors == totals.active == 0


@pytest.mark.slow
@pytest.mark.parametrize("bridge", [False, True], ids=["unary", "bridge"])
async def test_fleet_continues_when_server_restarts(
    database: Database, operator: Operator, job: str, bridge: bool
) -> None:
    async with AsyncExitStack() as stack:
        address = stack.enter_context(reserved_address())
        async with running_server(database.request_dsn, JOBS_LISTEN=address):
            fleet = make_fleet(
                20, address, operator.tenant, latency=(0.05, 1.0), progress=9, bridge=bridge
            )
            totals = await stack.enter_async_context(running_fleet(fleet))

            await wait_until_true(lambda: totals.succeeded > 0)
        await stack.enter_async_context(running_server(database.request_dsn, JOBS_LISTEN=address))
        await wait_for_counts(operator, job, succeeded=20)
        await wait_until_idle(totals, started=20)

    assert (totals.started, totals.succeeded, totals.errors) == (20, 20, 0), totals.last_error
