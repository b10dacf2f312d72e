"""The same work on this service."""

import itertools

import asyncpg
import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc, jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from bench.hawkbit.update_server import PAGE_SIZE
from bench.process import OWN_CONNECTIONS
from bench.requests import TENANT
from bench.run import InvalidRun

_METADATA = (("x-tenant-id", TENANT),)

# Connections of the devices.
_CHANNELS = 8


class Service:
    """A running server of this service. A fleet is a group of devices of one tenant."""

    def __init__(self, address: str, owner: asyncpg.Connection) -> None:
        self._owner = owner
        channels = [grpc.aio.insecure_channel(address, OWN_CONNECTIONS) for _ in range(_CHANNELS)]
        self._jobs = jobs_pb2_grpc.JobServiceStub(channels[0])
        self._device_stubs = itertools.cycle(
            [device_jobs_pb2_grpc.DeviceJobServiceStub(channel) for channel in channels]
        )
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
        response = await self._jobs.CreateJob(request, metadata=_METADATA)
        if response.execution_count != count:
            raise InvalidRun(f"{response.execution_count} of {count} executions were created")

    async def cancel(self) -> None:
        """Cancel the newest job, which is then offered to no device."""
        request = pb.CancelJobRequest(job_id=self._job_id)
        await self._jobs.CancelJob(request, metadata=_METADATA)

    async def list_jobs(self) -> None:
        """List 50 jobs with their counts."""
        await self._jobs.ListJobs(pb.ListJobsRequest(limit=50), metadata=_METADATA)

    async def list_devices(self, count: int) -> None:
        """Read all devices of the newest job, in pages of 500."""
        token, found = "", 0
        while token or not found:
            request = pb.ListJobExecutionsRequest(
                job_id=self._job_id, limit=PAGE_SIZE, page_token=token
            )
            response = await self._jobs.ListJobExecutions(request, metadata=_METADATA)
            found += len(response.executions)
            token = response.next_page_token
        if found != count:
            raise InvalidRun(f"the service listed {found} of {count} devices")

    async def carry_out(self, device: str) -> None:
        """Let a device ask for its job, report progress and report success."""
        metadata = (*_METADATA, ("x-device-id", device))
        stub = next(self._device_stubs)
        started = await stub.StartNextExecution(
            device_pb.StartNextExecutionRequest(), metadata=metadata
        )
        for status in (pb.JobExecution.IN_PROGRESS, pb.JobExecution.SUCCEEDED):
            request = device_pb.UpdateExecutionRequest(
                job_id=started.execution.job_id, status=status
            )
            await stub.UpdateExecution(request, metadata=metadata)

    async def count_succeeded(self) -> int:
        """Return how many devices of the newest job have succeeded."""
        request = pb.GetJobRequest(job_id=self._job_id, executions_limit=0)
        response = await self._jobs.GetJob(request, metadata=_METADATA)
        return response.job.succeeded_count
