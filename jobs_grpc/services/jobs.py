"""JobService: each method checks the request, delegates to the store, maps the answer."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing

from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc
from grpc.aio import ServicerContext

from jobs_grpc.auth.principal import current_principal
from jobs_grpc.config import Config
from jobs_grpc.db.store import PgMicros, Row, Store
from jobs_grpc.errors import InvalidPageToken, JobNotFound
from jobs_grpc.services import pagination, validation
from jobs_grpc.services.conversions import (
    add_executions,
    execution_fields,
    execution_of_device_fields,
    job_fields,
    optional_or,
    to_pg_micros,
    to_timestamp,
)
from jobs_grpc.services.struct_json import to_json
from jobs_grpc.services.watch_hub import WatchHub

DEFAULT_JOBS = 50
MAX_JOBS = 200
DEFAULT_EXECUTIONS = 1000
MAX_EXECUTIONS = 5000
MAX_ATTEMPTS = 100
DEFAULT_EXPIRES_IN_HOURS = 24
DEFAULT_REASON = "canceled by operator"

# Seconds between looks at the jobs that are watched.
WATCH_INTERVAL = 0.25


class JobService(jobs_pb2_grpc.JobServiceServicer):
    """The operator's side; the contract is in jobs.proto."""

    def __init__(self, store: Store, config: Config, stopping: asyncio.Event) -> None:
        self._store = store
        self._max_document_bytes = config.max_document_bytes
        self._max_targets = config.max_targets
        self._max_active_jobs = config.max_active_jobs
        self._watching = WatchHub(self._jobs, WATCH_INTERVAL, stopping)

    async def CreateJob(
        self,
        request: pb.CreateJobRequest,
        context: ServicerContext[pb.CreateJobRequest, pb.CreateJobResponse],
    ) -> pb.CreateJobResponse:
        params, violations = to_json(
            request.document_params, "document_params", self._max_document_bytes
        )
        violations += validation.check_job_id(request.job_id) if request.job_id else []
        violations += validation.check_text(
            "document_type", request.document_type, validation.MAX_DOCUMENT_TYPE
        )
        violations += validation.check_target(request)
        violations += validation.check_expiry(request)
        violations += validation.check_in_progress_timeout(request)
        validation.require(violations)

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
            in_progress_timeout_minutes=optional_or(request, "in_progress_timeout_minutes", None),
            created_by=caller.subject,
            max_targets=self._max_targets,
            max_active_jobs=self._max_active_jobs,
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
        limit = optional_or(request, "limit", DEFAULT_JOBS)
        wanted = {*request.statuses} | ({request.status} - {0})
        validation.require(
            validation.check_statuses(wanted, pb.Job.Status)
            + validation.check_range("limit", limit, 1, MAX_JOBS)
            + validation.check_offset(request.offset)
            + validation.check_job_filters(request)
        )
        before_created_at, before_job_id = _jobs_position(request)

        rows = await self._store.list_jobs(
            current_principal().tenant_id,
            statuses=sorted(map(pb.Job.Status.Name, wanted)) or None,
            document_type=request.document_type or None,
            created_by=request.created_by or None,
            target_device_id=request.target_device_id or None,
            target_group_id=request.target_group_id or None,
            target_all=request.target_all or None,
            created_from=to_pg_micros(request, "created_from"),
            created_until=to_pg_micros(request, "created_until"),
            before_created_at=before_created_at,
            before_job_id=before_job_id,
            limit=limit + 1,
            offset=request.offset,
        )
        response = pb.ListJobsResponse()
        if pagination.fill(response.jobs, map(job_fields, rows), limit):
            last = rows[len(response.jobs) - 1]
            response.next_page_token = pagination.moment_token(
                request, last["created_at"], last["job_id"]
            )
        return response

    async def GetJob(
        self,
        request: pb.GetJobRequest,
        context: ServicerContext[pb.GetJobRequest, pb.GetJobResponse],
    ) -> pb.GetJobResponse:
        limit = optional_or(request, "executions_limit", DEFAULT_EXECUTIONS)
        validation.require(
            validation.check_job_id(request.job_id)
            + validation.check_range("executions_limit", limit, 0, MAX_EXECUTIONS)
        )
        row = await self._store.get_job(
            current_principal().tenant_id, job_id=request.job_id, executions_limit=limit + 1
        )
        response = pb.GetJobResponse(job=job_fields(row))
        job = response.job
        if pagination.keep(
            job.executions, add_executions(job.executions, row), limit, job.ByteSize()
        ):
            job.next_executions_page_token = pagination.device_token(
                pb.ListJobExecutionsRequest(job_id=request.job_id),
                job.executions[-1].device_id if job.executions else "",
            )
        return response

    async def ListJobExecutions(
        self,
        request: pb.ListJobExecutionsRequest,
        context: ServicerContext[pb.ListJobExecutionsRequest, pb.ListJobExecutionsResponse],
    ) -> pb.ListJobExecutionsResponse:
        limit = optional_or(request, "limit", DEFAULT_EXECUTIONS)
        validation.require(
            validation.check_executions_of(request)
            + validation.check_statuses({request.status} - {0}, pb.JobExecution.Status)
            + validation.check_range("limit", limit, 1, MAX_EXECUTIONS)
        )
        status = pb.JobExecution.Status.Name(request.status) if request.status else None
        response = pb.ListJobExecutionsResponse()
        if request.device_id:
            await self._list_of_device(request, status, limit, response)
        else:
            await self._list_of_job(request, status, limit, response)
        return response

    async def _list_of_job(
        self,
        request: pb.ListJobExecutionsRequest,
        status: str | None,
        limit: int,
        response: pb.ListJobExecutionsResponse,
    ) -> None:
        after_device_id = (
            pagination.device_position(request.page_token, request) if request.page_token else ""
        )
        row = await self._store.list_job_executions(
            current_principal().tenant_id,
            job_id=request.job_id,
            status=status,
            after_device_id=after_device_id,
            limit=limit + 1,
        )
        if pagination.keep(response.executions, add_executions(response.executions, row), limit):
            response.next_page_token = pagination.device_token(
                request, response.executions[-1].device_id
            )

    async def _list_of_device(
        self,
        request: pb.ListJobExecutionsRequest,
        status: str | None,
        limit: int,
        response: pb.ListJobExecutionsResponse,
    ) -> None:
        before = (
            pagination.moment_position(request.page_token, request)
            if request.page_token
            else (None, None)
        )
        rows = await self._store.list_device_executions(
            current_principal().tenant_id,
            device_id=request.device_id,
            job_id=request.job_id or None,
            status=status,
            before_queued_at=before[0],
            before_job_id=before[1],
            limit=limit + 1,
        )
        if pagination.fill(response.executions, map(execution_of_device_fields, rows), limit):
            last = rows[len(response.executions) - 1]
            response.next_page_token = pagination.moment_token(
                request, last["queued_at"], last["job_id"]
            )

    async def CancelJob(
        self,
        request: pb.CancelJobRequest,
        context: ServicerContext[pb.CancelJobRequest, pb.CancelJobResponse],
    ) -> pb.CancelJobResponse:
        validation.require(
            validation.check_job_id(request.job_id) + validation.check_reason(request.reason)
        )
        await self._store.cancel_job(
            current_principal().tenant_id,
            job_id=request.job_id,
            reason=request.reason or DEFAULT_REASON,
            force=request.force,
        )
        return pb.CancelJobResponse(job_id=request.job_id, status=pb.Job.CANCELED)

    async def CancelExecution(
        self,
        request: pb.CancelExecutionRequest,
        context: ServicerContext[pb.CancelExecutionRequest, pb.CancelExecutionResponse],
    ) -> pb.CancelExecutionResponse:
        validation.require(
            validation.check_job_id(request.job_id)
            + validation.check_text("device_id", request.device_id, validation.MAX_ID)
            + validation.check_reason(request.reason)
        )
        row = await self._store.cancel_execution(
            current_principal().tenant_id,
            job_id=request.job_id,
            device_id=request.device_id,
            reason=request.reason or DEFAULT_REASON,
            force=request.force,
        )
        return pb.CancelExecutionResponse(execution=execution_fields(row))

    async def RetryExecutions(
        self,
        request: pb.RetryExecutionsRequest,
        context: ServicerContext[pb.RetryExecutionsRequest, pb.RetryExecutionsResponse],
    ) -> pb.RetryExecutionsResponse:
        validation.require(
            validation.check_job_id(request.job_id)
            + validation.check_retried_statuses(request.statuses)
            + validation.check_expiry(request)
        )
        row = await self._store.retry_executions(
            current_principal().tenant_id,
            job_id=request.job_id,
            statuses=[pb.JobExecution.Status.Name(status) for status in set(request.statuses)],
            expires_in_hours=optional_or(request, "expires_in_hours", None),
            never_expires=request.never_expires,
            max_active_jobs=self._max_active_jobs,
        )
        return pb.RetryExecutionsResponse(
            retried_count=row["retried_count"], expires_at=to_timestamp(row["expires_at"])
        )

    async def ListExecutionAttempts(
        self,
        request: pb.ListExecutionAttemptsRequest,
        context: ServicerContext[pb.ListExecutionAttemptsRequest, pb.ListExecutionAttemptsResponse],
    ) -> pb.ListExecutionAttemptsResponse:
        validation.require(
            validation.check_job_id(request.job_id)
            + validation.check_text("device_id", request.device_id, validation.MAX_ID)
        )
        rows = await self._store.list_execution_attempts(
            current_principal().tenant_id,
            job_id=request.job_id,
            device_id=request.device_id,
            limit=MAX_ATTEMPTS,
        )
        response = pb.ListExecutionAttemptsResponse()
        pagination.fill(response.attempts, map(execution_fields, rows), MAX_ATTEMPTS)
        return response

    async def DeleteJob(
        self,
        request: pb.DeleteJobRequest,
        context: ServicerContext[pb.DeleteJobRequest, pb.DeleteJobResponse],
    ) -> pb.DeleteJobResponse:
        validation.require(validation.check_job_id(request.job_id))
        await self._store.delete_job(current_principal().tenant_id, job_id=request.job_id)
        return pb.DeleteJobResponse()

    async def WatchJob(
        self,
        request: pb.WatchJobRequest,
        context: ServicerContext[pb.WatchJobRequest, pb.WatchJobResponse],
    ) -> AsyncIterator[pb.WatchJobResponse]:
        validation.require(validation.check_job_id(request.job_id))
        tenant_id = current_principal().tenant_id
        async with aclosing(self._watching.changes(tenant_id, request.job_id)) as rows:
            async for row in rows:
                if row is None:
                    raise JobNotFound(request.job_id)
                yield pb.WatchJobResponse(job=job_fields(row))
                if row["status"] != "IN_PROGRESS":
                    return

    async def _jobs(self, tenant_id: str, job_ids: list[str]) -> dict[str, Row]:
        rows = await self._store.get_jobs(tenant_id, job_ids=job_ids)
        return {row["job_id"]: row for row in rows}


def _expires_in_hours(request: pb.CreateJobRequest) -> int | None:
    if request.never_expires:
        return None
    return optional_or(request, "expires_in_hours", DEFAULT_EXPIRES_IN_HOURS)


def _jobs_position(request: pb.ListJobsRequest) -> tuple[PgMicros, str] | tuple[None, None]:
    if not request.page_token:
        return None, None
    if request.offset:
        raise InvalidPageToken("page_token and offset must not both be set")
    return pagination.moment_position(request.page_token, request)
