"""Callers of the services: a method for each unary RPC, and functions that read all pages."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc, events_pb2_grpc, fleet_pb2_grpc, jobs_pb2_grpc
from fleet.jobs.v1 import events_pb2 as events_pb
from fleet.jobs.v1 import fleet_pb2 as fleet_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from grpc.aio import EOF

from tests.support.waiting import TIMEOUT

R = TypeVar("R", bound=Message)


class Caller:
    """Makes unary calls of one service."""

    stub: Any
    tenant: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-tenant-id", self.tenant),)

    async def call(self, request: Message, _: type[R]) -> R:
        """Make the call whose request this is; its response has the type `R`."""
        method = getattr(self.stub, request.DESCRIPTOR.name.removesuffix("Request"))
        response: R = await method(request, metadata=self.metadata, timeout=TIMEOUT)
        return response


@dataclass(frozen=True)
class Fleet(Caller):
    """A caller of FleetService in one tenant. Keyword arguments are request fields."""

    stub: "fleet_pb2_grpc.FleetServiceAsyncStub"
    tenant: str

    async def list(self, **fields: Any) -> fleet_pb.ListDevicesResponse:
        request = fleet_pb.ListDevicesRequest(**fields)
        return await self.call(request, fleet_pb.ListDevicesResponse)

    async def get(self, device: str) -> fleet_pb.GetDeviceResponse:
        request = fleet_pb.GetDeviceRequest(device_id=device)
        return await self.call(request, fleet_pb.GetDeviceResponse)

    async def update(
        self, *devices: fleet_pb.Device, mask: Sequence[str] = (), **fields: Any
    ) -> fleet_pb.UpdateDevicesResponse:
        request = fleet_pb.UpdateDevicesRequest(
            devices=devices, update_mask=FieldMask(paths=mask) if mask else None, **fields
        )
        return await self.call(request, fleet_pb.UpdateDevicesResponse)

    async def delete(self, *devices: str) -> fleet_pb.DeleteDevicesResponse:
        request = fleet_pb.DeleteDevicesRequest(device_ids=devices)
        return await self.call(request, fleet_pb.DeleteDevicesResponse)

    async def preview(self, **fields: Any) -> pb.TargetPreview:
        request = fleet_pb.PreviewTargetRequest(**fields)
        return (await self.call(request, fleet_pb.PreviewTargetResponse)).preview

    async def groups(self, **fields: Any) -> fleet_pb.ListGroupsResponse:
        request = fleet_pb.ListGroupsRequest(**fields)
        return await self.call(request, fleet_pb.ListGroupsResponse)

    async def labels(self) -> fleet_pb.ListLabelsResponse:
        return await self.call(fleet_pb.ListLabelsRequest(), fleet_pb.ListLabelsResponse)

    async def summary(self) -> fleet_pb.GetFleetSummaryResponse:
        return await self.call(fleet_pb.GetFleetSummaryRequest(), fleet_pb.GetFleetSummaryResponse)


@dataclass(frozen=True)
class Events(Caller):
    """A caller of EventService in one tenant. Keyword arguments are request fields."""

    stub: "events_pb2_grpc.EventServiceAsyncStub"
    tenant: str

    async def list(self, **fields: Any) -> events_pb.ListEventsResponse:
        request = events_pb.ListEventsRequest(**fields)
        return await self.call(request, events_pb.ListEventsResponse)

    async def list_all(self, **fields: Any) -> Sequence[events_pb.Event]:
        """List the events of all pages, from the oldest or from a start."""
        page = await self.list(**fields)
        events = list(page.events)
        fields.pop("from_time", None)
        while page.has_more:
            page = await self.list(**fields | {"after_position": page.position})
            events += page.events
        return events

    async def history(self, job_id: str, **fields: Any) -> events_pb.ListJobEventsResponse:
        """List a page of the events of a job."""
        request = events_pb.ListJobEventsRequest(job_id=job_id, **fields)
        return await self.call(request, events_pb.ListJobEventsResponse)

    def watch(self, **fields: Any) -> AsyncGenerator[events_pb.WatchEventsResponse, None]:
        """Open a stream of events and iterate over its responses."""
        stub: Any = self.stub
        request = events_pb.WatchEventsRequest(**fields)
        return _responses(stub.WatchEvents(request, metadata=self.metadata, timeout=TIMEOUT))


@dataclass(frozen=True)
class Operator(Caller):
    """A caller of JobService in one tenant. Keyword arguments are request fields."""

    stub: "jobs_pb2_grpc.JobServiceAsyncStub"
    tenant: str
    user: str | None = None
    explicit_metadata: tuple[tuple[str, str], ...] | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of every call: `explicit_metadata`, or else the tenant and the user."""
        if self.explicit_metadata is not None:
            return self.explicit_metadata
        user = (("x-user-id", self.user),) if self.user else ()
        return (("x-tenant-id", self.tenant), *user)

    async def create(self, **fields: Any) -> pb.CreateJobResponse:
        """Create a job; document_type defaults to "reboot"."""
        request = pb.CreateJobRequest(**({"document_type": "reboot"} | fields))
        return await self.call(request, pb.CreateJobResponse)

    async def list(self, **fields: Any) -> pb.ListJobsResponse:
        return await self.call(pb.ListJobsRequest(**fields), pb.ListJobsResponse)

    async def get(self, job_id: str, **fields: Any) -> pb.Job:
        request = pb.GetJobRequest(job_id=job_id, **fields)
        return (await self.call(request, pb.GetJobResponse)).job

    async def status(self, job_id: str = "j") -> str:
        return pb.Job.Status.Name((await self.get(job_id, executions_limit=0)).status)

    async def counts(self, job_id: str = "j") -> dict[str, int]:
        job = await self.get(job_id, executions_limit=0)
        return {field.name: count for field, count in job.execution_counts.ListFields()}

    async def executions(self, job_id: str, **fields: Any) -> pb.ListJobExecutionsResponse:
        request = pb.ListJobExecutionsRequest(job_id=job_id, **fields)
        return await self.call(request, pb.ListJobExecutionsResponse)

    async def cancel(self, job_id: str, **fields: Any) -> pb.CancelJobResponse:
        request = pb.CancelJobRequest(job_id=job_id, **fields)
        return await self.call(request, pb.CancelJobResponse)

    async def pause(self, job_id: str, **fields: Any) -> pb.Job:
        request = pb.PauseJobRequest(job_id=job_id, **fields)
        return (await self.call(request, pb.PauseJobResponse)).job

    async def resume(self, job_id: str, **fields: Any) -> pb.Job:
        request = pb.ResumeJobRequest(job_id=job_id, **fields)
        return (await self.call(request, pb.ResumeJobResponse)).job

    async def advance(self, job_id: str, **fields: Any) -> pb.Job:
        """Open the next stage of a job."""
        request = pb.AdvanceJobRequest(job_id=job_id, **fields)
        return (await self.call(request, pb.AdvanceJobResponse)).job

    async def approve(self, job_id: str, stage: int, **fields: Any) -> pb.Job:
        request = pb.ApproveStageRequest(job_id=job_id, stage=stage, **fields)
        return (await self.call(request, pb.ApproveStageResponse)).job

    async def reject(self, job_id: str, stage: int, **fields: Any) -> pb.Job:
        request = pb.RejectStageRequest(job_id=job_id, stage=stage, **fields)
        return (await self.call(request, pb.RejectStageResponse)).job

    async def approve_start(self, job_id: str = "j", **fields: Any) -> pb.Job:
        """Approve the start of a job."""
        request = pb.ApproveStartRequest(job_id=job_id, **fields)
        return (await self.call(request, pb.ApproveStartResponse)).job

    async def reject_start(self, job_id: str = "j", **fields: Any) -> pb.Job:
        """Reject the start of a job."""
        request = pb.RejectStartRequest(job_id=job_id, **fields)
        return (await self.call(request, pb.RejectStartResponse)).job

    async def update(self, job_id: str, *paths: str, **fields: Any) -> pb.Job:
        request = pb.UpdateJobRequest(job_id=job_id, update_mask=FieldMask(paths=paths), **fields)
        return (await self.call(request, pb.UpdateJobResponse)).job

    async def failures(self, job_id: str, **fields: Any) -> pb.GetFailureSummaryResponse:
        request = pb.GetFailureSummaryRequest(job_id=job_id, **fields)
        return await self.call(request, pb.GetFailureSummaryResponse)

    async def timeline(self, job_id: str = "j") -> pb.GetJobTimelineResponse:
        request = pb.GetJobTimelineRequest(job_id=job_id)
        return await self.call(request, pb.GetJobTimelineResponse)

    async def cancel_execution(self, job_id: str, device: str, **fields: Any) -> pb.JobExecution:
        request = pb.CancelExecutionRequest(job_id=job_id, device_id=device, **fields)
        return (await self.call(request, pb.CancelExecutionResponse)).execution

    async def explain(self, job_id: str, device: str) -> pb.ExplainExecutionResponse:
        request = pb.ExplainExecutionRequest(job_id=job_id, device_id=device)
        return await self.call(request, pb.ExplainExecutionResponse)

    async def retry(self, job_id: str, *statuses: Any, **fields: Any) -> pb.RetryExecutionsResponse:
        request = pb.RetryExecutionsRequest(job_id=job_id, statuses=statuses, **fields)
        return await self.call(request, pb.RetryExecutionsResponse)

    async def watch(self, job_id: str = "j") -> AsyncGenerator[pb.Job, None]:
        """Open a watch of a job and iterate over its jobs."""
        stub: Any = self.stub
        request = pb.WatchJobRequest(job_id=job_id)
        call = stub.WatchJob(request, metadata=self.metadata, timeout=TIMEOUT)
        try:
            async for response in call:
                yield response.job
        finally:
            call.cancel()

    async def attempts(self, job_id: str, device: str) -> Sequence[pb.JobExecution]:
        """List the attempts of one device, the current one first."""
        return (await self.attempts_page(job_id, device)).attempts

    async def attempts_page(
        self, job_id: str, device: str, **fields: Any
    ) -> pb.ListExecutionAttemptsResponse:
        request = pb.ListExecutionAttemptsRequest(job_id=job_id, device_id=device, **fields)
        return await self.call(request, pb.ListExecutionAttemptsResponse)

    async def delete(self, job_id: str, **fields: Any) -> None:
        await self.call(pb.DeleteJobRequest(job_id=job_id, **fields), pb.DeleteJobResponse)

    async def get_caller(self) -> pb.GetCallerResponse:
        return await self.call(pb.GetCallerRequest(), pb.GetCallerResponse)


@dataclass(frozen=True)
class Device(Caller):
    """A caller of DeviceJobService as one device. Keyword arguments are request fields."""

    stub: "device_jobs_pb2_grpc.DeviceJobServiceAsyncStub"
    tenant: str
    name: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-tenant-id", self.tenant), ("x-device-id", self.name))

    async def pending(self, **fields: Any) -> device_pb.ListPendingExecutionsResponse:
        request = device_pb.ListPendingExecutionsRequest(**fields)
        return await self.call(request, device_pb.ListPendingExecutionsResponse)

    async def start_next(self, **fields: Any) -> device_pb.DeviceExecution | None:
        """Start the next execution; return None if no execution is pending."""
        response = await self.start_next_response(**fields)
        return response.execution if response.HasField("execution") else None

    async def start_next_job(self) -> str | None:
        """Start the next execution; return its job, or None if no execution is pending."""
        execution = await self.start_next()
        return execution.job_id if execution else None

    async def start_next_response(self, **fields: Any) -> device_pb.StartNextExecutionResponse:
        """Start the next execution; return the whole response."""
        request = device_pb.StartNextExecutionRequest(**fields)
        return await self.call(request, device_pb.StartNextExecutionResponse)

    async def start(self, job_id: str, **fields: Any) -> device_pb.DeviceExecution:
        request = device_pb.StartExecutionRequest(job_id=job_id, **fields)
        return (await self.call(request, device_pb.StartExecutionResponse)).execution

    async def get(self, job_id: str) -> device_pb.DeviceExecution:
        request = device_pb.GetExecutionRequest(job_id=job_id)
        return (await self.call(request, device_pb.GetExecutionResponse)).execution

    async def update(self, job_id: str, status: Any, **fields: Any) -> device_pb.DeviceExecution:
        request = device_pb.UpdateExecutionRequest(job_id=job_id, status=status, **fields)
        return (await self.call(request, device_pb.UpdateExecutionResponse)).execution

    async def accept_cancel(self, job_id: str, **fields: Any) -> device_pb.DeviceExecution:
        return await self.update(job_id, "REJECTED", cancel_accepted=True, **fields)

    async def acknowledge(self, *attempts: tuple[str, int]) -> None:
        """Acknowledge attempts of jobs."""
        executions = [
            device_pb.EndedExecution(job_id=job_id, execution_number=number)
            for job_id, number in attempts
        ]
        request = device_pb.AcknowledgeExecutionsRequest(executions=executions)
        await self.call(request, device_pb.AcknowledgeExecutionsResponse)

    async def ended(self) -> list[tuple[str, int, str]]:
        """The attempts that others ended, from ListPendingExecutions, sorted."""
        return ended_of(await self.pending())

    async def facts(self, facts: Mapping[str, str], *, replace: bool = False) -> None:
        request = device_pb.UpdateFactsRequest(facts=facts, replace=replace)
        await self.call(request, device_pb.UpdateFactsResponse)

    def watch(
        self, **fields: Any
    ) -> AsyncGenerator[device_pb.WatchPendingExecutionsResponse, None]:
        """Open a watch of the pending executions and iterate over its responses."""
        stub: Any = self.stub
        request = device_pb.WatchPendingExecutionsRequest(**fields)
        return _responses(
            stub.WatchPendingExecutions(request, metadata=self.metadata, timeout=TIMEOUT)
        )


@dataclass(frozen=True)
class Bridge(Caller):
    """A caller of DeviceJobService for the devices of a tenant."""

    stub: "device_jobs_pb2_grpc.DeviceJobServiceAsyncStub"
    tenant: str
    user: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        user = (("x-user-id", self.user),) if self.user else ()
        return (("x-tenant-id", self.tenant), ("x-roles", "bridge"), *user)

    async def start_next(self, *device_ids: str) -> Sequence[device_pb.StartNextResult]:
        """Start the next execution of each device."""
        request = device_pb.StartNextExecutionsRequest(device_ids=device_ids)
        return (await self.call(request, device_pb.StartNextExecutionsResponse)).results

    async def start_next_jobs(self, *device_ids: str) -> list[str | None]:
        """Start the next execution of each device; return its job, or None."""
        results = await self.start_next(*device_ids)
        assert not any(result.HasField("error") for result in results)
        return [result.execution.job_id or None for result in results]


def ended_of(
    response: device_pb.ListPendingExecutionsResponse
    | device_pb.StartNextExecutionResponse
    | device_pb.StartNextResult
    | device_pb.WatchPendingExecutionsResponse,
) -> list[tuple[str, int, str]]:
    """The job, number and cause of each of the attempts that others ended, sorted."""
    return sorted(
        (each.job_id, each.execution_number, pb.JobExecution.EndCause.Name(each.end_cause))
        for each in response.ended_executions
    )


async def _responses(call: Any) -> AsyncGenerator[Any, None]:
    """Iterate over the responses of a stream, and cancel it at the end."""
    try:
        async for response in call:
            yield response
    finally:
        call.cancel()


async def all_jobs(operator: Operator, **fields: Any) -> list[pb.Job]:
    """List the jobs of all pages, starting at the first page or at `page_token`."""
    jobs: list[pb.Job] = []
    while True:
        page = await operator.list(**fields)
        jobs += page.jobs
        if not page.next_page_token:
            return jobs
        fields["page_token"] = page.next_page_token


async def job_ids(operator: Operator, **fields: Any) -> list[str]:
    return [job.job_id for job in await all_jobs(operator, **fields)]


async def all_pending(device: Device, **fields: Any) -> list[str]:
    """List the jobs of the pending executions of all pages, starting as all_jobs does."""
    job_ids: list[str] = []
    while True:
        page = await device.pending(**fields)
        job_ids += [execution.job_id for execution in page.executions]
        if not page.next_page_token:
            return job_ids
        fields["page_token"] = page.next_page_token


async def read_to_end(stream: Any) -> None:
    """Read all messages of a stream; raise its error if it fails."""
    while await stream.read() is not EOF:
        pass


async def all_executions(operator: Operator, job_id: str, **fields: Any) -> list[pb.JobExecution]:
    """List the executions of all pages, starting at the first page or at `page_token`."""
    executions: list[pb.JobExecution] = []
    while True:
        page = await operator.executions(job_id, **fields)
        executions += page.executions
        if not page.next_page_token:
            return executions
        fields["page_token"] = page.next_page_token
