"""Names of enum values, such as "COMPLETED"; UNKNOWN_n for one that a newer server added."""

from functools import partial
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb


def _name(enum: Any, value: int) -> str:
    names: dict[int, str] = {number: name for name, number in enum.items()}
    return names.get(value, f"UNKNOWN_{value}")


job_status_name = partial(_name, pb.Job.Status)
job_priority_name = partial(_name, pb.Job.Priority)
execution_status_name = partial(_name, pb.JobExecution.Status)
end_cause_name = partial(_name, pb.JobExecution.EndCause)
