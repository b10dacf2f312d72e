"""A call of each function, with the maximum number of rows that it may read.

The calls read the data of tests/support/shapes.py. test_rows_read.py counts the rows, and
test_search_path.py compares the results of two sessions.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import asyncpg

from jobs_grpc.db.last_seen import INSERT_LAST_SEEN, UPDATE_LAST_SEEN
from jobs_grpc.db.store import ExecutionUpdate
from jobs_grpc.services.selectors import parse
from tests.support.database import store_on
from tests.support.shapes import Probe

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

Call = Callable[[asyncpg.Connection, Probe], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """A call of a function, and the maximum number of rows that it may read."""

    function: str
    rows: int
    call: Call
    prepare: Call | None = None
    """Changes rows before the call."""
    reads_skipped: bool = False
    """It also reads the executions of canceled jobs at the front of the device's queue."""
    as_owner: bool = False


def _list_jobs(**values: Any) -> Call:
    filters: dict[str, Any] = dict.fromkeys(
        (
            *("statuses", "document_type", "created_by", "target_device_id", "target_group_id"),
            *("target_all", "created_from", "created_until", "before_created_at", "before_job_id"),
        )
    )
    return lambda c, p: store_on(c).list_jobs(p.tenant, **(filters | values), limit=11, offset=0)


def _selector(**values: list[str]) -> str:
    return json.dumps([{"key": key, "op": "in", "values": values[key]} for key in values])


# The events also say which of the executions the retry policy queues again.
_EXECUTION_EVENTS = """
    UPDATE jobs.jobs
    SET execution_events = true,
        retry_policy = '[{"statuses": ["FAILED"], "failure_codes": [], "max_attempts": 2,'
            ' "initial_backoff_seconds": 60, "backoff_multiplier": 1, "max_backoff_seconds": 60}]'
    WHERE tenant_id = $1 AND job_id = 'j2'
"""


async def _add_execution_events(c: asyncpg.Connection, p: Probe) -> None:
    set_tenant = "SELECT set_config('app.tenant_id', $1, true)"
    await _execute(c, (set_tenant, p.tenant), (_EXECUTION_EVENTS, p.tenant))


# Filters of ListJobs. The data has many jobs with the common values, and 15 with the rare ones.
_LIST_FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "common status": {"statuses": ["IN_PROGRESS"]},
    "rare status": {"statuses": ["COMPLETED"]},
    "common document type": {"document_type": "reboot"},
    "rare document type": {"document_type": "rare"},
    "common creator": {"created_by": "olivia"},
    "rare creator": {"created_by": "oscar"},
    "device": {"target_device_id": "other"},
    "group": {"target_group_id": "pumps"},
    "all devices": {"target_all": True},
    "time": {"created_from": LONG_AGO, "created_until": datetime.now(UTC)},
    "rare document type and status": {"document_type": "rare", "statuses": ["COMPLETED"]},
    "common label": {"selector": _selector(env=["prod"])},
    "rare label": {"selector": _selector(wave=["rare"])},
    "labels of several values": {"selector": _selector(wave=["rare", "none"])},
    "rare label and status": {"selector": _selector(wave=["rare"]), "statuses": ["COMPLETED"]},
    "label and time": {"selector": _selector(env=["prod"]), "created_from": LONG_AGO},
    "prefix": {"job_id_prefix": "overdue"},
    "device and status": {"target_device_id": "other", "statuses": ["COMPLETED"]},
}


def _list_job_executions(
    c: asyncpg.Connection, p: Probe, status: str | None = None, **values: Any
) -> Awaitable[object]:
    return store_on(c).list_job_executions(
        p.tenant, job_id="j1", status=status, **values, after_device_id="", limit=11
    )


def _list_device_executions(c: asyncpg.Connection, p: Probe, **values: Any) -> Awaitable[object]:
    filters = {"job_id": None, "status": None, "before_queued_at": None, "before_job_id": None}
    return store_on(c).list_device_executions(
        p.tenant, device_id=p.device, **(filters | values), limit=11
    )


def _list_pending_after(c: asyncpg.Connection, p: Probe) -> Awaitable[object]:
    return store_on(c).list_pending_executions(
        p.tenant,
        device_id=p.device,
        after_status="QUEUED",
        after_queue_order=0,
        after_queued_at=cast("Any", LONG_AGO),
        after_job_id="j1",
        limit=11,
    )


def _update(c: asyncpg.Connection, p: Probe, *updates: ExecutionUpdate) -> Awaitable[object]:
    return store_on(c).update_executions(p.tenant, updates, wait_ms=1000)


def _start_next(c: asyncpg.Connection, p: Probe, *devices: str) -> Awaitable[object]:
    return _update(
        c, p, *(ExecutionUpdate(None, device, None, must_be_next=True) for device in devices)
    )


def _batch(p: Probe) -> list[str]:
    return [f"d{n}" for n in range(1, p.devices + 1)]


def _failures(p: Probe) -> list[ExecutionUpdate]:
    return [
        ExecutionUpdate("j2", device, "FAILED", failure_code=f"code-{device}")
        for device in _batch(p)
    ]


def _create_job(c: asyncpg.Connection, p: Probe) -> Awaitable[object]:
    return store_on(c).create_job(
        p.tenant,
        job_id="new",
        request=json.dumps(
            {"document_type": "reboot", "target_device_id": p.device, "expires_in_hours": 1}
        ),
        document_params="{}",
        created_by=None,
        max_targets=10,
        max_active_jobs=None,
        default_expires_in_hours=24,
    )


def _preview(selector: str = "", *device_ids: str) -> Call:
    """Preview a selector with its terms, or a list of devices."""
    request: dict[str, Any] = {"target_selector": "s"} if selector else {"target_device_ids": {}}
    stages = [{"group_id": "pumps"}, {"selector": "stage"}, {}]
    terms = {
        "s": [{"key": selector, "op": "in", "values": ["d1"]}, {"key": "k", "op": "not_exists"}],
        "stage": [{"key": "group", "op": "not_in", "values": ["pumps"]}],
    }
    return lambda c, p: store_on(c).preview_target(
        p.tenant,
        request=json.dumps(request | {"rollout": {"stages": stages}}),
        selector_terms=json.dumps(terms),
        target_device_ids=list(device_ids) or None,
        max_targets=100,
    )


def _retry(c: asyncpg.Connection, p: Probe, status: str) -> Awaitable[object]:
    return store_on(c).retry_executions(
        p.tenant,
        job_id="j1",
        statuses=[status],
        expires_in_hours=None,
        never_expires=False,
        max_active_jobs=None,
    )


def _pause(c: asyncpg.Connection, p: Probe) -> Awaitable[object]:
    return store_on(c).pause_job(p.tenant, job_id="j1", reason="r", paused_by=None, etag="")


# Two empty stages of the job j1. The first is due and has waited for an approval.
_STAGES = """
    INSERT INTO jobs.job_stages
        (tenant_id, job_id, stage, display_name, first_rank, last_rank, require_approval, queued)
    SELECT $1, 'j1', n, '', 1, 0, n = 0, 0 FROM generate_series(0, 1) n
"""
_ROLLOUT = """
    UPDATE jobs.jobs
    SET open_stage = 0, release_end = 0, release_base = 0, release_since = now(),
        stage_due_at = now()
    WHERE tenant_id = $1 AND job_id = 'j1'
"""


async def _add_stages(c: asyncpg.Connection, p: Probe) -> None:
    await _execute(c, (_STAGES, p.tenant), (_ROLLOUT, p.tenant))


async def _execute(c: asyncpg.Connection, *statements: tuple[Any, ...]) -> None:
    await c.fetch("SELECT set_config('enable_seqscan', 'off', true)")
    for statement in statements:
        await c.fetch(*statement)
    await c.fetch("SELECT set_config('enable_seqscan', 'on', true)")


# The second stage of j1 has three executions. The first is released, and the second is canceled.
_HELD = """
    UPDATE jobs.job_executions SET stage = 1, rank = $3, started_at = NULL
    WHERE tenant_id = $1 AND job_id = 'j1' AND device_id = $2
"""
_HELD_STAGE = """
    UPDATE jobs.job_stages SET last_rank = 3, queued = 1, failed = 1, rejected = 1
    WHERE tenant_id = $1 AND job_id = 'j1' AND stage = 1
"""
_HELD_JOB = """
    UPDATE jobs.jobs SET open_stage = 1, release_end = 1, awaiting_approval = true
    WHERE tenant_id = $1 AND job_id = 'j1'
"""


async def _hold(c: asyncpg.Connection, p: Probe) -> None:
    await _add_stages(c, p)
    held = [(_HELD, p.tenant, d, n) for n, d in enumerate(("FAILED1", "REJECTED1", "d1"), start=1)]
    await _execute(c, *held, (_HELD_STAGE, p.tenant), (_HELD_JOB, p.tenant))


# Three jobs that have not started, and j1, which has.
_START = """
    UPDATE jobs.jobs SET start_at = created_at WHERE tenant_id = $1 AND job_id = 'j1'
"""
_SCHEDULED = """
    INSERT INTO jobs.jobs (tenant_id, job_id, document_type, document_params, target_device_id,
        target_all, created_at, updated_at, start_at, release_since)
    SELECT $1, 'scheduled' || n, 'reboot', '{}', $2, false, now(), now(), start_at, start_at
    FROM generate_series(1, 3) n, (SELECT now() + interval '1 day') s (start_at)
"""
_SCHEDULED_EXECUTIONS = """
    INSERT INTO jobs.job_executions (tenant_id, job_id, device_id, queued_at, last_updated_at)
    SELECT $1, 'scheduled' || n, $2, now() - interval '1 year', now() FROM generate_series(1, 3) n
"""
_SCHEDULED_PROGRESS = """
    INSERT INTO jobs.job_progress (tenant_id, job_id, queued)
    SELECT $1, 'scheduled' || n, 1 FROM generate_series(1, 3) n
"""


async def _schedule(c: asyncpg.Connection, p: Probe) -> None:
    """Schedule three jobs. Their executions are the first in the queue of the device."""
    await _execute(
        c,
        ("SELECT set_config('app.tenant_id', $1, true)", p.tenant),
        (_START, p.tenant),
        (_SCHEDULED, p.tenant, p.device),
        (_SCHEDULED_EXECUTIONS, p.tenant, p.device),
        (_SCHEDULED_PROGRESS, p.tenant),
    )


# No window is open before the day after tomorrow, in any time zone.
_WINDOWS = """
    UPDATE jobs.jobs
    SET start_at = NULL, release_since = NULL, window_time_zone = 'Europe/Berlin',
        start_windows = ARRAY[1 << (extract(isodow FROM now())::integer + 2) % 7, 0, 15]
    WHERE tenant_id = $1 AND job_id LIKE 'scheduled%'
"""


async def _wait_for_windows(c: asyncpg.Connection, p: Probe) -> None:
    """Let the first three executions in the queue of the device wait for a start window."""
    await _schedule(c, p)
    await _execute(c, (_WINDOWS, p.tenant))


_NO_APPROVALS = "UPDATE jobs.job_stages SET require_approval = false WHERE tenant_id = $1"


async def _add_stages_without_approvals(c: asyncpg.Connection, p: Probe) -> None:
    await _add_stages(c, p)
    await _execute(c, (_NO_APPROVALS, p.tenant))


def _update_job(c: asyncpg.Connection, p: Probe) -> Awaitable[object]:
    return store_on(c).update_job(
        p.tenant,
        job_id="j1",
        etag="",
        fields=["in_progress_timeout_minutes"],
        in_progress_timeout_minutes=5,
        rollout="{}",
        failure_criteria="[]",
    )


async def _cancel(c: asyncpg.Connection, p: Probe) -> None:
    await store_on(c).cancel_job(p.tenant, job_id="j1", reason="r", force=True)


async def _plant_wrong_count(c: asyncpg.Connection, p: Probe) -> None:
    await _execute(
        c,
        (
            "UPDATE jobs.job_progress SET retrying = 5 WHERE tenant_id = $1 AND job_id = 'old1'",
            p.tenant,
        ),
    )


async def _delete(c: asyncpg.Connection, p: Probe) -> None:
    await _cancel(c, p)
    await store_on(c).delete_job(p.tenant, job_id="j1")


def _search(name: str, *args: object) -> Call:
    parameters = ", ".join(f"${n}" for n in range(1, 4 + len(args)))
    sql = f"SELECT * FROM jobs.{name}({parameters})"
    return lambda c, p: c.fetch(sql, 100, [], [], *args)


def _list_devices(selector: str = "", prefix: str = "") -> Call:
    terms = parse(selector).terms_json
    return lambda c, p: store_on(c).list_devices(
        p.tenant, terms=terms, prefix=prefix, after="", limit=11
    )


# Selectors of ListDevices, and the rows read. At most 5,000 devices are examined, each with a row
# of device_state and one of devices. Terms on groups also read memberships.
_SELECTORS = {
    "": 120,
    "tenth": 1000,
    "rare": 10_200,
    "model=x200": 120,
    "model!=x200": 10_200,
    "group=pumps": 60,
    "group=fleet": 150,
    "group=fleet,rare": 15_200,
    "group=fleet,group=pumps": 5_100,
    "group in (fleet,pumps,none),rare": 15_200,
    "group!=fleet": 10_200,
    "group notin (fleet,pumps),rare": 15_200,
    "device_id in (d1,d2,d3)": 40,
    "device_id in (d1,d2,d3),group=fleet,rare": 40,
    "device_id!=d1,device_id!=d2": 120,
}


def _update_devices(c: asyncpg.Connection, p: Probe, *device_ids: str) -> Awaitable[object]:
    count = len(device_ids)
    return store_on(c).update_devices(
        p.tenant,
        device_ids=list(device_ids),
        labels=['{"model": "x300"}'] * count,
        time_zones=["Europe/Berlin"] * count,
        group_ids=['["pumps", "new"]'] * count,
        remove_labels=[],
        allow_missing=True,
    )


_URL = "https://hooks.example/"
_CLAIM_ID = "00000000-0000-0000-0000-000000000001"


def _update_webhook(*fields: str) -> Call:
    return lambda c, p: store_on(c).update_webhook(
        p.tenant,
        webhook_id="due",
        fields=[*fields],
        url=f"{_URL}new",
        description="new",
        types=["job.tripped"],
        enabled=False,
        position=5,
    )


def _of_dispatcher(call: str) -> Call:
    return lambda c, p: c.fetch(f"SELECT * FROM jobs.{call}", p.tenant)


async def _queue_events(c: asyncpg.Connection, p: Probe) -> None:
    await c.execute(
        "INSERT INTO jobs.event_queue"
        " (tenant_id, job_id, number, type, occurred_at, status, counts)"
        " SELECT $1, 'j1', n, 'job.updated', now(), 'IN_PROGRESS', '{1,0,0,0,0,0,0}'"
        " FROM generate_series(1, 5) n",
        p.tenant,
    )


def _list_events(**values: Any) -> Call:
    filters: dict[str, Any] = {"from_position": None, "types": None, "job_id": None}
    filters |= {"after_position": 10_000} | values
    return lambda c, p: store_on(c).list_events(p.tenant, **filters, limit=11)


def _list_job_events(*, newest_first: bool, **values: Any) -> Call:
    options: dict[str, Any] = {"last_position": None, "types": None} | values
    return lambda c, p: store_on(c).list_job_events(
        p.tenant, job_id="j1", newest_first=newest_first, limit=11, **options
    )


_EVENT_CASES = {
    "list_events": Case("list_events", 20, _list_events()),
    "list_events: from the oldest": Case("list_events", 20, _list_events(after_position=0)),
    "list_events: from a time": Case("list_events", 20, _list_events(from_position=15_000)),
    "list_events: after the last": Case("list_events", 10, _list_events(after_position=None)),
    "list_events: of a job": Case("list_events", 20, _list_events(job_id="j1")),
    "list_events: of a type": Case("list_events", 20, _list_events(types=["job.updated"])),
    # Reads 5,000 events, twice.
    "list_events: of another type": Case(
        "list_events", 10_100, _list_events(types=["job.tripped"])
    ),
    "list_events: of another type and a job": Case(
        "list_events", 450, _list_events(types=["job.tripped"], job_id="j1")
    ),
    "list_events: queued": Case(
        "list_events", 60, _list_events(), prepare=_queue_events, as_owner=True
    ),
    "list_job_events": Case("list_job_events", 20, _list_job_events(newest_first=False)),
    "list_job_events: newest first": Case(
        "list_job_events", 20, _list_job_events(newest_first=True, last_position=10_000)
    ),
    # Reads the 200 events of the job, twice.
    "list_job_events: of another type": Case(
        "list_job_events", 450, _list_job_events(newest_first=False, types=["job.tripped"])
    ),
    "list_job_events: of another type, newest first": Case(
        "list_job_events", 450, _list_job_events(newest_first=True, types=["job.tripped"])
    ),
    "changed_event_heads": Case(
        "changed_event_heads",
        4,
        lambda c, p: c.fetch("SELECT * FROM jobs.changed_event_heads($1, '{1}')", p.tenant),
    ),
    "changed_event_heads_of_tenants": Case(
        "changed_event_heads_of_tenants",
        8,
        lambda c, p: store_on(c).changed_event_heads(["other1", p.tenant], positions=[1, 1]),
    ),
    "sequence_queued_events": Case(
        "sequence_queued_events",
        60,
        lambda c, p: c.fetch("SELECT jobs.sequence_queued_events($1)", p.tenant),
        prepare=_queue_events,
        as_owner=True,
    ),
    "purge_events: old": Case(
        "purge_events",
        80,
        lambda c, p: c.fetch("SELECT jobs.purge_events($1, 7, 1000000, 10)", p.tenant),
        as_owner=True,
    ),
    # Examines 50 events.
    "purge_events: too many": Case(
        "purge_events",
        100,
        lambda c, p: c.fetch("SELECT jobs.purge_events($1, 7, 1000, 10)", p.tenant),
        as_owner=True,
    ),
    "tenants_with_queued_events": Case(
        "tenants_with_queued_events",
        20,
        lambda c, _: c.fetch("SELECT * FROM jobs.tenants_with_queued_events(10, '')"),
        as_owner=True,
    ),
    "tenants_with_events": Case(
        "tenants_with_events",
        20,
        lambda c, _: c.fetch("SELECT * FROM jobs.tenants_with_events(10, 'other', 7, 1000)"),
        as_owner=True,
    ),
}

_WEBHOOK_CASES = {
    "create_webhook": Case(
        "create_webhook",
        30,
        lambda c, p: store_on(c).create_webhook(
            p.tenant, webhook_id="new", url=_URL, description="", types=None, key_id="k1"
        ),
    ),
    "list_webhooks": Case("list_webhooks", 10, lambda c, p: store_on(c).list_webhooks(p.tenant)),
    "get_webhook": Case(
        "get_webhook", 5, lambda c, p: store_on(c).get_webhook(p.tenant, webhook_id="due")
    ),
    "update_webhook": Case("update_webhook", 10, _update_webhook("url", "types", "enabled")),
    "update_webhook: position": Case("update_webhook", 12, _update_webhook("position")),
    "delete_webhook": Case(
        "delete_webhook", 5, lambda c, p: store_on(c).delete_webhook(p.tenant, webhook_id="due")
    ),
    "rotate_webhook_secret": Case(
        "rotate_webhook_secret",
        10,
        lambda c, p: store_on(c).rotate_webhook_secret(p.tenant, webhook_id="due", key_id="k2"),
    ),
    "verify_webhook": Case(
        "verify_webhook",
        5,
        lambda c, p: store_on(c).verify_webhook(p.tenant, webhook_id="due", url=_URL),
    ),
    "test_webhook": Case(
        "test_webhook", 10, lambda c, p: store_on(c).test_webhook(p.tenant, webhook_id="due")
    ),
    # A claim returns at most 100 events, and examines at most 5,000.
    "claim_webhook": Case(
        "claim_webhook",
        250,
        _of_dispatcher(f"claim_webhook($1, 'due', '{_CLAIM_ID}')"),
        as_owner=True,
    ),
    "claim_webhook: of another type": Case(
        "claim_webhook",
        20_100,
        _of_dispatcher(f"claim_webhook($1, 'rare', '{_CLAIM_ID}')"),
        as_owner=True,
    ),
    "claim_webhook: not due": Case(
        "claim_webhook",
        10,
        _of_dispatcher(f"claim_webhook($1, 'idle', '{_CLAIM_ID}')"),
        as_owner=True,
    ),
    "store_delivery": Case(
        "store_delivery",
        10,
        _of_dispatcher(f"store_delivery($1, 'claimed', '{_CLAIM_ID}', 5, 200, NULL, 0, false)"),
        as_owner=True,
    ),
    "release_webhook": Case(
        "release_webhook",
        10,
        _of_dispatcher(f"release_webhook($1, 'claimed', '{_CLAIM_ID}', 0)"),
        as_owner=True,
    ),
    "count_webhooks": Case(
        "count_webhooks",
        20,
        lambda c, p: c.fetch("SELECT * FROM jobs.count_webhooks(10)"),
        as_owner=True,
    ),
    "next_webhooks: proven": Case(
        "next_webhooks",
        20,
        lambda c, p: c.fetch("SELECT * FROM jobs.next_webhooks(false, 15, 'other')"),
        as_owner=True,
    ),
    "next_webhooks: unproven": Case(
        "next_webhooks",
        20,
        lambda c, p: c.fetch("SELECT * FROM jobs.next_webhooks(true, 15, '')"),
        as_owner=True,
    ),
    "webhooks_due: proven": Case(
        "webhooks_due",
        20,
        lambda c, p: c.fetch("SELECT * FROM jobs.webhooks_due(false, 100, '{other}')"),
        as_owner=True,
    ),
    "webhooks_due: unproven": Case(
        "webhooks_due",
        20,
        lambda c, p: c.fetch("SELECT * FROM jobs.webhooks_due(true, 100, '{other}')"),
        as_owner=True,
    ),
}

CASES = {
    "create_job: one device": Case("create_job", 60, _create_job),
    "preview_target: device_id": Case("preview_target", 200, _preview("device_id")),
    "preview_target: small group": Case("preview_target", 200, _preview("group")),
    "preview_target: list": Case("preview_target", 200, _preview("", "d1")),
    # 1,000 devices, whose rows and keys are read, and all groups: there are two.
    "target_names": Case(
        "target_names",
        2100,
        lambda c, p: store_on(c).target_names(
            p.tenant,
            label_keys=["model", "modell"],
            labels=["model=x200", "model=x20"],
            group_ids=["fleet", "pumps", "pump"],
        ),
    ),
    "get_job": Case(
        "get_job",
        60,
        lambda c, p: store_on(c).get_job(p.tenant, job_id="j1", executions_limit=11),
    ),
    "get_job: stages": Case(
        "get_job",
        160,
        lambda c, p: store_on(c).get_job(p.tenant, job_id="j1", executions_limit=11),
        prepare=_hold,
        as_owner=True,
    ),
    "list_jobs: awaiting approval": Case(
        "list_jobs", 120, _list_jobs(awaiting_approval=True), prepare=_hold, as_owner=True
    ),
    "get_jobs": Case(
        "get_jobs", 30, lambda c, p: store_on(c).get_jobs(p.tenant, job_ids=["j1", "overdue1"])
    ),
    **{
        f"list_jobs: {name}": Case("list_jobs", 92, _list_jobs(**values))
        for name, values in _LIST_FILTERS.items()
    },
    # The jobs of a label are counted up to 1,000.
    "list_jobs: scheduled": Case(
        "list_jobs", 40, _list_jobs(statuses=["SCHEDULED"]), prepare=_schedule
    ),
    "list_jobs: rare label after a common one": Case(
        "list_jobs", 1100, _list_jobs(selector=_selector(env=["prod"], wave=["rare"]))
    ),
    "list_job_executions": Case("list_job_executions", 60, _list_job_executions),
    "list_job_executions: FAILED": Case(
        "list_job_executions", 60, lambda c, p: _list_job_executions(c, p, "FAILED")
    ),
    "list_job_executions: TIMED_OUT": Case(
        "list_job_executions", 60, lambda c, p: _list_job_executions(c, p, "TIMED_OUT")
    ),
    "list_job_executions: REJECTED": Case(
        "list_job_executions", 60, lambda c, p: _list_job_executions(c, p, "REJECTED")
    ),
    "list_job_executions: failure code": Case(
        "list_job_executions",
        60,
        lambda c, p: _list_job_executions(c, p, failure_code=""),
    ),
    "list_job_executions: prefix": Case(
        "list_job_executions",
        60,
        lambda c, p: _list_job_executions(c, p, device_id_prefix="REJECTED"),
    ),
    "list_job_executions: prefix and status": Case(
        "list_job_executions",
        60,
        lambda c, p: _list_job_executions(c, p, "SUCCEEDED", device_id_prefix="SUCCEEDED"),
    ),
    "list_job_executions: prefix and failure code": Case(
        "list_job_executions",
        60,
        lambda c, p: _list_job_executions(c, p, failure_code="", device_id_prefix="FAILED"),
    ),
    "list_job_executions: end cause": Case(
        "list_job_executions",
        60,
        lambda c, p: _list_job_executions(c, p, end_causes=["JOB_EXPIRED"]),
    ),
    "list_job_executions: ended by the device": Case(
        "list_job_executions",
        60,
        lambda c, p: _list_job_executions(c, p, end_causes=["DEVICE"]),
    ),
    **{
        f"list_devices: {selector}": Case("list_devices", rows, _list_devices(selector))
        for selector, rows in _SELECTORS.items()
    },
    "list_devices: prefix": Case("list_devices", 120, _list_devices(prefix="d1")),
    "list_devices: prefix and selector": Case(
        "list_devices", 2300, _list_devices("rare", prefix="d12")
    ),
    "get_device": Case(
        "get_device",
        250,
        lambda c, p: store_on(c).get_device(p.tenant, device_id=p.device, limit=11),
        reads_skipped=True,
    ),
    "update_devices: one": Case("update_devices", 30, lambda c, p: _update_devices(c, p, p.device)),
    "update_devices: batch": Case(
        "update_devices", 3000, lambda c, p: _update_devices(c, p, *_batch(p), "new")
    ),
    "delete_devices": Case(
        "delete_devices",
        400,
        lambda c, p: store_on(c).delete_devices(
            p.tenant, device_ids=[p.device, "unknown"], max_executions=11, wait_ms=1000
        ),
        reads_skipped=True,
    ),
    # The group "fleet" has 20,000 devices. At most 10,001 of them are counted.
    "list_groups": Case(
        "list_groups",
        10_300,
        lambda c, p: store_on(c).list_groups(
            p.tenant, prefix="", after="", limit=11, max_counted=1_000_000
        ),
    ),
    "list_groups: after a large group": Case(
        "list_groups",
        10,
        lambda c, p: store_on(c).list_groups(
            p.tenant, prefix="", after="fleet", limit=11, max_counted=1_000_000
        ),
    ),
    "remove_stale_devices": Case(
        "remove_stale_devices",
        40,
        lambda c, p: store_on(c).remove_stale_devices(p.tenant, "d2", 11),
    ),
    "next_device_tenant": Case(
        "next_device_tenant",
        2,
        lambda c, p: c.fetch("SELECT jobs.next_device_tenant('')"),
        as_owner=True,
    ),
    "get_failure_summary": Case(
        "get_failure_summary",
        60,
        lambda c, p: store_on(c).get_failure_summary(
            p.tenant, job_id="j1", statuses=None, failure_codes=None
        ),
        prepare=lambda c, p: _update(
            c, p, ExecutionUpdate("j1", "d1", "FAILED", failure_code="E1")
        ),
    ),
    "pause_job": Case("pause_job", 60, _pause),
    "resume_job": Case(
        "resume_job", 60, lambda c, p: store_on(c).resume_job(p.tenant, job_id="j1", etag="")
    ),
    "update_job": Case("update_job", 60, _update_job),
    "update_job: labels": Case(
        "update_job",
        60,
        lambda c, p: store_on(c).update_job(
            p.tenant,
            job_id="old1",
            etag="",
            fields=["labels"],
            in_progress_timeout_minutes=None,
            rollout="{}",
            failure_criteria="[]",
            labels='{"env": "prod", "wave": "2"}',
        ),
    ),
    "advance_job": Case(
        "advance_job",
        100,
        lambda c, p: store_on(c).advance_job(p.tenant, job_id="j1", stage=None, etag=""),
        prepare=_add_stages_without_approvals,
        as_owner=True,
    ),
    "approve_stage": Case(
        "approve_stage",
        100,
        lambda c, p: store_on(c).approve_stage(
            p.tenant, job_id="j1", stage=0, approved_by="ann", comment=""
        ),
        prepare=_add_stages,
        as_owner=True,
    ),
    "open_due_stage": Case(
        "open_due_stage",
        100,
        lambda c, p: c.fetch("SELECT jobs.open_due_stage($1, 'j1', 0)", p.tenant),
        prepare=_add_stages,
        as_owner=True,
    ),
    "stages_due": Case(
        "stages_due", 100, _search("stages_due"), prepare=_add_stages, as_owner=True
    ),
    "count_retrying_executions": Case(
        "count_retrying_executions",
        10,
        lambda c, p: c.fetch("SELECT jobs.count_retrying_executions(10000)"),
        as_owner=True,
    ),
    "count_scheduled_jobs": Case(
        "count_scheduled_jobs",
        20,
        lambda c, p: c.fetch("SELECT jobs.count_scheduled_jobs(10000)"),
        prepare=_schedule,
        as_owner=True,
    ),
    "stopped_rollouts": Case(
        "stopped_rollouts",
        100,
        lambda c, p: c.fetch("SELECT * FROM jobs.stopped_rollouts(10000)"),
        prepare=_add_stages,
        as_owner=True,
    ),
    "list_device_executions": Case("list_device_executions", 60, _list_device_executions),
    "list_device_executions: of a job": Case(
        "list_device_executions", 60, lambda c, p: _list_device_executions(c, p, job_id="j1")
    ),
    "list_pending_executions": Case(
        "list_pending_executions",
        150,
        lambda c, p: store_on(c).list_pending_executions(p.tenant, device_id=p.device, limit=11),
        reads_skipped=True,
    ),
    "list_pending_executions: behind waiting executions": Case(
        "list_pending_executions",
        170,
        lambda c, p: store_on(c).list_pending_executions(p.tenant, device_id=p.device, limit=11),
        prepare=_wait_for_windows,
        reads_skipped=True,
    ),
    "list_pending_executions: later page": Case(
        "list_pending_executions",
        150,
        _list_pending_after,
        reads_skipped=True,
    ),
    "list_watched_executions": Case(
        "list_watched_executions",
        250,
        lambda c, p: store_on(c).list_watched_executions(
            p.tenant, device_ids=[p.device], limits=[11], max_bytes=1 << 20
        ),
        reads_skipped=True,
    ),
    "changed_pending_fingerprints": Case(
        "changed_pending_fingerprints",
        250,
        lambda c, p: c.fetch(
            "SELECT * FROM jobs.changed_pending_fingerprints($1, $2, '{11}', '{NULL}')",
            p.tenant,
            [p.device],
        ),
        reads_skipped=True,
    ),
    "changed_pending_fingerprints_of_tenants": Case(
        "changed_pending_fingerprints_of_tenants",
        250,
        lambda c, p: store_on(c).changed_pending_fingerprints(
            [p.tenant], device_ids=[p.device], limits=[11], fingerprints=[None]
        ),
        reads_skipped=True,
    ),
    "changed_job_fingerprints": Case(
        "changed_job_fingerprints",
        4,
        lambda c, p: c.fetch(
            "SELECT * FROM jobs.changed_job_fingerprints($1, '{j1}', '{NULL}')", p.tenant
        ),
    ),
    "changed_job_fingerprints_of_tenants": Case(
        "changed_job_fingerprints_of_tenants",
        4,
        lambda c, p: store_on(c).changed_job_fingerprints(
            [p.tenant], job_ids=["j1"], fingerprints=[None]
        ),
    ),
    "get_execution": Case(
        "get_execution",
        30,
        lambda c, p: store_on(c).get_execution(p.tenant, device_id="d1", job_id="j1"),
    ),
    "explain_execution": Case(
        "explain_execution",
        60,
        lambda c, p: store_on(c).explain_execution(p.tenant, job_id="j1", device_id="d1"),
    ),
    "explain_execution: held": Case(
        "explain_execution",
        60,
        lambda c, p: store_on(c).explain_execution(p.tenant, job_id="j1", device_id="d1"),
        prepare=_hold,
        as_owner=True,
    ),
    "explain_execution: the place in the queue": Case(
        "explain_execution",
        60,
        lambda c, p: store_on(c).explain_execution(p.tenant, job_id="j1", device_id=p.device),
        reads_skipped=True,
    ),
    "list_execution_attempts": Case(
        "list_execution_attempts",
        30,
        lambda c, p: store_on(c).list_execution_attempts(
            p.tenant, job_id="j1", device_id="d1", before_number=None, limit=11
        ),
    ),
    "cancel_job": Case(
        "cancel_job",
        60,
        lambda c, p: store_on(c).cancel_job(p.tenant, job_id="j1", reason="r", force=True),
    ),
    "cancel_execution": Case(
        "cancel_execution",
        60,
        lambda c, p: store_on(c).cancel_execution(
            p.tenant, job_id="j1", device_id="d1", reason="r", force=True
        ),
    ),
    "delete_job": Case(
        "delete_job", 60, lambda c, p: store_on(c).delete_job(p.tenant, job_id="old1")
    ),
    "retry_executions: FAILED": Case("retry_executions", 150, lambda c, p: _retry(c, p, "FAILED")),
    "update_executions: start": Case(
        "update_executions", 60, lambda c, p: _update(c, p, ExecutionUpdate("j1", "d1", None))
    ),
    "update_executions: start next": Case(
        "update_executions", 60, lambda c, p: _start_next(c, p, p.device), reads_skipped=True
    ),
    "update_executions: start next behind scheduled jobs": Case(
        "update_executions",
        80,
        lambda c, p: _start_next(c, p, p.device),
        prepare=_schedule,
        reads_skipped=True,
    ),
    "update_executions: start next behind waiting executions": Case(
        "update_executions",
        80,
        lambda c, p: _start_next(c, p, p.device),
        prepare=_wait_for_windows,
        reads_skipped=True,
    ),
    "update_executions: start next behind a held execution": Case(
        "update_executions",
        120,
        lambda c, p: _start_next(c, p, "d1"),
        prepare=_hold,
        as_owner=True,
    ),
    "update_executions: batch of start next": Case(
        "update_executions",
        6000,
        lambda c, p: _start_next(c, p, *_batch(p)),
        reads_skipped=True,
    ),
    "update_executions: report": Case(
        "update_executions",
        60,
        lambda c, p: _update(c, p, ExecutionUpdate("j1", "d1", "SUCCEEDED")),
    ),
    "update_executions: report of a failure": Case(
        "update_executions",
        80,
        lambda c, p: _update(c, p, ExecutionUpdate("j1", "d1", "FAILED", failure_code="E1")),
    ),
    "update_executions: batch of failures with codes of their own": Case(
        "update_executions", 1100, lambda c, p: _update(c, p, *_failures(p))
    ),
    "update_executions: batch of failures with execution events": Case(
        "update_executions",
        2900,
        lambda c, p: _update(c, p, *_failures(p)),
        prepare=_add_execution_events,
    ),
    # Reads the row of each device three times.
    "insert_last_seen": Case(
        "insert_last_seen",
        400,
        lambda c, p: c.fetch(INSERT_LAST_SEEN, p.tenant, _batch(p), [5.0] * p.devices),
    ),
    "update_last_seen": Case(
        "update_last_seen",
        600,
        lambda c, p: c.fetch(UPDATE_LAST_SEEN, p.tenant, _batch(p), [5.0] * p.devices, 1.0),
    ),
    "time_out_executions": Case(
        "time_out_executions",
        60,
        lambda c, p: c.fetch(
            "SELECT jobs.time_out_executions($1, 'overdue1', '{other}', 0)", p.tenant
        ),
        as_owner=True,
    ),
    "finalize_executions": Case(
        "finalize_executions",
        150,
        lambda c, p: c.fetch(
            "SELECT * FROM jobs.finalize_executions($1, 'j1', '', 10, 0)", p.tenant
        ),
        prepare=_cancel,
        as_owner=True,
    ),
    "apply_retention": Case(
        "apply_retention",
        60,
        lambda c, p: c.fetch("SELECT jobs.apply_retention($1, 'old1', 30, 0)", p.tenant),
        as_owner=True,
    ),
    "repair_counts": Case(
        "repair_counts",
        150,
        lambda c, p: c.fetch("SELECT * FROM jobs.repair_counts($1, 'old1')", p.tenant),
        prepare=_plant_wrong_count,
        as_owner=True,
    ),
    "purge_job": Case(
        "purge_job",
        150,
        lambda c, p: c.fetch("SELECT jobs.purge_job($1, 'j1', '', 10, 0)", p.tenant),
        prepare=_delete,
        as_owner=True,
    ),
    **_EVENT_CASES,
    **_WEBHOOK_CASES,
    # These return up to six rows.
    "timed_out_executions": Case(
        "timed_out_executions", 56, _search("timed_out_executions"), as_owner=True
    ),
    "jobs_to_finalize": Case("jobs_to_finalize", 150, _search("jobs_to_finalize"), as_owner=True),
    "jobs_past_retention": Case(
        "jobs_past_retention", 56, _search("jobs_past_retention", 30), as_owner=True
    ),
    "jobs_to_purge": Case("jobs_to_purge", 56, _search("jobs_to_purge"), as_owner=True),
}
