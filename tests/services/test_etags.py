"""Calls with an etag change a job only if nobody else has changed it."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.server import Server

Call = Callable[[Operator, str], Awaitable[Any]]

_FAILED = pb.JobExecution.FAILED


# Each changes a job that is IN_PROGRESS, has an open stage 0, and one execution that is FAILED.
_CALLS: dict[str, Call] = {
    "CancelJob": lambda operator, etag: operator.cancel("j", etag=etag),
    "RetryExecutions": lambda operator, etag: operator.retry("j", _FAILED, etag=etag),
    "ApproveStage": lambda operator, etag: operator.approve("j", 0, etag=etag),
}


@pytest.fixture
async def ann(database: Database, server: Server, tenant: str) -> Operator:
    """An operator who has created the job "j" for three devices."""
    await database.add_devices(tenant, ["d1", "d2", "d3"])
    operator = server.operator(tenant, "ann")
    gate = {"require_approval": True, "allow_self_approval": True}
    stages = [{"device_count": 2, "gate": gate}, {"remainder": True}]
    await operator.create(job_id="j", target_all=True, rollout={"stages": stages})
    executions = (await operator.executions("j", stage=0)).executions
    device = server.device(tenant, executions[0].device_id)
    await device.start("j")
    await device.update("j", _FAILED)
    return operator


@pytest.mark.parametrize("call", _CALLS.values(), ids=_CALLS)
async def test_call_with_an_old_etag_changes_nothing(ann: Operator, call: Call) -> None:
    old = (await ann.get("j")).etag
    await ann.update("j", "description", description="changed")
    current = await ann.get("j")

    failure = await expect_error("JOB_CHANGED", call(ann, old))

    assert failure.metadata == {
        "jobId": "j",
        "etag": current.etag,
        "status": "IN_PROGRESS",
        "openStage": "0",
    }
    assert await ann.get("j") == current
    await call(ann, current.etag)
    assert (await ann.get("j")).etag != current.etag


async def test_delete_with_an_old_etag_changes_nothing(ann: Operator) -> None:
    old = (await ann.get("j")).etag
    await ann.cancel("j", force=True)
    current = await ann.get("j")

    await expect_error("JOB_CHANGED", ann.delete("j", etag=old))

    assert await ann.get("j") == current
    await ann.delete("j", etag=current.etag)
    await expect_error("JOB_NOT_FOUND", ann.get("j"))


async def test_repeated_approval_with_the_same_etag_succeeds(ann: Operator) -> None:
    etag = (await ann.get("j")).etag
    await ann.approve("j", 0, etag=etag)

    job = await ann.approve("j", 0, etag=etag)

    assert job.stages[0].approval.approved_by == "ann"
