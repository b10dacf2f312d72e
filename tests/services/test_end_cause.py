"""What ended an execution: derived by the views, and stored by what ends it."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Operator, all_executions
from tests.support.database import Database
from tests.support.failures import expect_error, invalid_fields
from tests.support.server import Server

DEVICES = ["canceled", "failed", "rejected", "started", "succeeded", "timed-out", "waiting"]


def cause(execution: pb.JobExecution) -> str | None:
    """The end_cause, or None if it is unset."""
    return pb.JobExecution.EndCause.Name(execution.end_cause) if execution.end_cause else None


def causes(executions: Any) -> dict[str, str | None]:
    return {execution.device_id: cause(execution) for execution in executions}


async def sweep(database: Database) -> None:
    """Time out what is due, and write the derived statuses."""
    async with Sweeper(database.owner_dsn) as sweeper:
        await sweeper.run_timeouts()
        await sweeper.run_once()


@pytest.fixture(autouse=True)
async def job(database: Database, server: Server, operator: Operator) -> None:
    """A job "j" whose executions end in each way, except for those of "started" and "waiting"."""
    await database.add_devices(operator.tenant, DEVICES)
    await operator.create(job_id="j", target_all=True, in_progress_timeout_minutes=1)
    devices = {name: server.device(operator.tenant, name) for name in DEVICES}
    await devices["timed-out"].start("j")
    await database.make_overdue(operator.tenant, "j")
    await sweep(database)
    await devices["started"].update("j", "IN_PROGRESS", extend_timeout_minutes=60)
    await devices["succeeded"].update("j", "SUCCEEDED")
    await devices["failed"].update("j", "FAILED", failure_code="E1")
    await devices["rejected"].update("j", "REJECTED")
    await operator.cancel_execution("j", "canceled")


ENDED = {
    "canceled": "EXECUTION_CANCELED",
    "failed": "DEVICE",
    "rejected": "DEVICE",
    "succeeded": "DEVICE",
    "timed-out": "TIMEOUT",
}


async def end(database: Database, operator: Operator, how: str) -> dict[str, str | None]:
    """End the job; return the expected causes."""
    if how == "expire":
        await database.expire(operator.tenant, "j")
        return ENDED | {"started": None, "waiting": "JOB_EXPIRED"}
    await operator.cancel("j", force=how == "force")
    started = "JOB_CANCELED" if how == "force" else None
    return ENDED | {"started": started, "waiting": "JOB_CANCELED"}


async def views(operator: Operator) -> list[Any]:
    """What readers see of the causes, by each call that shows them."""
    by_filter = {
        name: [e.device_id for e in await all_executions(operator, "j", end_causes=[name], limit=2)]
        for name in pb.JobExecution.EndCause.keys()[1:]
    }
    of_device = [
        cause(e) for d in DEVICES for e in (await operator.executions("", device_id=d)).executions
    ]
    attempts = [cause(e) for d in DEVICES for e in await operator.attempts("j", d)]
    return [
        causes((await operator.get("j")).executions),
        causes(await all_executions(operator, "j", limit=3)),
        by_filter,
        of_device,
        attempts,
    ]


@pytest.mark.parametrize("how", ["cancel", "force", "expire"])
async def test_each_end_has_its_cause_in_all_calls_before_and_after_it_is_written(
    database: Database, operator: Operator, how: str
) -> None:
    pending = ENDED | dict.fromkeys(("started", "waiting"))
    assert causes((await operator.get("j")).executions) == pending
    expected = await end(database, operator, how)

    derived = await views(operator)
    await sweep(database)

    assert await views(operator) == derived
    # The previous version wrote rows without a cause.
    await database.owner.execute(
        "UPDATE jobs.job_executions SET end_cause = NULL, ended_number = NULL WHERE tenant_id = $1",
        operator.tenant,
    )
    assert causes((await operator.get("j")).executions) == expected
    got, listed, by_filter, of_device, attempts = derived
    assert got == listed == expected
    assert of_device == attempts == [expected[device] for device in DEVICES]
    assert by_filter == {
        name: [device for device in DEVICES if expected[device] == name]
        for name in pb.JobExecution.EndCause.keys()[1:]
    }


async def test_report_stores_no_cause(database: Database, operator: Operator) -> None:
    stored = await database.owner.fetch(
        "SELECT device_id FROM jobs.job_executions WHERE tenant_id = $1 AND end_cause IS NOT NULL",
        operator.tenant,
    )

    assert {row["device_id"] for row in stored} == {"canceled", "timed-out"}


async def test_lists_filter_by_cause_together_with_other_filters(operator: Operator) -> None:
    async def listed(*end_causes: str, **fields: Any) -> list[str]:
        fields["end_causes"] = end_causes
        return [e.device_id for e in await all_executions(operator, "j", limit=1, **fields)]

    assert await listed("DEVICE", status="REJECTED") == ["rejected"]
    assert await listed("DEVICE", failure_code="E1") == ["failed"]
    assert await listed("TIMEOUT", status="FAILED") == []
    assert await listed("TIMEOUT", failure_code="") == ["timed-out"]
    assert await listed("TIMEOUT", "DEVICE", status="TIMED_OUT") == ["timed-out"]
    canceled = ["JOB_CANCELED", "EXECUTION_CANCELED"]
    assert await listed(*canceled) == ["canceled"]
    assert await listed(*canceled, "TIMEOUT") == ["canceled", "timed-out"]


async def test_list_of_a_device_filters_by_cause(operator: Operator) -> None:
    await operator.create(job_id="k", target_all=True)
    await operator.cancel("k")

    async def listed(*end_causes: str, job_id: str = "") -> list[str]:
        page = await operator.executions(job_id, device_id="failed", end_causes=end_causes)
        return [execution.job_id for execution in page.executions]

    assert await listed() == ["k", "j"]
    assert await listed("JOB_CANCELED") == ["k"]
    assert await listed("DEVICE") == ["j"]
    assert await listed("DEVICE", "JOB_CANCELED") == ["k", "j"]
    assert await listed("DEVICE", job_id="j") == ["j"]
    assert await listed("DEVICE", job_id="k") == []


async def test_list_rejects_unknown_causes_and_other_page_tokens(operator: Operator) -> None:
    token = (await operator.executions("j", end_causes=["DEVICE"], limit=1)).next_page_token

    await expect_error(
        "INVALID_PAGE_TOKEN", operator.executions("j", end_causes=["TIMEOUT"], page_token=token)
    )
    assert await invalid_fields(operator.executions("j", end_causes=[99])) == ["end_causes"]
