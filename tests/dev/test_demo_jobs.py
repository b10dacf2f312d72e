"""The jobs of `jobs-grpc dev --simulate`; tests/cli/test_dev.py creates them."""

from jobs_grpc.client import JobsClient
from jobs_grpc.dev.demo_jobs import create_demo_jobs
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.server import Server


async def test_demo_jobs_are_not_created_when_the_tenant_has_a_job(
    server: Server, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="mine", target_all=True)
    async with JobsClient(server.address, tenant=operator.tenant) as jobs:
        await create_demo_jobs(jobs)

        assert [job.job_id async for job in jobs.list()] == ["mine"]
