"""JobsClient: the operators' API."""

import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeAlias, Unpack

import grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from jobs_grpc.client.errors import create_error
from jobs_grpc.client.operator_client import OperatorClient, Pager
from jobs_grpc.client.requests import JobSettings, NewJob, Page, build_request

JobStatus: TypeAlias = pb.Job.Status.ValueType
ExecutionStatus: TypeAlias = pb.JobExecution.Status.ValueType
EndCause: TypeAlias = pb.JobExecution.EndCause.ValueType


class JobsClient(OperatorClient):
    """Calls JobService for one tenant. See OperatorClient for common parameters and errors.

    `advance`, `resume` and `update` are safe to repeat with an etag: if the first try took effect,
    the second one raises JobChanged.
    """

    _stub = jobs_pb2_grpc.JobServiceStub

    async def create(
        self,
        document_type: str,
        document_params: Mapping[str, Any] | None = None,
        *,
        job_id: str | None = None,
        **fields: Unpack[NewJob],
    ) -> pb.CreateJobResponse:
        """Create a job for one target. Safe to repeat: without a job_id, the client generates one.

        Raises ValueError for an integer beyond ±2^53 in document_params: send it as a string.
        """
        job_id = job_id or str(uuid.uuid4())
        request = build_request(pb.CreateJobRequest, locals())
        return await self._calls.unary(request, pb.CreateJobResponse, repeatable=True)

    async def get(self, job_id: str, *, executions_limit: int = 0) -> pb.Job:
        """Return a job, with its first `executions_limit` executions."""
        request = pb.GetJobRequest(job_id=job_id, executions_limit=executions_limit)
        return (await self._calls.unary(request, pb.GetJobResponse)).job

    def list(
        self,
        *,
        status: JobStatus = pb.Job.STATUS_UNSPECIFIED,
        statuses: Iterable[JobStatus] = (),
        document_type: str = "",
        created_by: str = "",
        target_device_id: str = "",
        target_group_id: str = "",
        target_all: bool = False,
        created_from: datetime | None = None,
        created_until: datetime | None = None,
        awaiting_approval: bool = False,
        selector: str = "",
        job_id_prefix: str = "",
        **page: Unpack[Page],
    ) -> Pager[pb.Job]:
        """List the jobs that match all filters, newest first, without their executions."""
        return self._pager(pb.ListJobsRequest, pb.ListJobsResponse, "jobs", locals(), 200)

    def executions(
        self,
        job_id: str = "",
        *,
        device_id: str = "",
        status: ExecutionStatus = pb.JobExecution.STATUS_UNSPECIFIED,
        failure_code: str | None = None,
        end_causes: Iterable[EndCause] = (),
        stage: int | None = None,
        device_id_prefix: str = "",
        **page: Unpack[Page],
    ) -> Pager[pb.JobExecution]:
        """List the executions of a job by device, or those of a device, newest first."""
        return self._pager(
            pb.ListJobExecutionsRequest, pb.ListJobExecutionsResponse, "executions", locals(), 1000
        )

    def attempts(self, job_id: str, device_id: str, **page: Unpack[Page]) -> Pager[pb.JobExecution]:
        """List the attempts of one execution, the current one first."""
        return self._pager(
            pb.ListExecutionAttemptsRequest, pb.ListExecutionAttemptsResponse, "attempts", locals()
        )

    async def explain(self, job_id: str, device_id: str) -> pb.ExplainExecutionResponse:
        """Explain why a device does not start its execution of a job now."""
        request = pb.ExplainExecutionRequest(job_id=job_id, device_id=device_id)
        return await self._calls.unary(request, pb.ExplainExecutionResponse)

    async def failures(
        self,
        job_id: str,
        *,
        statuses: Iterable[ExecutionStatus] = (),
        failure_codes: Iterable[str] = (),
    ) -> pb.GetFailureSummaryResponse:
        """Count the failures of a job by status and failure code."""
        request = build_request(pb.GetFailureSummaryRequest, locals())
        return await self._calls.unary(request, pb.GetFailureSummaryResponse)

    async def timeline(self, job_id: str) -> pb.GetJobTimelineResponse:
        """Return how many executions of a job finished over time."""
        request = pb.GetJobTimelineRequest(job_id=job_id)
        return await self._calls.unary(request, pb.GetJobTimelineResponse)

    async def cancel(
        self, job_id: str, *, reason: str = "", force: bool = False, etag: str = ""
    ) -> pb.CancelJobResponse:
        """Cancel a job. Not repeated, because the second try can't tell who canceled."""
        request = pb.CancelJobRequest(job_id=job_id, reason=reason, force=force, etag=etag)
        return await self._calls.unary(request, pb.CancelJobResponse)

    async def cancel_execution(
        self, job_id: str, device_id: str, *, reason: str = "", force: bool = False
    ) -> pb.JobExecution:
        """Cancel the execution of one device. Not repeated."""
        request = build_request(pb.CancelExecutionRequest, locals())
        return (await self._calls.unary(request, pb.CancelExecutionResponse)).execution

    async def pause(self, job_id: str, *, reason: str = "", etag: str = "") -> pb.Job:
        """Pause a job. Safe to repeat."""
        request = pb.PauseJobRequest(job_id=job_id, reason=reason, etag=etag)
        return (await self._calls.unary(request, pb.PauseJobResponse, repeatable=True)).job

    async def resume(self, job_id: str, *, etag: str = "") -> pb.Job:
        """Resume a job. Safe to repeat with an etag: without one, it could end a newer pause."""
        request = pb.ResumeJobRequest(job_id=job_id, etag=etag)
        response = await self._calls.unary(request, pb.ResumeJobResponse, repeatable=bool(etag))
        return response.job

    async def advance(self, job_id: str, *, stage: int | None = None, etag: str = "") -> pb.Job:
        """Open a stage of a rollout; None: the next one. Safe to repeat with a stage or an etag."""
        request = pb.AdvanceJobRequest(job_id=job_id, stage=stage, etag=etag)
        repeatable = stage is not None or bool(etag)
        response = await self._calls.unary(request, pb.AdvanceJobResponse, repeatable=repeatable)
        return response.job

    async def approve(
        self, job_id: str, stage: int, *, comment: str = "", etag: str = ""
    ) -> pb.Job:
        """Approve the open stage of a rollout. Safe to repeat."""
        request = pb.ApproveStageRequest(job_id=job_id, stage=stage, comment=comment, etag=etag)
        return (await self._calls.unary(request, pb.ApproveStageResponse)).job

    async def reject(self, job_id: str, stage: int, *, comment: str = "", etag: str = "") -> pb.Job:
        """Reject the open stage of a rollout, which pauses the job. Safe to repeat with an etag."""
        request = pb.RejectStageRequest(job_id=job_id, stage=stage, comment=comment, etag=etag)
        response = await self._calls.unary(request, pb.RejectStageResponse, repeatable=bool(etag))
        return response.job

    async def approve_start(self, job_id: str, *, comment: str = "", etag: str = "") -> pb.Job:
        """Approve the start of a job with require_start_approval. Safe to repeat."""
        request = pb.ApproveStartRequest(job_id=job_id, comment=comment, etag=etag)
        return (await self._calls.unary(request, pb.ApproveStartResponse)).job

    async def reject_start(self, job_id: str, *, comment: str = "", etag: str = "") -> pb.Job:
        """Reject the start of a job, which cancels it. Safe to repeat with an etag."""
        request = pb.RejectStartRequest(job_id=job_id, comment=comment, etag=etag)
        response = await self._calls.unary(request, pb.RejectStartResponse, repeatable=bool(etag))
        return response.job

    async def update(
        self,
        job_id: str,
        update_mask: Iterable[str],
        *,
        expires_at: datetime | None = None,
        etag: str = "",
        **fields: Unpack[JobSettings],
    ) -> pb.Job:
        """Change the fields that `update_mask` names. Safe to repeat with an etag."""
        request = build_request(pb.UpdateJobRequest, locals())
        response = await self._calls.unary(request, pb.UpdateJobResponse, repeatable=bool(etag))
        return response.job

    async def retry(
        self,
        job_id: str,
        statuses: Iterable[ExecutionStatus],
        *,
        failure_codes: Iterable[str] = (),
        device_ids: Iterable[str] = (),
        expires_in_hours: int | None = None,
        never_expires: bool = False,
        etag: str = "",
    ) -> pb.RetryExecutionsResponse:
        """Queue the next attempt of the matching executions. Not repeated by the client."""
        request = build_request(pb.RetryExecutionsRequest, locals())
        return await self._calls.unary(request, pb.RetryExecutionsResponse)

    async def delete(self, job_id: str, *, etag: str = "") -> None:
        """Delete a finished job. Not repeated by the client."""
        await self._calls.unary(pb.DeleteJobRequest(job_id=job_id, etag=etag), pb.DeleteJobResponse)

    async def caller(self) -> pb.GetCallerResponse:
        """Return who the server says that this client is, and which methods it may call."""
        return await self._calls.unary(pb.GetCallerRequest(), pb.GetCallerResponse)

    async def watch(self, job_id: str) -> AsyncIterator[pb.Job]:
        """Yield the job now and after each change, up to the state in which it is finished.

        Reconnects when the stream breaks, after a random time, and continues with the next
        state that differs. Raises JobNotFound if the job does not exist or is deleted.
        """
        last: pb.Job | None = None
        request = pb.WatchJobRequest(job_id=job_id)
        async for response in self._calls.follow(request, pb.WatchJobResponse):
            if response.job != last:
                last = response.job
                yield response.job

    async def wait(self, job_id: str) -> pb.Job:
        """Return the job when it is COMPLETED or CANCELED. Use `asyncio.timeout` to wait less."""
        finished: pb.Job | None = None
        async for job in self.watch(job_id):
            finished = job
        if finished is None:
            problem = "the watch ended without a state of the job"
            raise create_error(grpc.StatusCode.UNKNOWN, problem)
        return finished
