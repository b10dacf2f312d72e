"""Calls the SQL functions that serve calls, one method per function."""

import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import asyncpg

from jobs_grpc.db.database import Database, PgMicros, Row
from jobs_grpc.db.execution_columns import REPORTED
from jobs_grpc.db.sqlstates import domain_error

__all__ = ["ExecutionUpdate", "Function", "PgMicros", "Row", "Store"]

R = TypeVar("R")

_Changed: TypeAlias = list[tuple[int, int]]
"""Pairs of an index into the lists of parameters, and the new value."""


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
    cancel_accepted: bool = False
    """The device ends the execution because its job was canceled. Only with REJECTED."""
    must_be_next: bool = False
    """Apply only to the device's next execution. For starts only.

    Stays true when the batcher sets the `job_id` of a busy job, so that the choice is checked
    again.
    """
    with_document: bool = True
    with_details: bool = True
    reported: Mapping[str, Any] = MappingProxyType({})
    """The values of fields in REPORTED that the update sets, by name."""


_Rows: TypeAlias = Sequence[Row]

# The result of a method, from the rows of its function.
_first: Callable[[_Rows], Row] = itemgetter(0)
_pair: Callable[[_Rows], tuple[Row, Row]] = itemgetter(0, 1)
_all: Callable[[_Rows], _Rows] = lambda rows: rows  # noqa: E731
_nothing: Callable[[_Rows], None] = lambda _: None  # noqa: E731


class Function(Generic[R]):
    """A method of Store that calls the SQL function of its name."""

    def __init__(self, result: Callable[[Sequence[Row]], R], *, notifies: bool = False) -> None:
        """`result` converts the rows of the function to the result of the method.

        `notifies`: tell the write listeners, whose watches read what the function writes.
        """
        self._result = result
        self._notifies = notifies

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, store: "Store", owner: type) -> Callable[..., Coroutine[Any, Any, R]]:
        async def call(tenant_id: str, **parameters: Any) -> R:
            args = {"tenant_id": tenant_id, **parameters}
            return self._result(await store.call(self._name, args, notifies=self._notifies))

        return call


class Store:
    """The SQL functions that serve calls. Each method is one round trip and one transaction.

    A method has the name of its SQL function, whose file documents it, and its parameters without
    the prefix p_: the tenant, then the others as keywords. The function declares their types and
    defaults. JSON is passed as a str. Every method can raise what Database.fetch raises, and the
    errors that its SQL function documents.
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

    create_job = Function(_first, notifies=True)  # what the call or the same request created
    preview_target = Function(_first)
    target_names = Function(_first)  # those that an empty target may have meant
    list_jobs = Function(_all)  # pass all filters, also those that are None: one statement
    get_jobs = Function(_all)
    get_job = Function(_first)  # with the first page of its executions, as arrays
    list_job_executions = Function(_first)  # a page, as arrays
    list_device_executions = Function(_all)
    cancel_job = Function(_nothing, notifies=True)
    pause_job = Function(_first, notifies=True)
    resume_job = Function(_first, notifies=True)
    advance_job = Function(_first, notifies=True)
    approve_stage = Function(_first, notifies=True)
    reject_stage = Function(_first, notifies=True)
    approve_start = Function(_first, notifies=True)
    reject_start = Function(_first, notifies=True)
    update_job = Function(_pair, notifies=True)  # the job after the change, and before it
    delete_job = Function(_nothing, notifies=True)
    cancel_execution = Function(_first, notifies=True)
    retry_executions = Function(_first, notifies=True)
    get_failure_summary = Function(_all)
    get_job_timeline = Function(_first)  # its buckets, as arrays
    list_execution_attempts = Function(_all)
    explain_execution = Function(_first)

    get_execution = Function(_first)
    list_pending_executions = Function(_all)
    list_watched_executions = Function(_all)
    acknowledge_executions = Function(_first)  # the jobs that it skipped
    update_facts = Function(_first)  # the devices whose facts were not stored

    list_devices = Function(_all)
    get_device = Function(_all)  # the device, then a row for each execution of its queue
    update_devices = Function(_first, notifies=True)  # the numbers of registered and updated ones
    delete_devices = Function(_first, notifies=True)  # the counts, and whether executions remain
    list_groups = Function(_all)
    list_labels = Function(_first)  # with the groups
    get_fleet_summary = Function(_first)

    # For maintenance, which tells the write listeners itself.
    join_devices = Function(_first)
    read_device_changes = Function(_first)
    delete_device_changes = Function(_nothing)
    next_scan_range = Function(_first)
    finish_scan_range = Function(lambda rows: int(rows[0][0]))  # ended executions

    list_events = Function(_all)  # events, then a row with the position of their end
    list_job_events = Function(_all)
    create_webhook = Function(_first)
    list_webhooks = Function(_all)
    get_webhook = Function(_first)
    update_webhook = Function(_pair)  # the webhook after the change, and before it
    delete_webhook = Function(_nothing)
    rotate_webhook_secret = Function(_first)
    test_webhook = Function(_first)  # the URL and the keys for the delivery of a test event
    verify_webhook = Function(_nothing)

    async def update_executions(
        self, tenant_id: str, updates: Sequence[ExecutionUpdate], *, wait_ms: int
    ) -> Sequence[Row]:
        """Return a row for each update. Raises LockTimeout after `wait_ms`."""
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
        }
        cancels_accepted = [update.cancel_accepted for update in updates]
        args["cancels_accepted"] = cancels_accepted if any(cancels_accepted) else None
        for name in REPORTED:
            values = [update.reported.get(name) for update in updates]
            args[f"{name}s"] = None if values.count(None) == len(updates) else values
        return await self.call("update_executions", args, notifies=True)

    async def remove_stale_devices(
        self, tenant_id: str, after_device_id: str, limit: int = 1000
    ) -> str | None:
        """Return the device_id to continue after; None at the end."""
        args = {"tenant_id": tenant_id, "after_device_id": after_device_id, "limit": limit}
        device_id: str | None = (await self.call("remove_stale_devices", args))[0][0]
        return device_id

    async def changed_job_fingerprints(self, tenant_ids: list[str], **columns: Any) -> _Changed:
        """Return the jobs of `job_ids` that have changed, with new fingerprints."""
        return await self._changed("changed_job_fingerprints", tenant_ids, columns)

    async def changed_pending_fingerprints(self, tenant_ids: list[str], **columns: Any) -> _Changed:
        """Return the devices of `device_ids` that have changed, with new fingerprints."""
        return await self._changed("changed_pending_fingerprints", tenant_ids, columns)

    async def changed_event_heads(self, tenant_ids: list[str], **columns: Any) -> _Changed:
        """Return the tenants with events after `positions`, with new positions."""
        return await self._changed("changed_event_heads", tenant_ids, columns)

    async def unregistered_devices(
        self, tenant_ids: list[str], device_ids: list[str]
    ) -> Sequence[int]:
        """Return the indexes of the devices that are not registered. `tenant_ids` is sorted."""
        columns = {"device_ids": device_ids}
        missing = await self._changed("unregistered_devices", tenant_ids, columns)
        return [index for index, _ in missing]

    async def _changed(
        self, function: str, tenant_ids: list[str], columns: dict[str, Any]
    ) -> _Changed:
        if not self._database.is_distributed:
            statement = _statement(f"{function}_of_tenants", "tenant_ids", *columns)
            rows = await self._database.fetch_for_tenants(statement, tenant_ids, *columns.values())
            return [(position - 1, value) for position, value in rows]
        changed = []
        # Citus stores tenants on several nodes. A poll passes sorted tenant_ids.
        for tenant_id, group in groupby(range(len(tenant_ids)), tenant_ids.__getitem__):
            positions = list(group)
            rows = await self._database.fetch(
                _statement(function, "tenant_id", *columns),
                tenant_id,
                *(column[positions[0] : positions[-1] + 1] for column in columns.values()),
            )
            changed += [(positions[position - 1], value) for position, value in rows]
        return changed

    async def call(
        self, function: str, args: dict[str, Any], *, notifies: bool = False
    ) -> Sequence[Row]:
        """Call jobs.`function`. If it `notifies`, tell the write listeners."""
        try:
            rows = await self._database.fetch(_statement(function, *args), *args.values())
        except asyncpg.PostgresError as e:
            detail, hint = getattr(e, "detail", None), getattr(e, "hint", None)
            error = domain_error(e.sqlstate or "", args, detail or "", hint or "")
            if error is None:
                raise
            raise error from None
        if notifies:
            self.note_write(args["tenant_id"])
        return rows


@functools.cache
def _statement(function: str, *names: str) -> str:
    args = ", ".join(f"p_{name} => ${n}" for n, name in enumerate(names, 1))
    return f"SELECT * FROM jobs.{function}({args})"  # noqa: S608 - names of this module
