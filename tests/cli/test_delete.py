"""`jobs-grpc delete`."""

import pytest
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.cli import Shell
from tests.support.failures import expect_failure


@pytest.mark.usefixtures("started_job")
async def test_delete_removes_job_when_it_is_finished(shell: Shell, operator: Operator) -> None:
    rejected = await shell("delete", "j")
    await operator.cancel("j", force=True)
    deleted = await shell("delete", "j")
    repeated = await shell("delete", "j")

    assert (rejected.code, rejected.out) == (4, "")
    assert rejected.err == (
        "jobs-grpc: FAILED_PRECONDITION: Cannot delete job j in status IN_PROGRESS;"
        " cancel it first\n"
    )
    assert (deleted.code, deleted.out) == (0, "deleted j\n")
    assert repeated.code == 3
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await operator.get("j")
