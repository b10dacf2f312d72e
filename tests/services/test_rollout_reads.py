"""What operators read of a job with a rollout: its settings, its stages and their counts."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from tests.support.callers import Operator, all_executions
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.rollouts import StoredRollout
from tests.support.server import Server


@pytest.fixture
async def rollout(database: Database, operator: Operator) -> StoredRollout:
    """The job "j" of ten devices in stages of 1, 4 and 5 devices."""
    await database.add_devices(operator.tenant, 10)
    await operator.create(job_id="j", target_all=True)
    rollout = StoredRollout(database.owner, operator.tenant, "j")
    await rollout.add([1, 4, 5])
    return rollout


async def test_get_job_returns_the_settings_of_the_rollout(
    operator: Operator, rollout: StoredRollout
) -> None:
    await rollout.set_job("max_in_progress = 3")
    await rollout.set_stage(0, "display_name = 'canary', bake_seconds = 60")
    await rollout.set_stage(
        1, "device_count = NULL, percent = 50, min_succeeded_percent = 90, require_approval = true"
    )
    await rollout.set_stage(2, "device_count = NULL, releases_per_minute = 7")

    job = await operator.get("j")

    assert job.rollout == pb.Rollout(
        stages=[
            pb.Stage(
                display_name="canary",
                device_count=1,
                gate=pb.Gate(bake_time=Duration(seconds=60)),
            ),
            pb.Stage(percent=50, gate=pb.Gate(min_succeeded_percent=90, require_approval=True)),
            pb.Stage(remainder=True, releases_per_minute=7),
        ],
        max_in_progress=3,
        seed="s",
    )


async def test_get_job_returns_the_state_of_each_stage(
    operator: Operator, rollout: StoredRollout
) -> None:
    job = await operator.get("j")

    assert [stage.state for stage in job.stages] == [
        pb.JobStage.OPEN,
        pb.JobStage.PENDING,
        pb.JobStage.PENDING,
    ]
    assert [stage.total_executions for stage in job.stages] == [1, 4, 5]
    assert [stage.released_count for stage in job.stages] == [1, 0, 0]
    assert [stage.execution_counts for stage in job.stages] == [
        pb.ExecutionCounts(queued=1),
        pb.ExecutionCounts(held=4),
        pb.ExecutionCounts(held=5),
    ]
    assert job.execution_counts == pb.ExecutionCounts(queued=1, held=9)
    assert [execution.status for execution in job.executions] == [
        pb.JobExecution.QUEUED,
        *9 * [pb.JobExecution.HELD],
    ]
    assert [execution.stage for execution in job.executions] == [0, *4 * [1], *5 * [2]]


async def test_get_job_returns_no_rollout_when_the_job_has_none(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="j", target_all=True)

    job = await operator.get("j")

    assert not job.HasField("rollout")
    assert not job.failure_criteria
    assert not job.stages
    assert not job.HasField("trip")
    assert not job.executions[0].HasField("stage")
    assert job.execution_counts == pb.ExecutionCounts(queued=1)


async def test_state_of_stages_follows_the_open_stage(
    operator: Operator, rollout: StoredRollout
) -> None:
    await rollout.set_job("open_stage = 2, release_end = 10, release_base = 5")
    job = await operator.get("j")

    assert [stage.state for stage in job.stages] == [
        pb.JobStage.PASSED,
        pb.JobStage.PASSED,
        pb.JobStage.OPEN,
    ]
    assert [stage.released_count for stage in job.stages] == [1, 4, 5]


async def test_last_stage_has_passed_when_all_its_executions_are_finished(
    operator: Operator, rollout: StoredRollout
) -> None:
    await rollout.set_job("open_stage = 2, release_end = 10, expires_at = now()")

    job = await operator.get("j")

    assert job.stages[2].state == pb.JobStage.PASSED
    assert job.stages[2].execution_counts == pb.ExecutionCounts(timed_out=5)
    assert job.execution_counts == pb.ExecutionCounts(timed_out=10)


async def test_held_executions_are_rejected_when_the_job_is_canceled(
    operator: Operator, rollout: StoredRollout
) -> None:
    await operator.cancel("j")

    job = await operator.get("j")

    assert job.execution_counts == pb.ExecutionCounts(rejected=10)
    assert [stage.execution_counts for stage in job.stages] == [
        pb.ExecutionCounts(rejected=1),
        pb.ExecutionCounts(rejected=4),
        pb.ExecutionCounts(rejected=5),
    ]
    assert {execution.status for execution in job.executions} == {pb.JobExecution.REJECTED}


async def test_rate_releases_executions_as_time_passes(
    operator: Operator, rollout: StoredRollout
) -> None:
    await rollout.set_job(
        "open_stage = 1, release_end = 5, release_base = 1, release_rate = 2,"
        " release_since = now() - interval '70 seconds'"
    )

    job = await operator.get("j")

    assert [stage.released_count for stage in job.stages] == [1, 2, 0]
    assert job.execution_counts == pb.ExecutionCounts(queued=3, held=7)
    assert job.stages[1].execution_counts == pb.ExecutionCounts(queued=2, held=2)


async def test_rate_stands_still_during_a_pause(operator: Operator, rollout: StoredRollout) -> None:
    await rollout.set_job(
        "release_end = 5, release_base = 1, release_rate = 2,"
        " release_since = now() - interval '1 hour', paused_at = now() - interval '59 minutes',"
        " pause_reason = 'r', pause_cause = 'GATE_NOT_MET'"
    )

    job = await operator.get("j")

    assert job.execution_counts == pb.ExecutionCounts(queued=3, held=7)
    assert job.pause.cause == pb.Pause.GATE_NOT_MET


async def test_pause_by_an_operator_has_that_cause(
    operator: Operator, rollout: StoredRollout
) -> None:
    paused = await operator.pause("j")

    assert paused.pause.cause == pb.Pause.OPERATOR
    assert paused.rollout.stages[0].device_count == 1
    assert len(paused.stages) == 3
    assert (await operator.list()).jobs[0].pause.cause == pb.Pause.OPERATOR


async def test_next_opening_is_shown_unless_paused_or_the_approval_is_missing(
    operator: Operator, rollout: StoredRollout
) -> None:
    await rollout.set_job("stage_due_at = '2030-01-01T00:00:00Z'")

    assert (await operator.get("j")).stages[0].next_opens_at == Timestamp(seconds=1893456000)

    await rollout.set_stage(0, "require_approval = true")
    assert not (await operator.get("j")).stages[0].HasField("next_opens_at")

    await rollout.set_stage(0, "approved_at = now(), approved_by = 'ann', approval_comment = 'ok'")
    stage = (await operator.get("j")).stages[0]
    assert stage.HasField("next_opens_at")
    assert (stage.approval.approved_by, stage.approval.comment) == ("ann", "ok")

    assert not (await operator.pause("j")).stages[0].HasField("next_opens_at")


async def test_list_jobs_counts_held_executions_and_leaves_out_the_rollout(
    operator: Operator, rollout: StoredRollout
) -> None:
    (job,) = (await operator.list()).jobs

    assert job.execution_counts == pb.ExecutionCounts(queued=1, held=9)
    assert not job.HasField("rollout")
    assert not job.stages


@pytest.mark.parametrize(
    ("status", "devices"),
    [("QUEUED", ["d00001"]), ("HELD", [f"d{n:05}" for n in range(2, 11)])],
)
async def test_status_filter_finds_held_and_queued_executions(
    operator: Operator, rollout: StoredRollout, status: str, devices: list[str]
) -> None:
    executions = await all_executions(operator, "j", status=status, limit=2)

    assert [execution.device_id for execution in executions] == devices
    assert {execution.status for execution in executions} == {pb.JobExecution.Status.Value(status)}


async def test_executions_of_a_device_show_that_they_are_held(
    operator: Operator, rollout: StoredRollout
) -> None:
    listed = await operator.executions("", device_id="d00002", status="HELD")
    queued = await operator.executions("", device_id="d00002", status="QUEUED")
    of_job = await operator.executions("j", device_id="d00002", status="HELD")

    (execution,) = listed.executions
    assert (execution.status, execution.stage) == (pb.JobExecution.HELD, 1)
    assert not queued.executions
    assert of_job == listed
    (attempt,) = await operator.attempts("j", "d00002")
    assert (attempt.status, attempt.stage) == (pb.JobExecution.HELD, 1)


async def test_devices_do_not_see_held_executions(
    server: Server, operator: Operator, rollout: StoredRollout
) -> None:
    device = server.device(operator.tenant, "d00002")

    assert not (await device.pending()).executions
    assert await device.start_next() is None
    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
        await device.get("j")


async def test_device_starts_its_next_execution_behind_a_held_one(
    server: Server, operator: Operator, rollout: StoredRollout
) -> None:
    device = server.device(operator.tenant, "d00002")
    await operator.create(job_id="later", target_device_id="d00002")

    started = await device.start_next()

    assert started is not None
    assert started.job_id == "later"


async def test_device_sees_an_execution_that_the_rate_has_released(
    server: Server, operator: Operator, rollout: StoredRollout
) -> None:
    await rollout.set_job(
        "release_end = 5, release_base = 1, release_rate = 60,"
        " release_since = now() - interval '1 second'"
    )
    device = server.device(operator.tenant, "d00002")

    (pending,) = (await device.pending()).executions

    assert pending.status == pb.JobExecution.QUEUED
    assert (await device.get("j")).status == pb.JobExecution.QUEUED
    started = await device.start_next()
    assert started is not None


async def test_list_jobs_finds_jobs_that_await_an_approval(
    operator: Operator, rollout: StoredRollout
) -> None:
    await operator.create(job_id="other", target_all=True)
    assert not (await operator.list(awaiting_approval=True)).jobs

    await rollout.set_job("awaiting_approval = true")

    (job,) = (await operator.list(awaiting_approval=True)).jobs
    assert job.job_id == "j"
    assert (await operator.get("j")).stages[0].awaiting_approval
    assert not (await operator.list(awaiting_approval=True, document_type="x")).jobs
    assert not (await operator.list(awaiting_approval=True, status="COMPLETED")).jobs
    assert (await operator.list(awaiting_approval=True, status="IN_PROGRESS")).jobs


@pytest.mark.parametrize("end", ["expires_at = now()", None], ids=["expired", "canceled"])
async def test_finished_job_awaits_no_approval(
    operator: Operator, rollout: StoredRollout, end: str | None
) -> None:
    await rollout.set_job("awaiting_approval = true")
    if end:
        await rollout.set_job(end)
    else:
        await operator.cancel("j")

    assert not (await operator.list(awaiting_approval=True)).jobs
    assert not (await operator.get("j")).stages[0].awaiting_approval
