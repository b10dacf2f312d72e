"""Statuses that this version does not know become STATUS_UNSPECIFIED in responses."""

from collections import defaultdict
from typing import Any, cast

from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution
from fleet.jobs.v1.jobs_pb2 import Job, JobExecution

from jobs_grpc.db.store import Row
from jobs_grpc.services.row_conversions import device_execution_fields, execution_fields, job_fields


def row(columns: dict[str, Any]) -> Row:
    """A row with these columns and no value in the others."""
    return cast("Row", defaultdict(lambda: None, columns))


def test_job_status_is_unspecified_when_unknown() -> None:
    counts = dict.fromkeys(
        ("queued", "in_progress", "succeeded", "failed", "timed_out", "rejected"), 0
    )

    job = job_fields(row(counts | {"status": "SUSPENDED", "document_params": "{}"}))

    assert Job(**job).status == Job.STATUS_UNSPECIFIED


def test_execution_status_is_unspecified_when_unknown() -> None:
    execution = row({"status": "PAUSED"})

    unspecified = JobExecution.STATUS_UNSPECIFIED
    assert JobExecution(**execution_fields(execution)).status == unspecified
    assert DeviceExecution(**device_execution_fields(execution)).status == unspecified
