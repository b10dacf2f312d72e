"""ListExecutionAttempts: what each attempt of an execution came to."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Device, Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """The device "pump", QUEUED in the job "j" as is "valve"."""
    await database.add_devices(operator.tenant, ["pump", "valve"])
    await operator.create(job_id="j", target_all=True)
    return server.device(operator.tenant, "pump")


async def test_the_first_attempt_is_the_execution(pump: Device, operator: Operator) -> None:
    assert await operator.attempts("j", "pump") == [(await operator.get("j")).executions[0]]


async def test_the_present_one_comes_first_and_each_is_as_it_ended(
    pump: Device, operator: Operator
) -> None:
    ended = []
    for number in range(1, 4):
        await pump.start("j")
        await pump.update("j", "FAILED", status_details={"attempt": number})
        ended.append((await operator.get("j")).executions[0])
        await operator.retry("j", "FAILED")

    attempts = await operator.attempts("j", "pump")

    assert attempts == [(await operator.get("j")).executions[0], *reversed(ended)]
    assert [each.execution_number for each in attempts] == [4, 3, 2, 1]
    assert attempts[1].status_details == {"attempt": 3}
    assert (await pump.get("j")).version == 10


async def test_what_a_dead_job_made_of_it_is_told(
    database: Database, pump: Device, operator: Operator
) -> None:
    await database.expire(operator.tenant, "j")

    (attempt,) = await operator.attempts("j", "pump")

    assert attempt.status == pb.JobExecution.TIMED_OUT
    assert attempt.status_details == {"reason": "job expired"}


async def test_other_devices_attempts_are_theirs(pump: Device, operator: Operator) -> None:
    await operator.cancel_execution("j", "pump")
    await operator.retry("j", "REJECTED")

    assert len(await operator.attempts("j", "pump")) == 2
    assert len(await operator.attempts("j", "valve")) == 1


async def test_the_newest_hundred_are_listed(
    database: Database, pump: Device, operator: Operator
) -> None:
    await operator.cancel_execution("j", "pump")
    await operator.retry("j", "REJECTED")
    # What another 119 rounds would have left.
    await database.owner.execute(
        "UPDATE jobs.job_executions SET execution_number = 121"
        " WHERE tenant_id = $1 AND device_id = 'pump'",
        operator.tenant,
    )
    await database.owner.execute(
        "INSERT INTO jobs.execution_attempts SELECT tenant_id, job_id, device_id, n, status,"
        " queued_at, started_at, last_updated_at, status_details"
        " FROM jobs.execution_attempts, generate_series(2, 120) n WHERE tenant_id = $1",
        operator.tenant,
    )

    attempts = await operator.attempts("j", "pump")

    assert [each.execution_number for each in attempts] == list(range(121, 21, -1))


async def test_an_answer_is_never_too_large(
    database: Database, pump: Device, operator: Operator
) -> None:
    """32 KiB as JSON are many times that as protobuf."""
    details = {"n": [1] * 16_000}
    await pump.update("j", "FAILED", status_details=details)
    await operator.retry("j", "FAILED")
    await database.owner.execute(
        "UPDATE jobs.job_executions SET execution_number = 100"
        " WHERE tenant_id = $1 AND device_id = 'pump'",
        operator.tenant,
    )
    await database.owner.execute(
        "INSERT INTO jobs.execution_attempts SELECT tenant_id, job_id, device_id, n, status,"
        " queued_at, started_at, last_updated_at, status_details"
        " FROM jobs.execution_attempts, generate_series(2, 99) n WHERE tenant_id = $1",
        operator.tenant,
    )

    attempts = await operator.attempts("j", "pump")

    assert 1 < len(attempts) < 100
    assert attempts[0].execution_number == 100


async def test_other_jobs_devices_and_tenants_executions_are_not_found(
    server: Server, pump: Device, operator: Operator
) -> None:
    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND") as failure:
        await operator.attempts("j", "nowhere")
    assert failure.metadata == {"jobId": "j", "deviceId": "nowhere"}
    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
        await operator.attempts("nowhere", "pump")
    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
        await server.operator(operator.tenant + "-other").attempts("j", "pump")
