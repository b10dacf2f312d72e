"""Pages with executions of one job, compared with messages built one by one."""

import random
from typing import Any, cast

import pytest
from fleet.jobs.v1.jobs_pb2 import Job, JobExecution, ListJobExecutionsResponse

from jobs_grpc.db.execution_columns import REPORTED
from jobs_grpc.db.store import Row
from jobs_grpc.services.execution_page import append_executions
from jobs_grpc.services.response_pages import MAX_RESPONSE_BYTES
from jobs_grpc.services.row_conversions import execution_fields


async def pause() -> None:
    """Do not wait."""


# Of each column, values whose encodings have different sizes.
TIMES = [None, 0, 1, 999_999, 1_000_000, -(10**15), 252_455_615_999_999_999]
VALUES: dict[str, list[Any]] = {
    "device_id": ["d", "é" * 63, "x" * 127, "x" * 128, "🚀" * 256],
    "status": ["QUEUED", "TIMED_OUT", "PAUSED"],  # this version does not know PAUSED
    "status_details": [None, "{}", '{"text": "é"}', f'{{"text": "{"x" * 20_000}"}}'],
    "execution_number": [1, 128, 2**31 - 1],
    "version": [1, 128, 2**31 - 1],
    "queued_at": TIMES,
    "started_at": TIMES,
    "last_updated_at": TIMES,
    "times_out_at": TIMES,
    "failure_code": [None, "", "E1", "x" * 64],
    "stage": [None, 0, 99],
    "end_cause": [None, "DEVICE", "EXECUTION_CANCELED", "LOST"],  # nor does it know LOST
    "not_before": TIMES,
    "time_zone": [None, "UTC", "America/Argentina/ComodRivadavia"],
    **{name: [None, "", "bridge", "x" * 256] for name in REPORTED},
}


def column(name: str) -> str:
    """The column of jobs.execution_page for a column of jobs.execution_states."""
    return {"status": "statuses", "status_details": name}.get(name, f"{name}s")


def page_row(executions: list[dict[str, Any]]) -> Row:
    """The columns, of which those without values are NULL."""
    columns = {column(name): [execution[name] for execution in executions] for name in VALUES}
    return cast(
        "Row", {c: v if any(x is not None for x in v) else None for c, v in columns.items()}
    )


def random_executions(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Executions of which each differs from the one before in up to two columns."""
    execution = {name: rng.choice(values) for name, values in VALUES.items()}
    executions = []
    for _ in range(count):
        for name in rng.sample(sorted(VALUES), rng.choice([0, 0, 0, 1, 2])):
            execution[name] = rng.choice(VALUES[name])
        execution["device_id"] = rng.choice(VALUES["device_id"])
        executions.append(dict(execution))
    return executions


@pytest.mark.parametrize("message_type", [Job, ListJobExecutionsResponse])
@pytest.mark.parametrize("seed", range(10))
async def test_page_equals_messages_built_one_by_one(
    message_type: type[Job] | type[ListJobExecutionsResponse], seed: int
) -> None:
    rng = random.Random(seed)  # noqa: S311 - test data
    executions = random_executions(rng, 100)
    limit = rng.choice([0, 1, 50, 99, 100, 1000])
    message = message_type()

    left_over = await append_executions(message, page_row(executions), limit, pause)

    expected = [
        JobExecution(**execution_fields(cast("Row", execution))) for execution in executions[:limit]
    ]
    assert list(message.executions) == expected
    assert left_over == (limit < len(executions))


async def test_page_is_empty_when_the_row_has_no_executions() -> None:
    response = ListJobExecutionsResponse()

    assert not await append_executions(
        response, cast("Row", dict.fromkeys(map(column, VALUES))), 10, pause
    )

    assert not response.executions


@pytest.mark.parametrize("same", [True, False], ids=["same", "different"])
@pytest.mark.parametrize("details", [None, "{}", f'{{"text": "{"x" * 60_000}"}}'])
@pytest.mark.parametrize("device_id", ["d", "x" * 256, "🚀" * 256], ids=["short", "long", "wide"])
async def test_page_ends_close_below_the_maximum_size(
    device_id: str, details: str | None, *, same: bool
) -> None:
    execution = {name: values[-1] for name, values in VALUES.items()} | {
        "device_id": device_id,
        "status": "IN_PROGRESS",
        "status_details": details,
    }
    size = JobExecution(**execution_fields(cast("Row", execution))).ByteSize()
    count = MAX_RESPONSE_BYTES // size + 1
    executions = [
        execution | {"version": execution["version"] - (0 if same else n % 2)} for n in range(count)
    ]
    response = ListJobExecutionsResponse()

    assert await append_executions(response, page_row(executions), count, pause)

    # The estimate of each execution exceeds its size by less than 40 bytes.
    unused = MAX_RESPONSE_BYTES - response.ByteSize()
    assert 0 <= unused < size + 40 * (len(response.executions) + 1)


async def test_page_has_one_execution_when_the_rest_of_the_response_is_large() -> None:
    executions = random_executions(random.Random(0), 3)  # noqa: S311 - test data
    job = Job()

    assert await append_executions(
        job, page_row(executions), 3, pause, used_bytes=MAX_RESPONSE_BYTES
    )

    assert len(job.executions) == 1
