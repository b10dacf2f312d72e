"""`jobs-grpc retry`."""

import json

import pytest

from tests.support.callers import Operator
from tests.support.cli import Shell


@pytest.fixture(autouse=True)
async def rejected_execution(started_job: None, operator: Operator) -> None:
    """The execution of "valve" is REJECTED."""
    await operator.cancel_execution("j", "valve")


@pytest.mark.parametrize(
    "statuses",
    [
        ["--status", "REJECTED"],
        ["--status", "REJECTED", "FAILED"],
        ["--status", "FAILED", "--status", "REJECTED"],
    ],
)
async def test_retry_queues_executions_with_given_statuses(
    shell: Shell, operator: Operator, statuses: list[str]
) -> None:
    retried = await shell("retry", "j", *statuses)

    assert retried.code == 0
    assert retried.out.startswith("queued 1 execution of j again, expires: 20")
    assert (await operator.get("j")).executions[1].execution_number == 2


async def test_retry_changes_expiry_when_requested(shell: Shell, operator: Operator) -> None:
    for expiry, hours in (("--expires-in-hours", "48"), ("--never-expires", "")):
        retried = await shell("retry", "j", "--status", "REJECTED", expiry, *hours.split())

        assert retried.code == 0
        assert (await operator.get("j")).HasField("expires_at") == bool(hours)
        await operator.cancel_execution("j", "valve")

    response = json.loads((await shell("retry", "j", "--status", "REJECTED", "--json")).out)
    assert response == {"retried_count": 1}
