"""What the calls of devices do, through each door. tests/services has every case."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.doors.doors import Door, refused, shown
from tests.support.callers import Fleet, Operator
from tests.support.database import Database

JOB = {"job_id": "j"}


@pytest.fixture(autouse=True)
async def job(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True, in_progress_timeout_minutes=5)


async def test_device_finds_starts_and_finishes_its_execution(
    device: Door, operator: Operator
) -> None:
    (pending,) = await device("ListPendingExecutions")
    started = (await device("StartNextExecution"))["execution"]
    report = {"status": "IN_PROGRESS", "status_details": {"percent": 50}}
    running = await device("UpdateExecution", **JOB, **report, extend_timeout_minutes=60)
    await device("UpdateExecution", **JOB, status="FAILED", failure_code="E1", execution_number=1)

    expected = JOB | {"device_id": "pump", "document_type": "reboot", "status": "QUEUED"}
    assert shown(pending, expected) == expected
    assert shown(started, expected) == expected | {"status": "IN_PROGRESS"}
    assert shown(running, report) == report
    assert running["times_out_at"] > started["times_out_at"]
    final = {"status": "FAILED", "failure_code": "E1", "status_details": {"percent": 50}}
    assert shown(await device("GetExecution", **JOB), final) == final
    assert not (await device("StartNextExecution")).get("execution")
    assert (await operator.get("j")).execution_counts.failed == 1


async def test_bridge_starts_the_next_execution_of_each_device(device: Door) -> None:
    """These callers act for one device; the results of others are errors."""
    response = await device("StartNextExecutions", device_ids=["pump", "valve"])

    pump, valve = response["results"]
    expected = JOB | {"device_id": "pump", "status": "IN_PROGRESS"}
    assert shown(pump["execution"], expected) == expected
    assert (valve["error"]["code"], valve["error"]["reason"]) == (3, "INVALID_FIELD")


async def test_device_accepts_a_cancel(device: Door, operator: Operator) -> None:
    await device("StartExecution", **JOB)
    report = {**JOB, "status": "REJECTED", "cancel_accepted": True}
    with refused(StatusCode.FAILED_PRECONDITION, "CANCEL_NOT_REQUESTED"):
        await device("UpdateExecution", **report)
    await operator.cancel("j")

    assert (await device("GetExecution", **JOB))["cancel_requested"] is True
    await device("UpdateExecution", **report)

    (execution,) = (await operator.get("j")).executions
    assert execution.end_cause == pb.JobExecution.JOB_CANCELED


async def test_device_acknowledges_what_others_ended(device: Door, operator: Operator) -> None:
    await device("StartExecution", **JOB)
    await operator.cancel("j", force=True)

    response = await device("StartNextExecution")
    ended = {"job_id": "j", "execution_number": 1}
    assert response["ended_executions"] == [ended | {"end_cause": "JOB_CANCELED"}]
    await device("AcknowledgeExecutions", executions=[ended])
    assert not (await device("StartNextExecution")).get("ended_executions")


async def test_device_reports_facts(device: Door, fleet: Fleet) -> None:
    await device("UpdateFacts", facts={"version": "2.0", "battery": "low"})
    await device("UpdateFacts", facts={"version": "2.1"})

    assert (await fleet.get("pump")).device.facts == {"version": "2.1", "battery": "low"}
    await device("UpdateFacts", facts={}, replace=True)
    assert not (await fleet.get("pump")).device.facts
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "facts"):
        await device("UpdateFacts", facts={"-": ""})


async def test_device_starts_the_execution_of_a_job(device: Door, operator: Operator) -> None:
    await operator.create(job_id="other", target_all=True)

    started = await device("StartExecution", job_id="other")

    assert (started["job_id"], started["status"]) == ("other", "IN_PROGRESS")


async def test_report_is_refused_when_the_execution_has_changed(
    device: Door, operator: Operator
) -> None:
    with refused(StatusCode.ABORTED, "EXECUTION_CHANGED"):
        await device("UpdateExecution", **JOB, status="SUCCEEDED", execution_number=2)
    await device("UpdateExecution", **JOB, status="REJECTED")

    for method, fields in (("StartExecution", {}), ("UpdateExecution", {"status": "SUCCEEDED"})):
        with refused(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED"):
            await device(method, **JOB, **fields)


@pytest.mark.parametrize("method", ["GetExecution", "StartExecution", "UpdateExecution"])
async def test_device_does_not_find_the_execution_of_another_device(
    device: Door, database: Database, operator: Operator, method: str
) -> None:
    await database.add_devices(operator.tenant, ["valve"])
    await operator.create(job_id="of-valve", target_device_id="valve")
    status = {"status": "FAILED"} if method == "UpdateExecution" else {}

    with refused(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
        await device(method, job_id="of-valve", **status)


async def test_report_is_refused_when_a_field_is_invalid(device: Door) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "status"):
        await device("UpdateExecution", **JOB, status="QUEUED")
