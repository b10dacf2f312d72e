"""The sweeper counts jobs that wait for an operator, and those that failure criteria canceled."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from jobs_grpc.maintenance.sweeper import StoppedRollouts, Sweeper
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.metrics import METRICS_ON, scrape
from tests.support.server import Server, running_server
from tests.support.staged_jobs import create_staged_job
from tests.support.waiting import wait_until


async def count(database: Database) -> tuple[int, ...]:
    """Return the numbers of jobs by cause of their pause, awaiting approval, and canceled."""
    async with Sweeper(database.owner_dsn) as sweeper:
        await sweeper.run_stages()
    counts = sweeper.stopped_rollouts
    assert isinstance(counts, StoppedRollouts)
    causes = ("FAILURE_CRITERION", "GATE_NOT_MET", "OPERATOR")
    by_cause = tuple(counts.paused[cause] for cause in causes)
    return (*by_cause, counts.awaiting_approval, counts.canceled)


async def trip(server: Server, operator: Operator, action: str) -> None:
    """Create the job "j" with a failure criterion, and let it trip."""
    criterion = pb.FailureCriterion(count=1, action=pb.FailureCriterion.Action.Value(action))
    await operator.create(job_id="j", target_all=True, failure_criteria=[criterion])
    await server.device(operator.tenant, "d00001").update("j", "FAILED")


@pytest.fixture
async def operator(database: Database, operator: Operator) -> Operator:
    """An operator of four devices. No other tenant has a job."""
    await database.owner.execute("DELETE FROM jobs.jobs")
    await database.add_devices(operator.tenant, 4)
    return operator


async def test_pause_by_a_criterion_is_counted_until_the_job_is_resumed(
    database: Database, server: Server, operator: Operator
) -> None:
    await trip(server, operator, "PAUSE")
    assert await count(database) == (1, 0, 0, 0, 0)

    await operator.resume("j")

    assert await count(database) == (0, 0, 0, 0, 0)


async def test_pause_by_a_criterion_is_not_counted_as_canceled_when_an_operator_cancels(
    database: Database, server: Server, operator: Operator
) -> None:
    await trip(server, operator, "PAUSE")

    await operator.cancel("j")

    assert await count(database) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("action", ["CANCEL", "FORCE_CANCEL"])
async def test_cancel_by_a_criterion_is_counted_for_an_hour(
    database: Database, server: Server, operator: Operator, action: str
) -> None:
    await trip(server, operator, action)
    assert await count(database) == (0, 0, 0, 0, 1)

    await database.owner.execute("UPDATE jobs.jobs SET canceled_at = now() - interval '1 hour'")

    assert await count(database) == (0, 0, 0, 0, 0)


async def test_pause_by_an_operator_is_counted_until_the_job_is_deleted(
    database: Database, operator: Operator
) -> None:
    await operator.create(job_id="j", target_all=True)
    await operator.pause("j")
    assert await count(database) == (0, 0, 1, 0, 0)

    await operator.cancel("j")
    await operator.delete("j")

    assert await count(database) == (0, 0, 0, 0, 0)


async def test_pause_by_a_gate_is_counted(
    database: Database, server: Server, operator: Operator
) -> None:
    stage: dict[str, Any] = {"device_count": 2, "gate": pb.Gate(min_succeeded_percent=100)}
    job = await create_staged_job(database, server, operator, stage, {"remainder": True})

    await job.finish(0, "FAILED")

    assert await count(database) == (0, 1, 0, 0, 0)


async def test_missing_approval_is_counted_until_the_stage_opens(
    database: Database, server: Server, operator: Operator
) -> None:
    stage: dict[str, Any] = {"device_count": 2, "gate": pb.Gate(require_approval=True)}
    job = await create_staged_job(database, server, operator, stage, {"remainder": True})
    assert await count(database) == (0, 0, 0, 0, 0)
    await job.finish(0)
    assert await count(database) == (0, 0, 0, 1, 0)

    await server.operator(operator.tenant, user="olga").approve("j", 0)

    assert await count(database) == (0, 0, 0, 0, 0)


async def test_server_that_sweeps_serves_the_counts(
    database: Database, server: Server, operator: Operator
) -> None:
    await trip(server, operator, "PAUSE")
    async with running_server(
        database.request_dsn, JOBS_OWNER_DATABASE_URL=database.owner_dsn, **METRICS_ON
    ) as sweeping:

        async def is_counted() -> bool:
            read = await scrape(sweeping.app.metrics_address)
            return "jobs_rollouts_paused" in read.families

        await wait_until(is_counted)
        read = await scrape(sweeping.app.metrics_address)

    assert read.value("jobs_rollouts_paused", cause="FAILURE_CRITERION") == 1
    assert read.value("jobs_rollouts_paused", cause="GATE_NOT_MET") == 0
    assert read.value("jobs_rollouts_awaiting_approval") == 0
    assert read.value("jobs_rollouts_canceled_last_hour") == 0


async def test_scheduled_jobs_are_counted_until_they_start_or_end(
    database: Database, operator: Operator
) -> None:
    start_at = await database.owner.fetchval("SELECT jobs.now() + interval '1 hour'")
    for job_id in ("starts", "canceled", "paused", "completed"):
        target = "d00002" if job_id == "completed" else "d00001"
        await operator.create(job_id=job_id, target_device_id=target, start_at=start_at)
    await operator.create(job_id="running", target_all=True)
    async with Sweeper(database.owner_dsn) as sweeper:
        await sweeper.run_stages()
        assert sweeper.scheduled_jobs == 4

        await operator.cancel("canceled")
        await operator.pause("paused")
        await operator.cancel_execution("completed", "d00002")
        await sweeper.run_stages()
        assert sweeper.scheduled_jobs == 1

        await database.pass_time(3600)
        await sweeper.run_stages()
        assert sweeper.scheduled_jobs == 0


async def test_executions_are_counted_while_their_next_attempt_waits(
    database: Database, server: Server, operator: Operator
) -> None:
    rule = pb.RetryRule(max_attempts=3, initial_backoff=Duration(seconds=1))
    await operator.create(
        job_id="j", target_all=True, retry_policy=pb.RetryPolicy(rules=[rule]), never_expires=True
    )
    devices = [server.device(operator.tenant, f"d{number:05}") for number in (1, 2)]
    async with Sweeper(database.owner_dsn) as sweeper:
        await sweeper.run_stages()
        assert sweeper.retrying_executions == 0

        for device in devices:
            await device.update("j", "FAILED")
        await sweeper.run_stages()
        assert sweeper.retrying_executions == 2

        await database.pass_time(60)
        await devices[0].start("j")
        await operator.cancel_execution("j", "d00002")
        await sweeper.run_stages()
        assert sweeper.retrying_executions == 0
