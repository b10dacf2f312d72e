"""Statuses that this version does not know become STATUS_UNSPECIFIED in responses."""

from collections import defaultdict
from typing import Any, cast

import pytest
from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution
from fleet.jobs.v1.jobs_pb2 import Job, JobExecution

from jobs_grpc.db.store import Row
from jobs_grpc.services.row_conversions import device_execution_fields, execution_fields, job_fields

EXECUTION_STATUSES = [
    ("TIMED_OUT", JobExecution.TIMED_OUT),
    ("PAUSED", JobExecution.STATUS_UNSPECIFIED),
]


def row(columns: dict[str, Any]) -> Row:
    """A row with these columns and no value in the others."""
    return cast("Row", defaultdict(lambda: None, columns))


@pytest.mark.parametrize(
    ("status", "expected"), [("PAUSED", Job.PAUSED), ("SUSPENDED", Job.STATUS_UNSPECIFIED)]
)
def test_job_status_is_unspecified_when_unknown(status: str, expected: int) -> None:
    counts = dict.fromkeys(
        ("queued", "in_progress", "succeeded", "failed", "timed_out", "rejected"), 0
    )
    job = Job(**job_fields(row(counts | {"status": status, "document_params": "{}"})))

    assert job.status == expected


@pytest.mark.parametrize(("status", "expected"), EXECUTION_STATUSES)
def test_execution_status_is_unspecified_when_unknown(status: str, expected: int) -> None:
    execution_row = row({"status": status})

    assert JobExecution(**execution_fields(execution_row)).status == expected
    assert DeviceExecution(**device_execution_fields(execution_row)).status == expected
