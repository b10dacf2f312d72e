"""What operators read of a job with a rollout: its settings, its stages and their counts."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.rollouts import StoredRollout


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
