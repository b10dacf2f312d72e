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
    reported_by: str | None = None
    """The subject that acts for the device, "" if it is unknown; None: the device itself."""


class Store:
    """The SQL functions that serve calls. Each method is one round trip and one transaction.

    A method has the name of its SQL function, whose file documents it, and its parameters without
    the prefix p_, tenant first. Many parameters are only passed on, as `parameters`: the function
    declares their types and defaults. JSON is passed as a str.
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

    async def create_job(self, tenant_id: str, **parameters: Any) -> Row:
        """Return the job that the call, or the same request before, has created."""
        return (await self._write("create_job", locals()))[0]

    async def preview_target(self, tenant_id: str, **parameters: Any) -> Row:
        """Return what a target and a rollout select now."""
        return (await self._read("preview_target", locals()))[0]

    async def target_names(
        self, tenant_id: str, *, label_keys: list[str], labels: list[str], group_ids: list[str]
    ) -> Row:
        """Return the label keys, labels and groups that an empty target may have meant."""
        return (await self._read("target_names", locals()))[0]

    async def list_jobs(self, tenant_id: str, **parameters: Any) -> Sequence[Row]:
        """Return a page of jobs. Pass all filters, also those that are None: one statement."""
        return await self._read("list_jobs", locals())

    async def get_job(self, tenant_id: str, *, job_id: str, executions_limit: int) -> Row:
        return (await self._read("get_job", locals()))[0]

    async def list_job_executions(self, tenant_id: str, **parameters: Any) -> Row:
        return (await self._read("list_job_executions", locals()))[0]

    async def list_device_executions(self, tenant_id: str, **parameters: Any) -> Sequence[Row]:
        return await self._read("list_device_executions", locals())

    async def list_devices(
        self, tenant_id: str, *, terms: str, prefix: str, after: str, limit: int
    ) -> Sequence[Row]:
        """Return a page of devices."""
        return await self._read("list_devices", locals())

    async def cancel_job(self, tenant_id: str, **parameters: Any) -> None:
        await self._write("cancel_job", locals())

    async def pause_job(
        self, tenant_id: str, *, job_id: str, reason: str, paused_by: str | None, etag: str
    ) -> Row:
        return (await self._write("pause_job", locals()))[0]

    async def resume_job(
        self, tenant_id: str, *, job_id: str, etag: str, user_id: str | None = None
    ) -> Row:
        return (await self._write("resume_job", locals()))[0]

    async def advance_job(self, tenant_id: str, **parameters: Any) -> Row:
        return (await self._write("advance_job", locals()))[0]

    async def approve_stage(self, tenant_id: str, **parameters: Any) -> Row:
        return (await self._write("approve_stage", locals()))[0]

    async def update_job(self, tenant_id: str, **parameters: Any) -> tuple[Row, Row]:
        """Return the job after the change, and before it."""
        row, before = await self._write("update_job", locals())
        return row, before

    async def cancel_execution(self, tenant_id: str, **parameters: Any) -> Row:
        return (await self._write("cancel_execution", locals()))[0]

    async def retry_executions(self, tenant_id: str, **parameters: Any) -> Row:
        return (await self._write("retry_executions", locals()))[0]

    async def get_failure_summary(self, tenant_id: str, **parameters: Any) -> Sequence[Row]:
        return await self._read("get_failure_summary", locals())

    async def list_execution_attempts(self, tenant_id: str, **parameters: Any) -> Sequence[Row]:
        return await self._read("list_execution_attempts", locals())

    async def explain_execution(self, tenant_id: str, *, job_id: str, device_id: str) -> Row:
        return (await self._read("explain_execution", locals()))[0]

    async def delete_job(
        self, tenant_id: str, *, job_id: str, user_id: str | None = None, etag: str = ""
    ) -> None:
        await self._write("delete_job", locals())

    async def get_jobs(self, tenant_id: str, *, job_ids: list[str]) -> Sequence[Row]:
        return await self._read("get_jobs", locals())

    async def changed_job_fingerprints(
        self, tenant_ids: list[str], *, job_ids: list[str], fingerprints: list[int | None]
    ) -> list[tuple[int, int]]:
        """Return the positions, from 0, of the jobs that have changed, with new fingerprints."""
        return await self._changed_fingerprints("changed_job_fingerprints", locals())

    async def changed_pending_fingerprints(
        self,
        tenant_ids: list[str],
        *,
        device_ids: list[str],
        limits: list[int],
        fingerprints: list[int | None],
    ) -> list[tuple[int, int]]:
        """Return the positions, from 0, of the changed devices, with new fingerprints."""
        return await self._changed_fingerprints("changed_pending_fingerprints", locals())

    async def list_watched_executions(
        self, tenant_id: str, *, device_ids: list[str], limits: list[int], max_bytes: int
    ) -> Sequence[Row]:
        return await self._read("list_watched_executions", locals())

    async def get_execution(self, tenant_id: str, *, device_id: str, job_id: str) -> Row:
        return (await self._read("get_execution", locals()))[0]

    async def list_pending_executions(self, tenant_id: str, **parameters: Any) -> Sequence[Row]:
        return await self._read("list_pending_executions", locals())

    async def update_executions(
        self, tenant_id: str, updates: Sequence[ExecutionUpdate], *, wait_ms: int
    ) -> Sequence[Row]:
        """Return a row for each update. Raises LockTimeout after `wait_ms`."""
        reported_bys = [update.reported_by for update in updates]
        args = {
            "tenant_id": tenant_id,
            "wait_ms": wait_ms,
            "job_ids": [update.job_id for update in updates],
            "must_be_next": [update.must_be_next for update in updates],
            "device_ids": [update.device_id for update in updates],
            "statuses": [update.status for update in updates],
            "status_details": [update.status_details for update in updates],
            "execution_numbers": [update.execution_number for update in updates],
            "expected_versions": [update.expected_version for update in updates],
            "extend_timeout_minutes": [update.extend_timeout_minutes for update in updates],
            "with_documents": [update.with_document for update in updates],
            "failure_codes": [update.failure_code for update in updates],
            "with_details": [update.with_details for update in updates],
            "reported_bys": None if reported_bys.count(None) == len(updates) else reported_bys,
        }
        return await self._write("update_executions", args)

    async def get_device(self, tenant_id: str, *, device_id: str, limit: int) -> Sequence[Row]:
        """Return a row with the device, then a row for each execution of its queue."""
        return await self._read("get_device", locals())

    async def update_devices(self, tenant_id: str, **parameters: Any) -> Row:
        """Return how many devices were registered and updated."""
        return (await self._write("update_devices", locals()))[0]

    async def delete_devices(self, tenant_id: str, **parameters: Any) -> Row:
        """Return the counts, and whether executions remain. Raises LockTimeout after `wait_ms`."""
        return (await self._write("delete_devices", locals()))[0]

    async def list_groups(
        self, tenant_id: str, *, prefix: str, after: str, limit: int, max_counted: int
    ) -> Sequence[Row]:
        """Return a page of groups."""
        return await self._read("list_groups", locals())

    async def remove_stale_devices(
        self, tenant_id: str, after_device_id: str, limit: int = 1000
    ) -> str | None:
        """Return the device_id to continue after; None at the end."""
        device_id: str | None = (await self._read("remove_stale_devices", locals()))[0][0]
        return device_id

    async def list_events(self, tenant_id: str, **parameters: Any) -> Sequence[Row]:
        """Return a page of events, then a row with the position of its end."""
        return await self._read("list_events", locals())

    async def list_job_events(self, tenant_id: str, **parameters: Any) -> Sequence[Row]:
        """Return a page of the history of a job."""
        return await self._read("list_job_events", locals())

    async def changed_event_heads(
        self, tenant_ids: list[str], *, positions: list[int | None]
    ) -> list[tuple[int, int]]:
        """Return the indexes, from 0, of the tenants with new events, with the new positions."""
        return await self._changed_fingerprints("changed_event_heads", locals())

    async def create_webhook(self, tenant_id: str, **parameters: Any) -> Row:
        return (await self._read("create_webhook", locals()))[0]

    async def list_webhooks(self, tenant_id: str) -> Sequence[Row]:
        return await self._read("list_webhooks", locals())

    async def get_webhook(self, tenant_id: str, *, webhook_id: str) -> Row:
        return (await self._read("get_webhook", locals()))[0]

    async def update_webhook(self, tenant_id: str, **parameters: Any) -> tuple[Row, Row]:
        """Return the webhook after the change, and before it."""
        row, before = await self._read("update_webhook", locals())
        return row, before

    async def delete_webhook(self, tenant_id: str, *, webhook_id: str) -> None:
        await self._read("delete_webhook", locals())

    async def rotate_webhook_secret(self, tenant_id: str, *, webhook_id: str, key_id: str) -> Row:
        return (await self._read("rotate_webhook_secret", locals()))[0]

    async def test_webhook(self, tenant_id: str, *, webhook_id: str) -> Row:
        """Return the URL and the keys for the delivery of a test event."""
        return (await self._read("test_webhook", locals()))[0]

    async def verify_webhook(self, tenant_id: str, *, webhook_id: str, url: str) -> None:
        """Store that the URL has answered a signed event."""
        await self._read("verify_webhook", locals())

    async def _changed_fingerprints(
        self, function: str, parameters: dict[str, Any]
    ) -> list[tuple[int, int]]:
        columns = _arguments(parameters)
        if not self._database.is_distributed:
            statement = _statement(f"{function}_of_tenants", *columns)
            rows = await self._database.fetch_for_tenants(statement, *columns.values())
            return [(position - 1, fingerprint) for position, fingerprint in rows]
        changed = []
        # Citus stores tenants on several nodes. A poll passes sorted tenant_ids.
        tenant_ids = columns.pop("tenant_ids")
        for tenant_id, group in groupby(range(len(tenant_ids)), tenant_ids.__getitem__):
            positions = list(group)
            rows = await self._database.fetch(
                _statement(function, "tenant_id", *columns),
                tenant_id,
                *(column[positions[0] : positions[-1] + 1] for column in columns.values()),
            )
            changed += [(positions[position - 1], fingerprint) for position, fingerprint in rows]
        return changed

    async def _write(self, function: str, parameters: dict[str, Any]) -> Sequence[Row]:
        """Like _read, for a function that may write rows of the tenant."""
        rows = await self._read(function, parameters)
        self.note_write(parameters["tenant_id"])
        return rows

    async def _read(self, function: str, parameters: dict[str, Any]) -> Sequence[Row]:
        """Call jobs.`function` with the parameters of a method, which are its locals()."""
        args = _arguments(parameters)
        try:
            return await self._database.fetch(_statement(function, *args), *args.values())
        except asyncpg.PostgresError as e:
            error = domain_error(
                e.sqlstate or "",
                args,
                getattr(e, "detail", None) or "",
                getattr(e, "hint", None) or "",
            )
            if error is None:
                raise
            raise error from None


def _arguments(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a method from its locals()."""
    parameters.pop("self", None)
    others = parameters.pop("parameters", {})
    return {**parameters, **others}


@functools.cache
def _statement(function: str, *names: str) -> str:
    args = ", ".join(f"p_{name} => ${n}" for n, name in enumerate(names, 1))
    return f"SELECT * FROM jobs.{function}({args})"  # noqa: S608 - names of this module
