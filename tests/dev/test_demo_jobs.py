"""The jobs of `jobs-grpc dev --simulate`; tests/cli/test_dev.py creates them."""

from jobs_grpc.client import JobsClient
from jobs_grpc.dev.demo_jobs import create_demo_jobs
from tests.support.world import World


async def test_demo_jobs_are_not_created_when_the_tenant_has_a_job(world: World) -> None:
    await world.add_devices(1)
    await world.create("mine")
    async with JobsClient(world.server.address, tenant=world.tenant) as jobs:
        await create_demo_jobs(jobs)

        assert [job.job_id async for job in jobs.list()] == ["mine"]
