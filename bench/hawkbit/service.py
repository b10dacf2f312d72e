"""The same work on this service."""

import itertools

import asyncpg
import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from bench.hawkbit.update_server import PAGE_SIZE
from bench.process import OWN_CONNECTIONS
from bench.requests import TENANT
from bench.run import InvalidRun
from tests.harness.calls import Calls

# Connections of the devices.
_CONNECTIONS = 8


class Service:
    """A running server of this service. A fleet is a group of devices of one tenant."""

    def __init__(self, address: str, owner: asyncpg.Connection) -> None:
        self._owner = owner
        connections = [
            Calls(grpc.aio.insecure_channel(address, OWN_CONNECTIONS)) for _ in range(_CONNECTIONS)
        ]
        self._calls, self._device_calls = connections[0], itertools.cycle(connections)
        self._job_id = ""

    async def prepare(self) -> None:
        """Nothing is needed."""

    async def add_devices(self, fleet: str, count: int) -> list[str]:
        """Insert the devices of a fleet, which are the platform's, and return their ids."""
        ids = [f"{fleet}-{number:07}" for number in range(count)]
        await self._owner.execute(
            "INSERT INTO device_state (tenant_id, device_id) SELECT $1, unnest($2::text[])",
            TENANT,
            ids,
        )
        await self._owner.execute(
            "INSERT INTO device_group_members (tenant_id, group_id, device_id)"
            " SELECT $1, $2, unnest($3::text[])",
            TENANT,
            fleet,
            ids,
        )
        return ids

    async def create(self, fleet: str, count: int) -> None:
        """Create a job for all devices of a fleet, each of which is then offered it."""
        self._job_id = fleet
        request = pb.CreateJobRequest(
            job_id=self._job_id, document_type="bench", target_group_id=fleet
        )
        response = await self._calls.call(request, TENANT)
        if response.execution_count != count:
            raise InvalidRun(f"{response.execution_count} of {count} executions were created")

    async def cancel(self) -> None:
        """Cancel the newest job, which is then offered to no device."""
        await self._calls.call(pb.CancelJobRequest(job_id=self._job_id), TENANT)

    async def list_jobs(self) -> None:
        """List 50 jobs with their counts."""
        await self._calls.call(pb.ListJobsRequest(limit=50), TENANT)

    async def list_devices(self, count: int) -> None:
        """Read all devices of the newest job, in pages of 500."""
        token, found = "", 0
        while token or not found:
            request = pb.ListJobExecutionsRequest(
                job_id=self._job_id, limit=PAGE_SIZE, page_token=token
            )
            response = await self._calls.call(request, TENANT)
            found += len(response.executions)
            token = response.next_page_token
        if found != count:
            raise InvalidRun(f"the service listed {found} of {count} devices")

    async def carry_out(self, device: str) -> None:
        """Let a device ask for its job, report progress and report success."""
        calls = next(self._device_calls)
        started = await calls.call(device_pb.StartNextExecutionRequest(), TENANT, device=device)
        for status in (pb.JobExecution.IN_PROGRESS, pb.JobExecution.SUCCEEDED):
            request = device_pb.UpdateExecutionRequest(
                job_id=started.execution.job_id, status=status
            )
            await calls.call(request, TENANT, device=device)

    async def count_succeeded(self) -> int:
        """Return how many devices of the newest job have succeeded."""
        request = pb.GetJobRequest(job_id=self._job_id, executions_limit=0)
        return int((await self._calls.call(request, TENANT)).job.succeeded_count)
