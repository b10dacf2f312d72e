"""Statuses that this version does not know become STATUS_UNSPECIFIED in responses."""

from collections import defaultdict
from typing import Any, cast

import pytest
from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution
from fleet.jobs.v1.jobs_pb2 import Job, JobExecution, ListJobExecutionsResponse

from jobs_grpc.db.store import Row
from jobs_grpc.services import conversions

EXECUTION_STATUSES = [
    ("TIMED_OUT", JobExecution.TIMED_OUT),
    ("PAUSED", JobExecution.STATUS_UNSPECIFIED),
]


def row(columns: dict[str, Any]) -> Row:
    """A row with these columns and no value in the others."""
    return cast("Row", defaultdict(lambda: None, columns))


@pytest.mark.parametrize(
    ("status", "expected"), [("CANCELED", Job.CANCELED), ("PAUSED", Job.STATUS_UNSPECIFIED)]
)
def test_job_status_is_unspecified_when_unknown(status: str, expected: int) -> None:
    counts = dict.fromkeys(
        ("queued", "in_progress", "succeeded", "failed", "timed_out", "rejected"), 0
    )
    job = Job(**conversions.job_fields(row(counts | {"status": status, "document_params": "{}"})))

    assert job.status == expected


@pytest.mark.parametrize(("status", "expected"), EXECUTION_STATUSES)
def test_execution_status_is_unspecified_when_unknown(status: str, expected: int) -> None:
    execution_row = row({"status": status})

    assert JobExecution(**conversions.execution_fields(execution_row)).status == expected
    assert DeviceExecution(**conversions.device_execution_fields(execution_row)).status == expected


def test_page_has_status_unspecified_where_a_status_is_unknown() -> None:
    statuses = ["QUEUED", "PAUSED", "PAUSED", "FAILED"]
    columns: dict[str, list[Any]] = {
        "device_ids": ["d1", "d2", "d3", "d4"],
        "statuses": statuses,
        "execution_numbers": [1] * len(statuses),
        "versions": [1] * len(statuses),
    }
    for column in (
        "status_details",
        "queued_ats",
        "started_ats",
        "last_updated_ats",
        "times_out_ats",
    ):
        columns[column] = [None] * len(statuses)
    response = ListJobExecutionsResponse()

    assert len(list(conversions.append_executions(response.executions, row(columns)))) == 4

    assert [execution.status for execution in response.executions] == [
        JobExecution.QUEUED,
        JobExecution.STATUS_UNSPECIFIED,
        JobExecution.STATUS_UNSPECIFIED,
        JobExecution.FAILED,
    ]


@pytest.mark.parametrize("details", [None, "{}", '{"text": "é"}', f'{{"text": "{"x" * 60_000}"}}'])
@pytest.mark.parametrize("device_id", ["d", "x" * 256, "🚀" * 256], ids=["short", "long", "wide"])
def test_size_of_an_appended_execution_is_a_close_upper_bound(
    device_id: str, details: str | None
) -> None:
    """The page must not exceed the maximum size, and must not end long before it either."""
    micros = 252_455_615_999_999_999  # in the year 9999
    values = {
        "device_ids": device_id,
        "statuses": "IN_PROGRESS",
        "status_details": details,
        "execution_numbers": 2**31 - 1,
        "versions": 2**31 - 1,
        "queued_ats": micros,
        "started_ats": micros,
        "last_updated_ats": micros,
        "times_out_ats": micros,
    }
    columns = {column: [value, value] for column, value in values.items()}
    response = ListJobExecutionsResponse()

    sizes = list(conversions.append_executions(response.executions, row(columns)))

    assert len(sizes) == len(response.executions) == 2
    for size, execution in zip(sizes, response.executions, strict=True):
        assert execution.ByteSize() <= size <= execution.ByteSize() + 32
