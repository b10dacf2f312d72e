"""jobs-grpc simulate: a fleet of clients that carries out jobs."""

import asyncio
import json
import os
import re
import signal
import socket
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from jobs_grpc.client.retry import Totals
from jobs_grpc.dev.simulator.fleet import Behaviour
from tests.support.callers import Operator
from tests.support.cli import Shell, spawn
from tests.support.database import Database
from tests.support.fleets import make_fleet, running_fleet
from tests.support.server import Server, reserved_address, running_server
from tests.support.waiting import TIMEOUT, wait_until


@pytest.fixture
async def job(database: Database, operator: Operator) -> str:
    """A job for twenty devices."""
    await database.add_devices(operator.tenant, 20)
    await operator.create(job_id="j", target_all=True)
    return "j"


async def until_counts(operator: Operator, job_id: str, **counts: int) -> pb.Job:
    """Return the job when its counts are these."""
    job = pb.Job()

    async def so() -> bool:
        job.CopyFrom(await operator.get(job_id, executions_limit=1))
        return job.execution_counts == pb.ExecutionCounts(**counts)

    await wait_until(so)
    return job


async def until_idle(totals: Totals, started: int) -> None:
    """Return when the devices have started that many and had an answer to every last report.

    An operator may see the end of a job before the device that reported it has its answer.
    """

    async def idle() -> bool:
        return totals.started >= started and totals.at_work == 0

    await wait_until(idle)


@pytest.mark.parametrize("bridge", [False, True], ids=["unary", "bridge"])
@pytest.mark.parametrize("poll", [None, 0.1], ids=["watch", "poll"])
async def test_a_fleet_completes_one_job_after_the_other(
    server: Server, operator: Operator, job: str, bridge: bool, poll: float | None
) -> None:
    fleet = make_fleet(20, server.address, operator.tenant, bridge=bridge, poll=poll)
    async with running_fleet(fleet) as totals:
        first = await until_counts(operator, job, succeeded=20)
        await operator.create(job_id="second", target_all=True)
        second = await until_counts(operator, "second", succeeded=20)
        await until_idle(totals, started=40)

    assert first.status == second.status == pb.Job.COMPLETED
    assert first.executions[0].status_details == {"percent": 100}
    assert (totals.started, totals.succeeded, totals.errors, totals.gone) == (40, 40, 0, 0)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("failure_rate", {"failed": 20}),
        ("reject_rate", {"rejected": 20}),
        ("silence_rate", {"in_progress": 20}),
    ],
)
@pytest.mark.parametrize("bridge", [False, True], ids=["unary", "bridge"])
async def test_a_rate_of_one_is_every_device(
    server: Server, operator: Operator, job: str, name: str, counts: dict[str, int], bridge: bool
) -> None:
    fleet = make_fleet(20, server.address, operator.tenant, bridge=bridge, **{name: 1.0})
    async with running_fleet(fleet) as totals:
        ended = await until_counts(operator, job, **counts)
        await until_idle(totals, started=20)

    assert totals.started == totals.failed + totals.rejected + totals.silent == 20
    assert totals.succeeded == totals.gone == totals.errors == 0
    if name != "silence_rate":
        assert ended.status == pb.Job.COMPLETED
        assert ended.executions[0].status_details["reason"]


async def test_silent_devices_hang_until_another_fleet_takes_over(
    server: Server, operator: Operator, job: str
) -> None:
    async with running_fleet(
        make_fleet(20, server.address, operator.tenant, silence_rate=1.0, poll=0.02)
    ) as totals:
        await until_counts(operator, job, in_progress=20)
        await operator.create(job_id="second", target_all=True)
        await until_counts(operator, "second", queued=20)
        await until_idle(totals, started=20)
    assert totals.started == totals.silent == 20

    async with running_fleet(make_fleet(20, server.address, operator.tenant)) as totals:
        await until_counts(operator, job, succeeded=20)
        await until_counts(operator, "second", succeeded=20)
        await until_idle(totals, started=40)
    assert totals.started == totals.succeeded == 40


@pytest.mark.parametrize("bridge", [False, True], ids=["unary", "bridge"])
async def test_what_others_end_meanwhile_is_gone(
    database: Database, server: Server, operator: Operator, job: str, bridge: bool
) -> None:
    # At work for an hour, and a report every tenth of a second.
    hour: dict[str, Any] = {"latency": (3600, 3600), "progress": 35_999}
    fleet = make_fleet(1, server.address, operator.tenant, bridge=bridge, **hour)
    async with running_fleet(fleet) as totals:
        await until_counts(operator, job, queued=19, in_progress=1)
        await database.set_status(operator.tenant, job, "d00001", "TIMED_OUT")

        async def gone() -> bool:
            return totals.gone == 1

        await wait_until(gone)

    assert totals.succeeded == totals.errors == totals.at_work == 0


@pytest.mark.parametrize("bridge", [False, True], ids=["unary", "bridge"])
async def test_a_fleet_survives_a_restart_of_the_server(
    database: Database, operator: Operator, job: str, bridge: bool
) -> None:
    async with AsyncExitStack() as stack:
        address = stack.enter_context(reserved_address())
        async with running_server(database.request_dsn, JOBS_LISTEN=address):
            fleet = make_fleet(
                20, address, operator.tenant, latency=(0.05, 1.0), progress=9, bridge=bridge
            )
            totals = await stack.enter_async_context(running_fleet(fleet))

            async def under_way() -> bool:
                return totals.succeeded > 0

            await wait_until(under_way)
        await stack.enter_async_context(running_server(database.request_dsn, JOBS_LISTEN=address))
        await until_counts(operator, job, succeeded=20)
        await until_idle(totals, started=20)

    assert (totals.started, totals.succeeded, totals.errors) == (20, 20, 0), totals.last_error


def test_devices_fare_the_same_with_the_same_seed() -> None:
    def plans(seed: int) -> list[object]:
        behaviour = Behaviour((1, 5), 0.2, 0.2, 0.2, 2, seed)
        return [behaviour.plan(f"d{n}", number) for n in range(200) for number in (1, 2)]

    assert plans(1) == plans(1) != plans(2)
    endings = [plan[0] for plan in plans(1)]  # type: ignore[index]
    assert all(40 < endings.count(e) < 120 for e in (None, "FAILED", "REJECTED"))


@pytest.mark.parametrize("how", [["--json"], []], ids=["json", "plain"])
async def test_ctrl_c_ends_it_with_a_summary(
    server: Server, operator: Operator, job: str, how: list[str]
) -> None:
    process = await spawn(
        "simulate",
        "--devices",
        "20",
        "--device-format",
        "d{:05}",
        "--latency",
        "0:0.1",
        "--failure-rate",
        "0",
        "--silence-rate",
        "0",
        *how,
        JOBS_SERVER=server.address,
        JOBS_TENANT=operator.tenant,
    )
    await until_counts(operator, job, succeeded=20)
    os.killpg(process.pid, signal.SIGINT)
    async with asyncio.timeout(TIMEOUT):
        out, err = await process.communicate()

    assert (process.returncode, err) == (0, b"")
    if how:
        summary = json.loads(out)
        assert (summary["started"], summary["errors"]) == (20, 0)
    else:
        # After lines of how it went, if it took its time.
        assert re.match(r"after 0:0\d:\d\d: 20 started, ", out.decode().splitlines()[-1])


async def test_a_server_that_goes_away_is_no_failure(
    database: Database, operator: Operator, job: str
) -> None:
    with reserved_address() as address:
        async with running_server(database.request_dsn, JOBS_LISTEN=address) as server:
            process = await spawn(
                *("simulate", "--devices", "20", "--device-format", "d{:05}", "--latency", "0"),
                *("--failure-rate", "0", "--silence-rate", "0", "--json"),
                JOBS_SERVER=address,
                JOBS_TENANT=operator.tenant,
            )
            there = Operator(jobs_pb2_grpc.JobServiceStub(server.channel), operator.tenant)
            await until_counts(there, job, succeeded=20)
        assert process.stderr is not None
        async with asyncio.timeout(TIMEOUT):
            away = (await process.stderr.readline()).decode()
            os.killpg(process.pid, signal.SIGINT)
            out, err = await process.communicate()

    assert away.startswith("the server is away, trying again: UNAVAILABLE: ")
    assert (process.returncode, err) == (0, b"")
    assert json.loads(out)["started"] == 20


async def test_it_ends_when_its_time_is_over(server: Server, tenant: str) -> None:
    process = await spawn(
        "simulate", "--devices", "3", "--for", "3", "--tenant", tenant, "--server", server.address
    )
    out, err = await process.communicate()

    assert (process.returncode, err) == (0, b"")
    assert re.fullmatch(r"after 0:0\d:\d\d: 0 started, 0 succeeded\n", out.decode())


@pytest.mark.parametrize("how", [["--json"], ["--bridge"], ["--poll", "0.01"]], ids=" ".join)
async def test_a_server_that_is_never_reached_is_a_failure(
    how: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with reserved_address() as address:
        result = await Shell(capsys)(
            "simulate", "--devices", "3", "--for", "2", "--tenant", "t", "--server", address, *how
        )

    assert (result.code, result.out) == (5, "")
    assert result.err.startswith(
        f"jobs-grpc: the server at {address} could not be reached: UNAVAILABLE: "
    )
    assert result.err.count("\n") == 1


async def test_a_server_that_never_answers_is_a_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        result = await Shell(capsys)(
            "simulate", "--devices", "3", "--for", "1", "--tenant", "t", "--server", address
        )

    assert (result.code, result.out) == (5, "")
    assert result.err == (
        f"jobs-grpc: the server at {address} could not be reached: there was no answer\n"
    )


async def test_who_has_not_asked_yet_misses_no_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with reserved_address() as address:
        result = await Shell(capsys)(
            *("simulate", "--devices", "1", "--poll", "86400", "--for", "0.1"),
            *("--tenant", "t", "--server", address),
        )

    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--devices", "0"], "--devices: must be from 1 to 100000"),
        (["--device-format", "device"], "--device-format: must be printable ASCII with a field"),
        (["--device-format", "{nothing}"], "--device-format: must be printable"),
        (["--latency", "5:1"], "--latency: must be MIN:MAX seconds"),
        (["--failure-rate", "2"], "--failure-rate: must be from 0 to 1"),
        (["--failure-rate", "nan"], "--failure-rate: must be from 0 to 1"),
        (["--poll", "0"], "--poll: must be seconds, more than 0"),
        (["--failure-rate", "0.6", "--reject-rate", "0.6"], "the rates must not add up"),
        (["--tenant", "é"], "x-tenant-id must be 1–256 printable ASCII"),
    ],
)
async def test_wrong_arguments_are_explained(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = await Shell(capsys)("simulate", "--tenant", "t", "--devices", "1", *argv)

    assert (result.code, result.out) == (2, "")
    assert message in result.err
