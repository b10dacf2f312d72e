"""jobs-grpc cancel, retry, delete."""

import json

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.cli import Shell
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server


@pytest.fixture
async def shell(
    database: Database,
    server: Server,
    operator: Operator,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    """A shell in whose tenant "pump" is at work on the job "j", and "valve" QUEUED in it."""
    monkeypatch.setenv("JOBS_SERVER", server.address)
    monkeypatch.setenv("JOBS_TENANT", operator.tenant)
    await database.add_devices(operator.tenant, ["pump", "valve"])
    await operator.create(job_id="j", target_all=True)
    await server.device(operator.tenant, "pump").start("j")
    return Shell(capsys)


async def test_cancel_leaves_running_devices_unless_forced(
    shell: Shell, operator: Operator
) -> None:
    canceled = await shell("cancel", "j")

    assert (canceled.code, canceled.out) == (0, "canceled j\n")
    counts = (await operator.get("j")).execution_counts
    assert counts == pb.ExecutionCounts(in_progress=1, rejected=1)


async def test_cancel_with_force_ends_running_devices_too(shell: Shell, operator: Operator) -> None:
    canceled = await shell("cancel", "j", "--force", "--reason", "smoke")

    assert (canceled.code, canceled.out) == (0, "canceled j\n")
    job = await operator.get("j")
    assert job.execution_counts == pb.ExecutionCounts(rejected=2)
    assert job.cancel_reason == "smoke"


async def test_cancel_of_one_device(shell: Shell, operator: Operator) -> None:
    queued = await shell("cancel", "j", "--device", "valve", "--reason", "in repair")
    running = await shell("cancel", "j", "--device", "pump")

    assert (queued.code, queued.out) == (0, "canceled j on valve\n")
    assert (running.code, running.out) == (4, "")
    assert running.err.startswith("jobs-grpc: FAILED_PRECONDITION: Cannot cancel an execution in")
    job = await operator.get("j")
    assert job.status == pb.Job.IN_PROGRESS
    assert job.execution_counts == pb.ExecutionCounts(in_progress=1, rejected=1)
    assert job.executions[1].status_details == {"reason": "in repair"}

    forced = await shell("cancel", "j", "--device", "pump", "--force", "--json")

    execution = json.loads(forced.out)["execution"]
    assert (execution["device_id"], execution["status"]) == ("pump", "REJECTED")
    assert (await operator.get("j")).status == pb.Job.COMPLETED


async def test_an_empty_device_does_not_mean_the_whole_job(
    shell: Shell, operator: Operator
) -> None:
    canceled = await shell("cancel", "j", "--device", "")

    assert canceled.code == 2
    assert canceled.err.startswith("jobs-grpc: INVALID_ARGUMENT: device_id must be")
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS


@pytest.mark.parametrize(
    "statuses",
    [
        ["--status", "REJECTED"],
        ["--status", "REJECTED", "FAILED"],
        ["--status", "FAILED", "--status", "REJECTED"],
    ],
)
async def test_retry_queues_again(shell: Shell, operator: Operator, statuses: list[str]) -> None:
    await operator.cancel_execution("j", "valve")

    retried = await shell("retry", "j", *statuses)

    assert retried.code == 0
    assert retried.out.startswith("queued j again for 1 device, expires: 20")
    assert (await operator.get("j")).executions[1].execution_number == 2


async def test_retry_with_another_expiry(shell: Shell, operator: Operator) -> None:
    await operator.cancel_execution("j", "valve")
    for expiry, expected in (("--expires-in-hours", "48"), ("--never-expires", "")):
        retried = await shell("retry", "j", "--status", "REJECTED", expiry, *expected.split())

        assert retried.code == 0
        assert (await operator.get("j")).HasField("expires_at") == bool(expected)
        await operator.cancel_execution("j", "valve")

    answer = json.loads((await shell("retry", "j", "--status", "REJECTED", "--json")).out)
    assert answer == {"retried_count": 1}


async def test_delete(shell: Shell, operator: Operator) -> None:
    refused = await shell("delete", "j")
    await operator.cancel("j", force=True)
    deleted = await shell("delete", "j")
    again = await shell("delete", "j")

    assert (refused.code, refused.out) == (4, "")
    assert refused.err == (
        "jobs-grpc: FAILED_PRECONDITION: Cannot delete job in status IN_PROGRESS; cancel it first\n"
    )
    assert (deleted.code, deleted.out) == (0, "deleted j\n")
    assert again.code == 3
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await operator.get("j")


@pytest.mark.parametrize(
    "argv",
    [
        ["retry", "j"],
        ["retry", "j", "--status", "SUCCEEDED"],
        ["retry", "j", "--status", "FAILED", "--expires-in-hours", "1", "--never-expires"],
        ["cancel"],
        ["delete"],
    ],
)
async def test_wrong_arguments_are_explained(shell: Shell, argv: list[str]) -> None:
    result = await shell(*argv)

    assert result.code == 2
    assert result.err.startswith("usage: jobs-grpc")
