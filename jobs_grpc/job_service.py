"""JobService: each method checks the request, delegates to the store, maps the answer."""

import uuid
from datetime import datetime

from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc
from grpc.aio import ServicerContext

from jobs_grpc import checks, paging
from jobs_grpc.documents import to_json
from jobs_grpc.errors import InvalidPageToken
from jobs_grpc.mapping import executions_from_row, job_from_row, to_timestamp
from jobs_grpc.principal import current_principal
from jobs_grpc.store import Store

DEFAULT_JOBS = 50
MAX_JOBS = 200
DEFAULT_EXECUTIONS = 1000
MAX_EXECUTIONS = 5000
DEFAULT_EXPIRES_IN_HOURS = 24


class JobService(jobs_pb2_grpc.JobServiceServicer):
    """The operator's side; the contract is in jobs.proto."""

    def __init__(self, store: Store, max_document_bytes: int) -> None:
        self._store = store
        self._max_document_bytes = max_document_bytes

    async def CreateJob(
        self,
        request: pb.CreateJobRequest,
        context: ServicerContext[pb.CreateJobRequest, pb.CreateJobResponse],
    ) -> pb.CreateJobResponse:
        params, violations = to_json(
            request.document_params, "document_params", self._max_document_bytes
        )
        violations += checks.check_job_id(request.job_id) if request.job_id else []
        violations += checks.check_text(
            "document_type", request.document_type, checks.MAX_DOCUMENT_TYPE
        )
        violations += checks.check_target(request)
        violations += checks.check_expiry(request)
        checks.require(violations)

        caller = current_principal()
        job_id = request.job_id or str(uuid.uuid4())
        row = await self._store.create_job(
            caller.tenant_id,
            job_id=job_id,
            document_type=request.document_type,
            document_params=params,
            target_device_id=request.target_device_id or None,
            target_group_id=request.target_group_id or None,
            target_all=request.target_all,
            expires_in_hours=_expires_in_hours(request),
            created_by=caller.subject,
        )
        return pb.CreateJobResponse(
            job_id=job_id,
            status=pb.Job.IN_PROGRESS,
            execution_count=row["execution_count"],
            expires_at=to_timestamp(row["expires_at"]),
        )

    async def ListJobs(
        self,
        request: pb.ListJobsRequest,
        context: ServicerContext[pb.ListJobsRequest, pb.ListJobsResponse],
    ) -> pb.ListJobsResponse:
        limit = request.limit if request.HasField("limit") else DEFAULT_JOBS
        checks.require(
            checks.check_status(request.status, pb.Job.Status)
            + checks.check_range("limit", limit, 1, MAX_JOBS)
            + checks.check_offset(request.offset)
        )
        before_created_at, before_job_id = _jobs_position(request)

        rows = await self._store.list_jobs(
            current_principal().tenant_id,
            status=pb.Job.Status.Name(request.status) if request.status else None,
            before_created_at=before_created_at,
            before_job_id=before_job_id,
            limit=limit + 1,
            offset=request.offset,
        )
        response = pb.ListJobsResponse()
        if paging.fill(response.jobs, map(job_from_row, rows), limit):
            last = rows[len(response.jobs) - 1]
            response.next_page_token = paging.jobs_token(
                request.status, last["created_at"], last["job_id"]
            )
        return response

    async def GetJob(
        self,
        request: pb.GetJobRequest,
        context: ServicerContext[pb.GetJobRequest, pb.GetJobResponse],
    ) -> pb.GetJobResponse:
        limit = (
            request.executions_limit if request.HasField("executions_limit") else DEFAULT_EXECUTIONS
        )
        checks.require(
            checks.check_job_id(request.job_id)
            + checks.check_range("executions_limit", limit, 0, MAX_EXECUTIONS)
        )
        row = await self._store.get_job(
            current_principal().tenant_id, job_id=request.job_id, executions_limit=limit + 1
        )
        job = job_from_row(row)
        if paging.fill(job.executions, executions_from_row(row), limit, job.ByteSize()):
            job.next_executions_page_token = paging.executions_token(
                request.job_id,
                pb.JobExecution.STATUS_UNSPECIFIED,
                job.executions[-1].device_id if job.executions else "",
            )
        return pb.GetJobResponse(job=job)

    async def ListJobExecutions(
        self,
        request: pb.ListJobExecutionsRequest,
        context: ServicerContext[pb.ListJobExecutionsRequest, pb.ListJobExecutionsResponse],
    ) -> pb.ListJobExecutionsResponse:
        limit = request.limit if request.HasField("limit") else DEFAULT_EXECUTIONS
        checks.require(
            checks.check_job_id(request.job_id)
            + checks.check_status(request.status, pb.JobExecution.Status)
            + checks.check_range("limit", limit, 1, MAX_EXECUTIONS)
        )
        after_device_id = (
            paging.executions_position(request.page_token, request.job_id, request.status)
            if request.page_token
            else ""
        )

        row = await self._store.list_job_executions(
            current_principal().tenant_id,
            job_id=request.job_id,
            status=pb.JobExecution.Status.Name(request.status) if request.status else None,
            after_device_id=after_device_id,
            limit=limit + 1,
        )
        response = pb.ListJobExecutionsResponse()
        if paging.fill(response.executions, executions_from_row(row), limit):
            response.next_page_token = paging.executions_token(
                request.job_id, request.status, response.executions[-1].device_id
            )
        return response

    async def CancelJob(
        self,
        request: pb.CancelJobRequest,
        context: ServicerContext[pb.CancelJobRequest, pb.CancelJobResponse],
    ) -> pb.CancelJobResponse:
        checks.require(checks.check_job_id(request.job_id) + checks.check_reason(request.reason))
        await self._store.cancel_job(
            current_principal().tenant_id,
            job_id=request.job_id,
            reason=request.reason or "canceled by operator",
        )
        return pb.CancelJobResponse(job_id=request.job_id, status=pb.Job.CANCELED)


def _expires_in_hours(request: pb.CreateJobRequest) -> int | None:
    if request.never_expires:
        return None
    if request.HasField("expires_in_hours"):
        return request.expires_in_hours
    return DEFAULT_EXPIRES_IN_HOURS


def _jobs_position(request: pb.ListJobsRequest) -> tuple[datetime, str] | tuple[None, None]:
    if not request.page_token:
        return None, None
    if request.offset:
        raise InvalidPageToken("page_token and offset must not both be set")
    return paging.jobs_position(request.page_token, request.status)
