"""Calls the SQL functions that serve calls, one method per function."""

import functools
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import asyncpg

from jobs_grpc.db.database import Database, PgMicros, Row
from jobs_grpc.db.sqlstates import domain_error

__all__ = ["ExecutionUpdate", "PgMicros", "Row", "Store"]


class ExecutionUpdate(NamedTuple):
    """A start or a report of a device: one element of the arrays of jobs.update_executions."""

    job_id: str | None
    """None, with `must_be_next`: the job of the device's next execution."""
    device_id: str
    status: str | None
    """None: start the execution."""
    status_details: str | None = None
    """JSON; None: keep the stored details."""
    execution_number: int | None = None
    """None: the current attempt."""
    expected_version: int | None = None
    """None: any."""
    extend_timeout_minutes: int | None = None
    """From now; None: keep the timeout."""
    failure_code: str | None = None
    """Only with FAILED and REJECTED; None: none."""
    must_be_next: bool = False
    """Apply only to the device's next execution. For starts only.

    Stays true when the batcher sets the `job_id` of a busy job, so that the choice is checked
    again.
    """
    with_document: bool = True
    with_details: bool = True


class Store:
    """The SQL functions that serve calls. Each method is one round trip and one transaction.

    Every method can raise what Database.fetch raises, and the errors that its SQL function
    documents.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._write_listeners: list[Callable[[str], None]] = []

    def on_write(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the tenant after each call that may have written rows of it."""
        self._write_listeners.append(listener)

    def note_write(self, tenant_id: str) -> None:
        """Tell the listeners that this process has written rows of a tenant."""
        for listener in self._write_listeners:
            listener(tenant_id)

    async def create_job(
        self,
        tenant_id: str,
        *,
        job_id: str,
        document_type: str,
        document_params: str,
        target_device_id: str | None,
        target_group_id: str | None,
        target_all: bool,
        expires_in_hours: int | None,
        in_progress_timeout_minutes: int | None,
        created_by: str | None,
        max_targets: int,
        max_active_jobs: int | None,
        rollout: str | None = None,
        failure_criteria: str | None = None,
        validate_only: bool = False,
        default_expiry: bool = False,
    ) -> Row:
        """See create_job.sql; `document_params`, `rollout` and `failure_criteria` are JSON."""
        rows = await self._write(
            "create_job",
            tenant_id,
            job_id=job_id,
            document_type=document_type,
            document_params=document_params,
            target_device_id=target_device_id,
            target_group_id=target_group_id,
            target_all=target_all,
            expires_in_hours=expires_in_hours,
            in_progress_timeout_minutes=in_progress_timeout_minutes,
            created_by=created_by,
            max_targets=max_targets,
            max_active_jobs=max_active_jobs,
            rollout=rollout,
            failure_criteria=failure_criteria,
            validate_only=validate_only,
            default_expiry=default_expiry,
        )
        return rows[0]

    async def list_jobs(
        self,
        tenant_id: str,
        *,
        statuses: list[str] | None,
        document_type: str | None,
        created_by: str | None,
        target_device_id: str | None,
        target_group_id: str | None,
        target_all: bool | None,
        created_from: PgMicros | None,
        created_until: PgMicros | None,
        awaiting_approval: bool | None = None,
        before_created_at: PgMicros | None,
        before_job_id: str | None,
        limit: int,
        offset: int,
    ) -> Sequence[Row]:
        """See list_jobs.sql."""
        return await self._call(
            "list_jobs",
            tenant_id,
            statuses=statuses,
            before_created_at=before_created_at,
            before_job_id=before_job_id,
            limit=limit,
            offset=offset,
            document_type=document_type,
            created_by=created_by,
            target_device_id=target_device_id,
            target_group_id=target_group_id,
            target_all=target_all,
            created_from=created_from,
            created_until=created_until,
            awaiting_approval=awaiting_approval,
        )

    async def get_job(self, tenant_id: str, *, job_id: str, executions_limit: int) -> Row:
        """See get_job.sql."""
        rows = await self._call(
            "get_job", tenant_id, job_id=job_id, executions_limit=executions_limit
        )
        return rows[0]

    async def list_job_executions(
        self,
        tenant_id: str,
        *,
        job_id: str,
        status: str | None,
        failure_code: str | None = None,
        after_device_id: str,
        limit: int,
    ) -> Row:
        """See list_job_executions.sql."""
        rows = await self._call(
            "list_job_executions",
            tenant_id,
            job_id=job_id,
            status=status,
            after_device_id=after_device_id,
            limit=limit,
            failure_code=failure_code,
        )
        return rows[0]

    async def list_device_executions(
        self,
        tenant_id: str,
        *,
        device_id: str,
        job_id: str | None,
        status: str | None,
        failure_code: str | None = None,
        before_queued_at: PgMicros | None,
        before_job_id: str | None,
        limit: int,
    ) -> Sequence[Row]:
        """See list_device_executions.sql."""
        return await self._call(
            "list_device_executions",
            tenant_id,
            device_id=device_id,
            job_id=job_id,
            status=status,
            before_queued_at=before_queued_at,
            before_job_id=before_job_id,
            limit=limit,
            failure_code=failure_code,
            check_device=True,
        )

    async def cancel_job(self, tenant_id: str, *, job_id: str, reason: str, force: bool) -> None:
        """See cancel_job.sql."""
        await self._write("cancel_job", tenant_id, job_id=job_id, reason=reason, force=force)

    async def pause_job(
        self, tenant_id: str, *, job_id: str, reason: str, paused_by: str | None, etag: str
    ) -> Row:
        """See pause_job.sql."""
        rows = await self._write(
            "pause_job", tenant_id, job_id=job_id, reason=reason, paused_by=paused_by, etag=etag
        )
        return rows[0]

    async def resume_job(self, tenant_id: str, *, job_id: str, etag: str) -> Row:
        """See resume_job.sql."""
        rows = await self._write("resume_job", tenant_id, job_id=job_id, etag=etag)
        return rows[0]

    async def advance_job(
        self, tenant_id: str, *, job_id: str, stage: int | None, etag: str
    ) -> Row:
        """See advance_job.sql."""
        rows = await self._write("advance_job", tenant_id, job_id=job_id, stage=stage, etag=etag)
        return rows[0]

    async def approve_stage(
        self, tenant_id: str, *, job_id: str, stage: int, approved_by: str, comment: str
    ) -> Row:
        """See approve_stage.sql."""
        rows = await self._write(
            "approve_stage",
            tenant_id,
            job_id=job_id,
            stage=stage,
            approved_by=approved_by,
            comment=comment,
        )
        return rows[0]

    async def update_job(
        self,
        tenant_id: str,
        *,
        job_id: str,
        etag: str,
        fields: list[str],
        in_progress_timeout_minutes: int | None,
        rollout: str,
        failure_criteria: str,
        expires_at: PgMicros | None = None,
    ) -> Row:
        """See update_job.sql; `rollout` and `failure_criteria` are JSON."""
        rows = await self._write(
            "update_job",
            tenant_id,
            job_id=job_id,
            etag=etag,
            fields=fields,
            in_progress_timeout_minutes=in_progress_timeout_minutes,
            rollout=rollout,
            failure_criteria=failure_criteria,
            expires_at=expires_at,
        )
        return rows[0]

    async def cancel_execution(
        self, tenant_id: str, *, job_id: str, device_id: str, reason: str, force: bool
    ) -> Row:
        """See cancel_execution.sql."""
        rows = await self._write(
            "cancel_execution",
            tenant_id,
            job_id=job_id,
            device_id=device_id,
            reason=reason,
            force=force,
        )
        return rows[0]

    async def retry_executions(
        self,
        tenant_id: str,
        *,
        job_id: str,
        statuses: Sequence[str],
        expires_in_hours: int | None,
        never_expires: bool,
        max_active_jobs: int | None,
        failure_codes: list[str] | None = None,
        device_ids: list[str] | None = None,
    ) -> Row:
        """See retry_executions.sql."""
        rows = await self._write(
            "retry_executions",
            tenant_id,
            job_id=job_id,
            statuses=statuses,
            expires_in_hours=expires_in_hours,
            never_expires=never_expires,
            max_active_jobs=max_active_jobs,
            failure_codes=failure_codes,
            device_ids=device_ids,
        )
        return rows[0]

    async def get_failure_summary(
        self,
        tenant_id: str,
        *,
        job_id: str,
        statuses: list[str] | None,
        failure_codes: list[str] | None,
    ) -> Sequence[Row]:
        """See get_failure_summary.sql."""
        return await self._call(
            "get_failure_summary",
            tenant_id,
            job_id=job_id,
            statuses=statuses,
            failure_codes=failure_codes,
        )

    async def list_execution_attempts(
        self,
        tenant_id: str,
        *,
        job_id: str,
        device_id: str,
        before_number: int | None,
        limit: int,
    ) -> Sequence[Row]:
        """See list_execution_attempts.sql."""
        return await self._call(
            "list_execution_attempts",
            tenant_id,
            job_id=job_id,
            device_id=device_id,
            before_number=before_number,
            limit=limit,
        )

    async def delete_job(self, tenant_id: str, *, job_id: str) -> None:
        """See delete_job.sql."""
        await self._write("delete_job", tenant_id, job_id=job_id)

    async def get_jobs(self, tenant_id: str, *, job_ids: list[str]) -> Sequence[Row]:
        """See get_jobs.sql."""
        return await self._call("get_jobs", tenant_id, job_ids=job_ids)

    async def changed_job_fingerprints(
        self, tenant_ids: list[str], *, job_ids: list[str], fingerprints: list[int | None]
    ) -> list[tuple[int, int]]:
        """See changed_job_fingerprints.sql; positions start at 0. Each job has a tenant."""
        return await self._changed_fingerprints(
            "changed_job_fingerprints", tenant_ids, job_ids, fingerprints
        )

    async def changed_pending_fingerprints(
        self,
        tenant_ids: list[str],
        *,
        device_ids: list[str],
        limits: list[int],
        fingerprints: list[int | None],
    ) -> list[tuple[int, int]]:
        """See changed_pending_fingerprints.sql; positions start at 0. Each device has a tenant."""
        return await self._changed_fingerprints(
            "changed_pending_fingerprints", tenant_ids, device_ids, limits, fingerprints
        )

    async def list_watched_executions(
        self, tenant_id: str, *, device_ids: list[str], limits: list[int], max_bytes: int
    ) -> Sequence[Row]:
        """See list_watched_executions.sql."""
        return await self._call(
            "list_watched_executions",
            tenant_id,
            device_ids=device_ids,
            limits=limits,
            max_bytes=max_bytes,
        )

    async def get_execution(self, tenant_id: str, *, device_id: str, job_id: str) -> Row:
        """See get_execution.sql."""
        rows = await self._call("get_execution", tenant_id, device_id=device_id, job_id=job_id)
        return rows[0]

    async def list_pending_executions(
        self,
        tenant_id: str,
        *,
        device_id: str,
        after_status: str | None = None,
        after_queued_at: PgMicros | None = None,
        after_job_id: str | None = None,
        limit: int,
    ) -> Sequence[Row]:
        """See list_pending_executions.sql."""
        return await self._call(
            "list_pending_executions",
            tenant_id,
            device_id=device_id,
            after_status=after_status,
            after_queued_at=after_queued_at,
            after_job_id=after_job_id,
            limit=limit,
        )

    async def update_executions(
        self, tenant_id: str, updates: Sequence[ExecutionUpdate], *, wait_ms: int
    ) -> Sequence[Row]:
        """See update_executions.sql: one row per update. Raises LockTimeout after `wait_ms`."""
        return await self._write(
            "update_executions",
            tenant_id,
            wait_ms=wait_ms,
            job_ids=[update.job_id for update in updates],
            must_be_next=[update.must_be_next for update in updates],
            device_ids=[update.device_id for update in updates],
            statuses=[update.status for update in updates],
            status_details=[update.status_details for update in updates],
            execution_numbers=[update.execution_number for update in updates],
            expected_versions=[update.expected_version for update in updates],
            extend_timeout_minutes=[update.extend_timeout_minutes for update in updates],
            with_documents=[update.with_document for update in updates],
            failure_codes=[update.failure_code for update in updates],
            with_details=[update.with_details for update in updates],
        )

    async def _changed_fingerprints(
        self, function: str, tenant_ids: list[str], *columns: list[Any]
    ) -> list[tuple[int, int]]:
        if not self._database.is_distributed:
            statement = _statement(f"{function}_of_tenants", 1 + len(columns))
            rows = await self._database.fetch_for_tenants(statement, tenant_ids, *columns)
            return [(position - 1, fingerprint) for position, fingerprint in rows]
        changed = []
        # Citus stores tenants on several nodes. A poll passes sorted tenant_ids.
        for tenant_id, group in groupby(range(len(tenant_ids)), tenant_ids.__getitem__):
            positions = list(group)
            rows = await self._database.fetch(
                _statement(function, 1 + len(columns)),
                tenant_id,
                *(column[positions[0] : positions[-1] + 1] for column in columns),
            )
            changed += [(positions[position - 1], fingerprint) for position, fingerprint in rows]
        return changed

    async def _write(self, function: str, tenant_id: str, **args: object) -> Sequence[Row]:
        """Call a function that may write rows of the tenant; as _call."""
        rows = await self._call(function, tenant_id, **args)
        self.note_write(tenant_id)
        return rows

    async def _call(self, function: str, tenant_id: str, **args: object) -> Sequence[Row]:
        """Call jobs.`function` with `tenant_id` and then `args`, in the order of its parameters."""
        try:
            return await self._database.fetch(
                _statement(function, 1 + len(args)), tenant_id, *args.values()
            )
        except asyncpg.PostgresError as e:
            error = domain_error(
                e.sqlstate or "",
                {"tenant_id": tenant_id, **args},
                getattr(e, "detail", None) or "",
                getattr(e, "hint", None) or "",
            )
            if error is None:
                raise
            raise error from None


@functools.cache
def _statement(function: str, parameters: int) -> str:
    placeholders = ", ".join(f"${n}" for n in range(1, parameters + 1))
    return f"SELECT * FROM jobs.{function}({placeholders})"  # noqa: S608 - names of this module
