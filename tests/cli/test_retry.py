"""`jobs-grpc retry`."""

import json

import pytest

from tests.support.callers import Operator
from tests.support.cli import Shell, without_times


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


@pytest.mark.parametrize(
    ("options", "filters"),
    [
        (("--status", "FAILED"), "is FAILED"),
        (("--status", "FAILED", "TIMED_OUT"), "is FAILED or TIMED_OUT"),
        (("--status", "REJECTED", "--device", "pump"), "is REJECTED on one of the devices"),
        (
            ("--status", "REJECTED", "--failure-code", "E1", "--device", "pump"),
            "is REJECTED with one of the failure codes on one of the devices",
        ),
    ],
)
async def test_retry_says_that_nothing_changed_when_no_execution_matches(
    shell: Shell, operator: Operator, options: tuple[str, ...], filters: str
) -> None:
    etag = (await operator.get("j")).etag

    retried = await shell("retry", "j", *options, "--expires-in-hours", "48", "--utc")

    assert retried.code == 0
    assert without_times(retried.out) == (
        f"no execution of j {filters}, so nothing changed; expires: TIME\n"
    )
    assert (await operator.get("j")).etag == etag


async def test_retry_says_that_nothing_starts_when_job_is_paused(
    shell: Shell, operator: Operator
) -> None:
    await operator.pause("j")

    retried = await shell("retry", "j", "--status", "REJECTED", "--utc")

    assert retried.code == 0
    assert without_times(retried.out) == (
        "queued 1 execution of j again, expires: TIME\n"
        "j is PAUSED: no device starts before `jobs-grpc resume j`\n"
    )


async def test_retry_changes_expiry_when_requested(shell: Shell, operator: Operator) -> None:
    for expiry, hours in (("--expires-in-hours", "48"), ("--never-expires", "")):
        retried = await shell("retry", "j", "--status", "REJECTED", expiry, *hours.split())

        assert retried.code == 0
        assert (await operator.get("j")).HasField("expires_at") == bool(hours)
        await operator.cancel_execution("j", "valve")

    response = json.loads((await shell("retry", "j", "--status", "REJECTED", "--json")).out)
    assert response == {"retried_count": 1}
