"""`jobs-grpc cancel`."""

import json

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.cli import Shell

pytestmark = pytest.mark.usefixtures("started_job")


async def test_cancel_leaves_in_progress_executions_when_not_forced(
    shell: Shell, operator: Operator
) -> None:
    canceled = await shell("cancel", "j")

    assert (canceled.code, canceled.out.splitlines()) == (
        0,
        [
            "canceled j",
            "1 device is still IN_PROGRESS: `jobs-grpc get j --status IN_PROGRESS` lists them,"
            " `jobs-grpc cancel j --device DEVICE --force` cancels one",
        ],
    )
    counts = (await operator.get("j")).execution_counts
    assert counts == pb.ExecutionCounts(in_progress=1, rejected=1)


async def test_second_cancel_names_the_cancel_of_one_device(shell: Shell) -> None:
    await shell("cancel", "j")

    forced = await shell("cancel", "j", "--force")

    assert forced.code == 4
    assert "`jobs-grpc cancel j --device DEVICE --force`" in forced.err
    assert (await shell("cancel", "j", "--device", "pump", "--force")).code == 0
    assert "--device" not in (await shell("cancel", "j", "--force")).err


async def test_cancel_has_no_hint_about_devices_when_the_job_is_completed(shell: Shell) -> None:
    for device in ("pump", "valve"):
        await shell("cancel", "j", "--device", device, "--force")

    canceled = await shell("cancel", "j")

    assert canceled.code == 4
    assert canceled.err == (
        "jobs-grpc: FAILED_PRECONDITION: cannot cancel job j in status COMPLETED\n"
    )


async def test_cancel_rejects_in_progress_executions_when_forced(
    shell: Shell, operator: Operator
) -> None:
    canceled = await shell("cancel", "j", "--force", "--reason", "smoke")

    assert (canceled.code, canceled.out) == (0, "canceled j\n")
    job = await operator.get("j")
    assert job.execution_counts == pb.ExecutionCounts(rejected=2)
    assert job.cancel_reason == "smoke"


async def test_cancel_rejects_one_execution_when_device_is_given(
    shell: Shell, operator: Operator
) -> None:
    queued = await shell("cancel", "j", "--device", "valve", "--reason", "in repair")
    in_progress = await shell("cancel", "j", "--device", "pump")

    assert (queued.code, queued.out) == (0, "canceled j on valve\n")
    assert (in_progress.code, in_progress.out) == (4, "")
    assert in_progress.err.startswith(
        "jobs-grpc: FAILED_PRECONDITION: Cannot cancel the execution of job j on"
    )
    job = await operator.get("j")
    assert job.status == pb.Job.IN_PROGRESS
    assert job.execution_counts == pb.ExecutionCounts(in_progress=1, rejected=1)
    assert job.executions[1].status_details == {"reason": "in repair"}

    forced = await shell("cancel", "j", "--device", "pump", "--force", "--json")

    execution = json.loads(forced.out)
    assert (execution["device_id"], execution["status"]) == ("pump", "CANCELED")
    assert (await operator.get("j")).status == pb.Job.COMPLETED


async def test_cancel_does_not_cancel_job_when_device_is_empty(
    shell: Shell, operator: Operator
) -> None:
    canceled = await shell("cancel", "j", "--device", "")

    assert canceled.code == 2
    assert canceled.err.startswith("jobs-grpc: INVALID_ARGUMENT: device_id must be")
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS


async def test_get_shows_unopened_stages_and_no_pause_when_job_is_canceled(
    shell: Shell,
) -> None:
    await shell("create", "--type", "x", "--all", "--job-id", "r", "--stage=50%", "--stage=rest")
    await shell("pause", "r", "--reason", "looks wrong")
    await shell("cancel", "r", "--reason", "bad release")

    got = await shell("get", "r")

    facts, stages, _ = got.out.split("\n\n")
    assert "status        CANCELED\ncancel reason bad release\ntype " in facts
    assert "paused" not in facts
    assert stages.splitlines() == [
        "stages",
        f" 0 50%   STOPPED   {'/' * 24}  1 REJECTED or CANCELED",
        f" 1 rest  UNOPENED  {'/' * 24}  1 REJECTED or CANCELED",
    ]
