"""Names of enum values, also of those that a newer server added."""

from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb


def job_status_name(status: int) -> str:
    """Return the name of a Job.Status, such as "COMPLETED", or UNKNOWN_n."""
    return _name(pb.Job.Status, status)


def job_priority_name(priority: int) -> str:
    """Return the name of a Job.Priority, such as "HIGH", or UNKNOWN_n."""
    return _name(pb.Job.Priority, priority)


def execution_status_name(status: int) -> str:
    """Return the name of a JobExecution.Status, such as "QUEUED", or UNKNOWN_n."""
    return _name(pb.JobExecution.Status, status)


def end_cause_name(cause: int) -> str:
    """Return the name of a JobExecution.EndCause, such as "TIMEOUT", or UNKNOWN_n."""
    return _name(pb.JobExecution.EndCause, cause)


def _name(enum: Any, value: int) -> str:
    names: dict[int, str] = {number: name for name, number in enum.items()}
    return names.get(value, f"UNKNOWN_{value}")
