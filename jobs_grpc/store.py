"""One method a SQL function; SQLSTATEs of those functions become domain errors."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from jobs_grpc import errors
from jobs_grpc.database import Database, Row

__all__ = ["Row", "Store"]

# Each RAISE of sql/functions has its own code. A domain error is made of the call's
# arguments and the DETAIL of the RAISE.
_DOMAIN_ERRORS: Mapping[str, Callable[[Mapping[str, Any], str], errors.JobsError]] = {
    "JB001": lambda args, _: errors.DeviceNotFound(args["target_device_id"]),
    "JB002": lambda args, _: errors.GroupEmpty(args["target_group_id"]),
    "JB003": lambda _args, _: errors.TenantEmpty(),
    "JB004": lambda args, _: errors.JobIdTaken(args["job_id"]),
    "JB005": lambda args, _: errors.JobNotFound(args["job_id"]),
    "JB006": lambda args, detail: errors.JobNotCancelable(args["job_id"], detail),
}


class Store:
    """The database as the services see it. Each call is one round trip, and atomic.

    Besides what its SQL function raises, every method can raise DatabaseUnavailable and
    Overloaded.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

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
        created_by: str | None,
    ) -> Row:
        """See create_job.sql; `document_params` is JSON."""
        rows = await self._call(
            "create_job",
            tenant_id,
            job_id=job_id,
            document_type=document_type,
            document_params=document_params,
            target_device_id=target_device_id,
            target_group_id=target_group_id,
            target_all=target_all,
            expires_in_hours=expires_in_hours,
            created_by=created_by,
        )
        return rows[0]

    async def list_jobs(
        self,
        tenant_id: str,
        *,
        status: str | None,
        before_created_at: datetime | None,
        before_job_id: str | None,
        limit: int,
        offset: int,
    ) -> Sequence[Row]:
        """See list_jobs.sql."""
        return await self._call(
            "list_jobs",
            tenant_id,
            status=status,
            before_created_at=before_created_at,
            before_job_id=before_job_id,
            limit=limit,
            offset=offset,
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
        )
        return rows[0]

    async def cancel_job(self, tenant_id: str, *, job_id: str, reason: str) -> None:
        """See cancel_job.sql."""
        await self._call("cancel_job", tenant_id, job_id=job_id, reason=reason)

    async def _call(self, function: str, tenant_id: str, **args: object) -> Sequence[Row]:
        """Call jobs.`function`, whose parameters are p_tenant_id and then `args`, in order."""
        placeholders = ", ".join(f"${n}" for n in range(1, len(args) + 2))
        try:
            return await self._database.fetch(
                f"SELECT * FROM jobs.{function}({placeholders})",  # noqa: S608 - our own names
                tenant_id,
                *args.values(),
            )
        except asyncpg.PostgresError as e:
            if (domain_error := _DOMAIN_ERRORS.get(e.sqlstate or "")) is None:
                raise
            raise domain_error(args, getattr(e, "detail", None) or "") from None
