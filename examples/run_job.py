"""Creates a job for a group, follows it, and retries the devices that failed.

python examples/run_job.py 127.0.0.1:50051 demo north
"""

import asyncio
import sys

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.client import JobsClient, JobsError, job_status_name


async def main(server: str, tenant: str, group: str) -> None:
    """Run one job to its end, with one retry of its failures."""
    async with JobsClient(server, tenant=tenant, user="example") as jobs:
        created = await jobs.create("reboot", {"delay": 5}, target_group_id=group)
        print(f"created {created.job_id} for {created.execution_count} devices")

        async for job in jobs.watch(created.job_id):
            counts = job.execution_counts
            print(f"{job_status_name(job.status)} {counts.succeeded}/{job.total_executions}")

        failed = pb.JobExecution.FAILED
        async for execution in jobs.executions(created.job_id, status=failed):
            print(f"{execution.device_id} failed with {execution.failure_code or 'no code'}")

        retried = await jobs.retry(created.job_id, [failed])
        if retried.retried_count:
            job = await jobs.wait(created.job_id)
            print(f"{job.succeeded_count} succeeded after a retry of {retried.retried_count}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: run_job.py SERVER TENANT GROUP")
    try:
        asyncio.run(main(*sys.argv[1:]))
    except JobsError as e:
        sys.exit(str(e))
    except KeyboardInterrupt:
        sys.exit(130)
