"""Waits for the execution counts of a job."""

from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.waiting import wait_until


async def wait_for_counts(operator: Operator, job_id: str, **counts: int) -> pb.Job:
    """Return the job as soon as its execution counts are exactly `counts`."""
    job = pb.Job()

    async def counts_match() -> bool:
        job.CopyFrom(await operator.get(job_id, executions_limit=1))
        return job.execution_counts == pb.ExecutionCounts(**counts)

    await wait_until(counts_match)
    return job
