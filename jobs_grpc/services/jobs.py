"""Implements JobService: each method validates, calls the store and converts the result."""

import asyncio
import json
import uuid
from collections.abc import Iterable
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc
from grpc.aio import ServicerContext

from jobs_grpc.auth.policy import allowed_methods
from jobs_grpc.auth.principal import current_principal
from jobs_grpc.config import Config
from jobs_grpc.contract.methods import page_size
from jobs_grpc.db.store import Row, Store
from jobs_grpc.errors import (
    EvaluationRunning,
    GroupEmpty,
    InvalidPageToken,
    JobsError,
    StageEmpty,
    SubjectRequired,
    TargetEmpty,
    TimeGatesUnavailable,
    TimelineRunning,
    Violation,
)
from jobs_grpc.limits.active_jobs import ActiveJobCounts
from jobs_grpc.limits.fair_slots import FairSlots
from jobs_grpc.limits.memory_limit import MemoryLimit
from jobs_grpc.limits.one_per_tenant import OnePerTenant
from jobs_grpc.services import validation
from jobs_grpc.services.audited_changes import note_changed_fields
from jobs_grpc.services.execution_page import append_executions
from jobs_grpc.services.forecast import forecast_fields
from jobs_grpc.services.job_checks import check_fields
from jobs_grpc.services.job_request import DEFAULT_EXPIRES_IN_HOURS, job_request, present_fields
from jobs_grpc.services.job_update import changed_rollout, changed_schedule, check_update
from jobs_grpc.services.job_waits import add_window_wait
from jobs_grpc.services.job_watch import JobWatch
from jobs_grpc.services.page_tokens import (
    check_job,
    page_token,
    parse_int32,
    parse_micros,
    parse_token,
)
from jobs_grpc.services.response_pages import fill_page
from jobs_grpc.services.rollout_conversions import job_details_fields
from jobs_grpc.services.rollout_json import failure_criteria_json, rollout_json
from jobs_grpc.services.rollout_validation import (
    has_time_gate,
    requires_approval,
)
from jobs_grpc.services.row_conversions import (
    MessageFields,
    execution_fields,
    execution_fields_with_job_id,
    job_fields,
    optional_or,
    timestamp_fields,
    to_pg_micros,
    window_state_fields,
)
from jobs_grpc.services.selectors import ID_KEYS, Selector, check_labels, parse_field
from jobs_grpc.services.single_flight import SingleFlight
from jobs_grpc.services.start_blockers import explanation_fields
from jobs_grpc.services.struct_json import to_json
from jobs_grpc.services.target_hints import add_hint, continuous_hints
from jobs_grpc.services.targets import (
    EvaluationLimit,
    has_large_list,
    preview_fields,
    selector_terms,
    target_device_ids,
)
from jobs_grpc.services.timeline import MAX_BUCKETS, MAX_MARKS, timeline_fields

# The failure_code under which get_failure_summary.sql counts pairs without a count of their own.
OTHER_FAILURES = "*"


class JobService(jobs_pb2_grpc.JobServiceServicer):
    """The operators' API, documented in jobs.proto.

    Large pages are converted in `slots`, so that other calls run in between.
    `stopping` is set when the server begins to stop.
    """

    def __init__(
        self,
        store: Store,
        memory: MemoryLimit,
        slots: FairSlots,
        config: Config,
        stopping: asyncio.Event,
        evaluations: EvaluationLimit,
    ) -> None:
        self._store = store
        self._evaluations = evaluations
        self._timelines: SingleFlight[tuple[str, str], pb.GetJobTimelineResponse] = SingleFlight()
        self._timeline_limit = OnePerTenant()
        self._memory = memory
        self._yield_now = slots.yield_for_caller
        self._max_document_bytes = config.limits.max_document_bytes
        self._max_targets = config.limits.max_targets
        self._active_job_counts = ActiveJobCounts(config.limits.max_active_jobs)
        self._has_background_work = config.maintenance.owner_database_url is not None
        self.finished = {"TIMED_OUT": 0, "REJECTED": 0}
        """Executions that calls have finished, by status."""
        self.watch = JobWatch(store, memory, self._max_document_bytes, stopping, slots.yield_now)

    async def CreateJob(
        self, request: pb.CreateJobRequest, context: object
    ) -> pb.CreateJobResponse:
        params, violations = await to_json(
            request.document_params, "document_params", self._max_document_bytes, self._yield_now
        )
        # A job costs no more than the fields that it sets.
        fields = present_fields(request)
        violations += validation.check_expiry(request)
        violations += check_labels(request.labels) if "labels" in fields else []
        validation.require_valid(request, violations)
        validation.raise_for_violations(check_fields(request, fields))
        if has_large_list(request):
            await self._yield_now()

        caller = current_principal()
        error_unless_repeated: type[JobsError] | None = None
        if "require_start_approval" in fields and caller.subject is None:
            error_unless_repeated = SubjectRequired
        elif "rollout" in fields:
            if requires_approval(request.rollout) and caller.subject is None:
                error_unless_repeated = SubjectRequired
            elif has_time_gate(request.rollout) and not self._has_background_work:
                error_unless_repeated = TimeGatesUnavailable
        job_id = request.job_id or str(uuid.uuid4())
        counting = self._active_job_counts.call(caller.tenant_id, always=request.validate_only)
        async with counting as count:
            row = await self._create_job(
                request,
                error_unless_repeated,
                job_id=job_id,
                request=job_request(fields),
                document_params=params,
                created_by=caller.subject,
                max_active_jobs=count.max_active_jobs,
            )
            count.active_jobs = row["active_jobs"]
        validated: dict[str, Any] = {}
        if request.validate_only:
            hints = await continuous_hints(
                self._store, caller.tenant_id, request, row, self._yield_now
            )
            preview = preview_fields(row) | {"hints": hints}
            validated = {"preview": preview, "forecast": forecast_fields(row)}
        return pb.CreateJobResponse(
            job_id=job_id,
            status=row["status"],
            execution_count=row["execution_count"],
            expires_at=timestamp_fields(row["expires_at"]),
            **validated,
        )

    async def _create_job(
        self,
        message: pb.CreateJobRequest,
        error_unless_repeated: type[JobsError] | None,
        **parameters: Any,
    ) -> Row:
        """Call create_job. During another evaluation of the tenant, only a repeat succeeds."""
        tenant_id = current_principal().tenant_id
        evaluation = self._evaluations.evaluation(
            tenant_id, message, is_preview=message.validate_only
        )
        with evaluation as may_evaluate:
            if not may_evaluate:
                # Not raised here, because a repeated request returns the existing job.
                error_unless_repeated = error_unless_repeated or EvaluationRunning
            try:
                return await self._store.create_job(
                    tenant_id,
                    max_targets=self._max_targets,
                    default_expires_in_hours=DEFAULT_EXPIRES_IN_HOURS,
                    validate_only=message.validate_only,
                    error_unless_repeated=error_unless_repeated.upper_name()
                    if error_unless_repeated
                    else None,
                    selector_terms=selector_terms(message),
                    target_device_ids=target_device_ids(message),
                    expected_target_digest=message.expected_target_digest or None,
                    **parameters,
                )
            except (GroupEmpty, StageEmpty, TargetEmpty) as error:
                await add_hint(error, self._store, tenant_id, message, self._yield_now)
                raise

    async def ListJobs(self, request: pb.ListJobsRequest, context: object) -> pb.ListJobsResponse:
        limit = page_size(request)
        validation.require_valid(request)
        selector = _selector_of_jobs(request)
        if request.page_token and request.offset:
            raise InvalidPageToken("page_token and offset must not both be set")
        before_created_at, before_job_id = parse_token(request, parse_micros, str)

        rows = await self._store.list_jobs(
            current_principal().tenant_id,
            statuses=_status_filter(request) or None,
            document_type=request.document_type or None,
            created_by=request.created_by or None,
            target_device_id=request.target_device_id or None,
            target_group_id=request.target_group_id or None,
            target_all=request.target_all or None,
            created_from=to_pg_micros(request, "created_from"),
            created_until=to_pg_micros(request, "created_until"),
            awaiting_approval=request.awaiting_approval or None,
            selector=selector.terms_json if selector.terms else None,
            job_id_prefix=request.job_id_prefix or None,
            before_created_at=before_created_at,
            before_job_id=before_job_id,
            limit=limit + 1,
            offset=request.offset,
        )
        response = pb.ListJobsResponse()
        if await fill_page(response.jobs, rows, job_fields, limit, self._yield_now):
            last = rows[len(response.jobs) - 1]
            response.next_page_token = page_token(request, last["created_at"], last["job_id"])
        return response

    async def GetJob(self, request: pb.GetJobRequest, context: object) -> pb.GetJobResponse:
        limit = page_size(request)
        validation.require_valid(request)
        row = await self._store.get_job(
            current_principal().tenant_id, job_id=request.job_id, executions_limit=limit + 1
        )
        fields = job_details_fields(row)
        if (window_state := row["window_state"]) is not None:
            fields |= window_state_fields(window_state)
            add_window_wait(fields)
        response = pb.GetJobResponse(job=fields)
        job = response.job
        if await append_executions(job, row, limit, self._yield_now, used_bytes=job.ByteSize()):
            job.next_executions_page_token = page_token(
                pb.ListJobExecutionsRequest(job_id=request.job_id),
                row["created_at"],
                job.executions[-1].device_id if job.executions else "",
            )
        return response

    async def ListJobExecutions(
        self, request: pb.ListJobExecutionsRequest, context: object
    ) -> pb.ListJobExecutionsResponse:
        limit = page_size(request)
        validation.require_valid(request, validation.check_job_or_device(request))
        status = pb.JobExecution.Status.Name(request.status) if request.status else None
        if request.device_id:
            return await self._list_executions_of_device(request, status, limit)
        return await self._list_executions_of_job(request, status, limit)

    async def _list_executions_of_job(
        self, request: pb.ListJobExecutionsRequest, status: str | None, limit: int
    ) -> pb.ListJobExecutionsResponse:
        token_created_at, after_device_id = parse_token(request, parse_micros, str)
        row = await self._store.list_job_executions(
            current_principal().tenant_id,
            job_id=request.job_id,
            status=status,
            failure_code=_failure_code_filter(request),
            end_causes=_end_cause_filter(request),
            stage=optional_or(request, "stage", None),
            device_id_prefix=request.device_id_prefix,
            after_device_id=after_device_id or "",
            limit=limit + 1,
        )
        check_job(token_created_at, row["job_created_at"])
        response = pb.ListJobExecutionsResponse()
        if await append_executions(response, row, limit, self._yield_now):
            response.next_page_token = page_token(
                request, row["job_created_at"], response.executions[-1].device_id
            )
        return response

    async def _list_executions_of_device(
        self, request: pb.ListJobExecutionsRequest, status: str | None, limit: int
    ) -> pb.ListJobExecutionsResponse:
        before_queued_at, before_job_id = parse_token(request, parse_micros, str)
        rows = await self._store.list_device_executions(
            current_principal().tenant_id,
            device_id=request.device_id,
            job_id=request.job_id or None,
            status=status,
            failure_code=_failure_code_filter(request),
            end_causes=_end_cause_filter(request),
            before_queued_at=before_queued_at,
            before_job_id=before_job_id,
            limit=limit + 1,
        )
        # The database returns no status of the executions for which a page has no room.
        fitting = [row for row in rows if row["status"] is not None]
        response = pb.ListJobExecutionsResponse()
        is_full = await fill_page(
            response.executions, fitting, execution_fields_with_job_id, limit, self._yield_now
        )
        if is_full or len(fitting) < len(rows):
            last = rows[len(response.executions) - 1]
            response.next_page_token = page_token(request, last["queued_at"], last["job_id"])
        return response

    async def CancelJob(
        self, request: pb.CancelJobRequest, context: object
    ) -> pb.CancelJobResponse:
        validation.require_valid(request)
        caller = current_principal()
        await self._store.cancel_job(
            caller.tenant_id,
            job_id=request.job_id,
            reason=request.reason,
            force=request.force,
            user_id=caller.subject,
            etag=request.etag,
        )
        return pb.CancelJobResponse(job_id=request.job_id, status=pb.Job.CANCELED)

    async def PauseJob(self, request: pb.PauseJobRequest, context: object) -> pb.PauseJobResponse:
        validation.require_valid(request)
        caller = current_principal()
        row = await self._store.pause_job(
            caller.tenant_id,
            job_id=request.job_id,
            reason=request.reason,
            paused_by=caller.subject,
            etag=request.etag,
        )
        return pb.PauseJobResponse(job=job_details_fields(row))

    async def ResumeJob(
        self, request: pb.ResumeJobRequest, context: object
    ) -> pb.ResumeJobResponse:
        validation.require_valid(request)
        caller = current_principal()
        row = await self._store.resume_job(
            caller.tenant_id, job_id=request.job_id, etag=request.etag, user_id=caller.subject
        )
        return pb.ResumeJobResponse(job=job_details_fields(row))

    async def AdvanceJob(
        self, request: pb.AdvanceJobRequest, context: object
    ) -> pb.AdvanceJobResponse:
        validation.require_valid(request)
        caller = current_principal()
        row = await self._store.advance_job(
            caller.tenant_id,
            job_id=request.job_id,
            stage=optional_or(request, "stage", None),
            etag=request.etag,
            user_id=caller.subject,
        )
        return pb.AdvanceJobResponse(job=job_details_fields(row))

    async def ApproveStage(
        self, request: pb.ApproveStageRequest, context: object
    ) -> pb.ApproveStageResponse:
        validation.require_valid(request)
        caller = current_principal()
        if caller.subject is None:
            raise SubjectRequired
        row = await self._store.approve_stage(
            caller.tenant_id,
            job_id=request.job_id,
            stage=request.stage,
            approved_by=caller.subject,
            comment=request.comment,
            etag=request.etag,
        )
        return pb.ApproveStageResponse(job=job_details_fields(row))

    async def RejectStage(
        self, request: pb.RejectStageRequest, context: object
    ) -> pb.RejectStageResponse:
        validation.require_valid(request)
        caller = current_principal()
        row = await self._store.reject_stage(
            caller.tenant_id,
            job_id=request.job_id,
            stage=request.stage,
            rejected_by=caller.subject,
            comment=request.comment,
            etag=request.etag,
        )
        return pb.RejectStageResponse(job=job_details_fields(row))

    async def ApproveStart(
        self, request: pb.ApproveStartRequest, context: object
    ) -> pb.ApproveStartResponse:
        validation.require_valid(request)
        caller = current_principal()
        if caller.subject is None:
            raise SubjectRequired
        row = await self._store.approve_start(
            caller.tenant_id,
            job_id=request.job_id,
            approved_by=caller.subject,
            comment=request.comment,
            etag=request.etag,
            default_expires_in_hours=DEFAULT_EXPIRES_IN_HOURS,
        )
        return pb.ApproveStartResponse(job=job_details_fields(row))

    async def RejectStart(
        self, request: pb.RejectStartRequest, context: object
    ) -> pb.RejectStartResponse:
        validation.require_valid(request)
        caller = current_principal()
        row = await self._store.reject_start(
            caller.tenant_id,
            job_id=request.job_id,
            rejected_by=caller.subject,
            comment=request.comment,
            etag=request.etag,
        )
        return pb.RejectStartResponse(job=job_details_fields(row))

    async def UpdateJob(
        self, request: pb.UpdateJobRequest, context: object
    ) -> pb.UpdateJobResponse:
        validation.raise_for_violations(check_update(request))
        fields = sorted({*request.update_mask.paths})
        has_new_gate = "rollout.stages" in fields and has_time_gate(request.rollout)
        if has_new_gate and not self._has_background_work:
            raise TimeGatesUnavailable
        caller = current_principal()
        row, before = await self._store.update_job(
            caller.tenant_id,
            job_id=request.job_id,
            etag=request.etag,
            fields=fields,
            in_progress_timeout_minutes=optional_or(request, "in_progress_timeout_minutes", None),
            rollout=json.dumps(rollout_json(changed_rollout(request))),
            failure_criteria=json.dumps(
                failure_criteria_json(
                    request.failure_criteria if "failure_criteria" in fields else ()
                )
            ),
            expires_at=to_pg_micros(request, "expires_at") if "expires_at" in fields else None,
            labels=json.dumps(dict(request.labels) if "labels" in fields else {}),
            description=request.description if "description" in fields else "",
            user_id=caller.subject,
            continuous=request.continuous,
            max_joins_per_hour=optional_or(request, "max_joins_per_hour", None),
            **changed_schedule(request),
        )
        response = pb.UpdateJobResponse(job=job_details_fields(row))
        note_changed_fields(fields, pb.Job(**job_details_fields(before)), response.job)
        return response

    async def GetFailureSummary(
        self, request: pb.GetFailureSummaryRequest, context: object
    ) -> pb.GetFailureSummaryResponse:
        validation.require_valid(request)
        rows = await self._store.get_failure_summary(
            current_principal().tenant_id,
            job_id=request.job_id,
            statuses=_status_names(request.statuses) or None,
            failure_codes=list(request.failure_codes) or None,
        )
        response = pb.GetFailureSummaryResponse()
        for row in rows:
            if row["failure_code"] == OTHER_FAILURES:
                response.other_failure_count += row["executions"]
            else:
                response.failures.add(
                    status=row["status"],
                    failure_code=row["failure_code"],
                    execution_count=row["executions"],
                    device_ids=row["device_ids"],
                )
        return response

    async def GetJobTimeline(
        self, request: pb.GetJobTimelineRequest, context: object
    ) -> pb.GetJobTimelineResponse:
        validation.require_valid(request)
        tenant_id = current_principal().tenant_id

        async def compute() -> pb.GetJobTimelineResponse:
            with self._timeline_limit.admit(tenant_id) as is_admitted:
                if not is_admitted:
                    raise TimelineRunning
                row = await self._store.get_job_timeline(
                    tenant_id, job_id=request.job_id, max_buckets=MAX_BUCKETS, max_marks=MAX_MARKS
                )
            return pb.GetJobTimelineResponse(**timeline_fields(row))

        # The viewers of a job ask at the same time when one of its stages opens.
        return await self._timelines.run((tenant_id, request.job_id), compute)

    async def CancelExecution(
        self, request: pb.CancelExecutionRequest, context: object
    ) -> pb.CancelExecutionResponse:
        validation.require_valid(request)
        caller = current_principal()
        row = await self._store.cancel_execution(
            caller.tenant_id,
            job_id=request.job_id,
            device_id=request.device_id,
            reason=request.reason,
            force=request.force,
            user_id=caller.subject,
        )
        self.finished["REJECTED"] += 1
        return pb.CancelExecutionResponse(execution=execution_fields(row))

    async def RetryExecutions(
        self, request: pb.RetryExecutionsRequest, context: object
    ) -> pb.RetryExecutionsResponse:
        validation.require_valid(request, validation.check_expiry(request))
        caller = current_principal()
        async with self._active_job_counts.call(caller.tenant_id, always=True) as count:
            row = await self._store.retry_executions(
                caller.tenant_id,
                job_id=request.job_id,
                statuses=_status_names(request.statuses),
                expires_in_hours=optional_or(request, "expires_in_hours", None),
                never_expires=request.never_expires,
                max_active_jobs=count.max_active_jobs,
                failure_codes=list(request.failure_codes) or None,
                device_ids=list(request.device_ids) or None,
                user_id=caller.subject,
                etag=request.etag,
            )
        self.finished["TIMED_OUT"] += row["timed_out_count"]
        return pb.RetryExecutionsResponse(
            retried_count=row["retried_count"], expires_at=timestamp_fields(row["expires_at"])
        )

    async def ListExecutionAttempts(
        self, request: pb.ListExecutionAttemptsRequest, context: object
    ) -> pb.ListExecutionAttemptsResponse:
        limit = page_size(request)
        validation.require_valid(request)
        token_created_at, before_number = parse_token(request, parse_micros, parse_int32)
        rows = await self._store.list_execution_attempts(
            current_principal().tenant_id,
            job_id=request.job_id,
            device_id=request.device_id,
            before_number=before_number,
            limit=limit + 1,
        )
        # A token names an attempt before which there is at least one more.
        if rows:
            check_job(token_created_at, rows[0]["job_created_at"])
        response = pb.ListExecutionAttemptsResponse()
        if await fill_page(response.attempts, rows, execution_fields, limit, self._yield_now):
            response.next_page_token = page_token(
                request, rows[0]["job_created_at"], response.attempts[-1].execution_number
            )
        return response

    async def ExplainExecution(
        self, request: pb.ExplainExecutionRequest, context: object
    ) -> pb.ExplainExecutionResponse:
        validation.require_valid(request)
        row = await self._store.explain_execution(
            current_principal().tenant_id, job_id=request.job_id, device_id=request.device_id
        )
        return pb.ExplainExecutionResponse(**explanation_fields(row))

    async def DeleteJob(
        self, request: pb.DeleteJobRequest, context: object
    ) -> pb.DeleteJobResponse:
        validation.require_valid(request)
        caller = current_principal()
        await self._store.delete_job(
            caller.tenant_id, job_id=request.job_id, user_id=caller.subject, etag=request.etag
        )
        return pb.DeleteJobResponse()

    async def WatchJob(  # type: ignore[override]  # gRPC allows context.write
        self,
        request: pb.WatchJobRequest,
        context: ServicerContext[pb.WatchJobRequest, bytes],
    ) -> None:
        validation.require_valid(request)
        job_id = request.job_id
        del request
        await self.watch.run(current_principal().tenant_id, job_id, context.write)

    async def GetCaller(
        self, request: pb.GetCallerRequest, context: object
    ) -> pb.GetCallerResponse:
        caller = current_principal()
        expires_at: MessageFields = None
        if caller.expires_at is not None:
            expires_at = {"seconds": int(caller.expires_at)}
        return pb.GetCallerResponse(
            tenant_id=caller.tenant_id,
            user_id=caller.subject,
            device_id=caller.device_id,
            roles=sorted(caller.roles),
            credential_expires_at=expires_at,
            methods=allowed_methods(caller.roles),
        )


def _failure_code_filter(request: pb.ListJobExecutionsRequest) -> str | None:
    """The failure_code, or None for no filter. Empty: failures without a code."""
    return request.failure_code if request.HasField("failure_code") else None


def _end_cause_filter(request: pb.ListJobExecutionsRequest) -> list[str] | None:
    return sorted(map(pb.JobExecution.EndCause.Name, set(request.end_causes))) or None


def _status_names(statuses: Iterable[pb.JobExecution.Status.ValueType]) -> list[str]:
    return [pb.JobExecution.Status.Name(status) for status in set(statuses)]


def _status_filter(request: pb.ListJobsRequest) -> list[str]:
    statuses = {request.status, *request.statuses} - {pb.Job.STATUS_UNSPECIFIED}
    return sorted(map(pb.Job.Status.Name, statuses))


def _selector_of_jobs(request: pb.ListJobsRequest) -> Selector:
    """Parse the selector. Raises InvalidField, also if it has terms that only devices can match."""
    selector = parse_field("selector", request.selector, of_jobs=True)
    keys = {term.key for term in selector.terms} & {*ID_KEYS}
    validation.raise_for_violations(
        [
            Violation("selector", f"selector has the key {key}, which jobs do not have")
            for key in keys
        ]
    )
    return selector
