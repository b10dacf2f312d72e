"""A call of each function, with the maximum number of rows that it may read.

The calls read the data of tests/support/shapes.py. test_rows_read.py and test_cached_plans.py count
the rows, and test_search_path.py compares the results of two sessions.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db.last_seen import INSERT_LAST_SEEN, UPDATE_LAST_SEEN
from jobs_grpc.db.store import ExecutionUpdate
from jobs_grpc.services.rollout_json import failure_criteria_json
from jobs_grpc.services.selectors import parse
from tests.support.database import store_on
from tests.support.list_jobs import NO_FILTERS
from tests.support.shapes import Probe

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
NOW = datetime.now(UTC)

Call = Callable[[asyncpg.Connection, Probe], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """A call of a function, and the maximum number of rows that it may read."""

    rows: int
    call: Call
    prepare: Call | None = None
    """Changes rows before the call."""
    reads_skipped: bool = False
    """It also reads the executions of canceled jobs at the front of the device's queue."""
    reads_ended: bool = False
    """It also reads up to 100 executions of the device that others have ended."""
    reads_devices: bool = False
    """It reads all devices: `rows` is for 5,000 of them, which each tenant has."""
    as_owner: bool = False


def function_of(name: str) -> str:
    """Return the function that the case of this name calls."""
    return name.partition(":")[0]


def _store(method: str, **arguments: Any) -> Call:
    """Call a method of the store for the tenant. An argument may be a function of the probe."""

    def call(c: asyncpg.Connection, p: Probe) -> Awaitable[object]:
        values = {name: value(p) if callable(value) else value for name, value in arguments.items()}
        result: Awaitable[object] = getattr(store_on(c), method)(p.tenant, **values)
        return result

    return call


def _sql(call: str) -> Call:
    """Call a function, in which $1 is the tenant and $2 an array of the device."""
    sql = f"SELECT * FROM jobs.{call}"
    return lambda c, p: c.fetch(sql, *(p.tenant, [p.device])[: sql.count("$")])


def _device(p: Probe) -> str:
    return p.device


def _devices(p: Probe) -> list[str]:
    return [p.device]


def _batch(p: Probe) -> list[str]:
    return [f"d{n}" for n in range(1, p.devices + 1)]


def _of_owner(rows: int, call: str, prepare: Call | None = None) -> Case:
    return Case(rows, _sql(call), prepare, as_owner=True)


async def _execute(c: asyncpg.Connection, *statements: tuple[Any, ...]) -> None:
    await c.fetch("SELECT set_config('enable_seqscan', 'off', true)")
    for statement in statements:
        await c.fetch(*statement)
    await c.fetch("SELECT set_config('enable_seqscan', 'on', true)")


def _statements(*statements: str) -> Call:
    """Run statements, in which $1 is the tenant, for the tenant."""
    set_tenant = "SELECT set_config('app.tenant_id', $1, true)"
    return lambda c, p: _execute(c, *((sql, p.tenant) for sql in (set_tenant, *statements)))


# The events also say which of the executions the retry policy queues again.
_add_execution_events = _statements("""
    UPDATE jobs.jobs
    SET execution_events = true,
        retry_policy = '[{"statuses": ["FAILED"], "failure_codes": [], "max_attempts": 2,'
            ' "initial_backoff_seconds": 60, "backoff_multiplier": 1, "max_backoff_seconds": 60}]'
    WHERE tenant_id = $1 AND job_id = 'j2'
""")

# Devices of other jobs match, too.
_let_devices_join = _statements(
    """
    UPDATE jobs.jobs SET is_continuous = true, joined_count = 0, expires_at = NULL
    WHERE tenant_id = $1 AND job_id = 'j2'
    """,
    """
    INSERT INTO jobs.continuous_jobs (tenant_id, job_id, terms, fact_keys, scan_due_at)
    VALUES ($1, 'j2', '[{"key": "model", "op": "not_in", "values": ["x"]}]', '{}', '2000-01-01Z')
    """,
)

# With 20 notes. Those of a later case come first: it must not read the dead rows of earlier ones.
_make_continuous = _statements(
    """
    INSERT INTO jobs.continuous_jobs (tenant_id, job_id, terms, fact_keys, scan_due_at)
    VALUES ($1, 'j1', '[]', '{model}', '2000-01-01Z')
    """,
    """
    INSERT INTO jobs.device_changes (tenant_id, noted_at, change_id, device_ids, device_count)
    SELECT $1, timestamptz '2000-01-01Z' - (now() - timestamptz '2000-01-01Z'), md5(n::text)::uuid,
           ARRAY['d' || n], 1
    FROM generate_series(1, 20) n
    """,
)

# 2 or 99 empty stages of the job j1. The first is due and has waited for an approval.
_STAGES = """
    INSERT INTO jobs.job_stages
        (tenant_id, job_id, stage, display_name, first_rank, last_rank, require_approval, queued)
    SELECT $1, 'j1', n, '', 1, 0, n = 0, 0 FROM generate_series(0, {last}) n
"""
_ROLLOUT = """
    UPDATE jobs.jobs
    SET open_stage = 0, release_end = 0, release_base = 0, release_since = now(),
        stage_due_at = now()
    WHERE tenant_id = $1 AND job_id = 'j1'
"""
_NO_APPROVALS = "UPDATE jobs.job_stages SET require_approval = false WHERE tenant_id = $1"
_add_stages = _statements(_STAGES.format(last=1), _ROLLOUT)
_add_stages_without_approvals = _statements(_STAGES.format(last=1), _ROLLOUT, _NO_APPROVALS)

_await_start_approval = _statements(
    """
    UPDATE jobs.jobs
    SET start_approval = '{}', paused_at = created_at, pause_reason = '',
        pause_cause = 'START_APPROVAL'
    WHERE tenant_id = $1 AND job_id = 'j1'
    """
)

_cancel_by_force = _statements(
    "UPDATE jobs.job_progress SET in_progress = 3 WHERE tenant_id = $1 AND job_id = 'j1'",
    """
    UPDATE jobs.job_executions
    SET status = 'IN_PROGRESS', started_at = now()
    WHERE tenant_id = $1 AND job_id = 'j1' AND device_id = ANY ('{d1, d2, d3}')
    """,
    """
    UPDATE jobs.jobs
    SET status = 'CANCELED', canceled_at = now(), cancel_reason = '', force_canceled = true
    WHERE tenant_id = $1 AND job_id = 'j1'
    """,
)

# The second stage of j1 has three executions. The first is released, and the second is canceled.
_hold = _statements(
    _STAGES.format(last=98),
    _ROLLOUT,
    """
    UPDATE jobs.job_executions
    SET stage = 1, rank = array_position('{FAILED1, REJECTED1, d1}', device_id), started_at = NULL
    WHERE tenant_id = $1 AND job_id = 'j1' AND device_id = ANY ('{FAILED1, REJECTED1, d1}')
    """,
    """
    UPDATE jobs.job_stages SET last_rank = 3, queued = 1, failed = 1, rejected = 1
    WHERE tenant_id = $1 AND job_id = 'j1' AND stage = 1
    """,
    """
    UPDATE jobs.jobs SET open_stage = 1, release_end = 1, awaiting_approval = true
    WHERE tenant_id = $1 AND job_id = 'j1'
    """,
)

# Three jobs that have not started, and j1, which has. Their executions are the first in the queue
# of the device.
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
# No window is open before the day after tomorrow, in any time zone.
_WINDOWS = """
    UPDATE jobs.jobs
    SET start_at = NULL, release_since = NULL, window_time_zone = 'Europe/Berlin',
        start_windows = ARRAY[1 << (extract(isodow FROM now())::integer + 2) % 7, 0, 15]
    WHERE tenant_id = $1 AND job_id LIKE 'scheduled%'
"""


async def _schedule(c: asyncpg.Connection, p: Probe) -> None:
    """Schedule three jobs."""
    await _execute(
        c,
        ("SELECT set_config('app.tenant_id', $1, true)", p.tenant),
        (_START, p.tenant),
        (_SCHEDULED, p.tenant, p.device),
        (_SCHEDULED_EXECUTIONS, p.tenant, p.device),
        (_SCHEDULED_PROGRESS, p.tenant),
    )


async def _wait_for_windows(c: asyncpg.Connection, p: Probe) -> None:
    """Let the first three executions in the queue of the device wait for a start window."""
    await _schedule(c, p)
    await _execute(c, (_WINDOWS, p.tenant))


_cancel = _store("cancel_job", job_id="j1", reason="r", force=True)


async def _delete(c: asyncpg.Connection, p: Probe) -> None:
    await _cancel(c, p)
    await store_on(c).delete_job(p.tenant, job_id="j1")


_plant_wrong_count = _statements(
    "UPDATE jobs.job_progress SET retrying = 5 WHERE tenant_id = $1 AND job_id = 'old1'"
)
_queue_events = _statements("""
    INSERT INTO jobs.event_queue (tenant_id, job_id, number, type, occurred_at, status, counts)
    SELECT $1, 'j1', n, 'job.updated', now(), 'IN_PROGRESS', '{1,0,0,0,0,0,0}'
    FROM generate_series(1, 5) n
""")


def _selector(**values: list[str]) -> str:
    return json.dumps([{"key": key, "op": "in", "values": values[key]} for key in values])


def _list_jobs(**values: Any) -> Call:
    return _store("list_jobs", **(NO_FILTERS | values), limit=11, offset=0)


# Filters of ListJobs. The data has many jobs with the common values, and 15 with the rare ones.
_LIST_FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "later page": {"before_created_at": NOW, "before_job_id": "x"},
    "common status": {"statuses": ["IN_PROGRESS"]},
    "rare status": {"statuses": ["COMPLETED"]},
    "common document type": {"document_type": "reboot"},
    "rare document type": {"document_type": "rare"},
    "common creator": {"created_by": "olivia"},
    "rare creator": {"created_by": "oscar"},
    "device": {"target_device_id": "other"},
    "group": {"target_group_id": "pumps"},
    "all devices": {"target_all": True},
    "time": {"created_from": LONG_AGO, "created_until": NOW},
    "rare document type and status": {"document_type": "rare", "statuses": ["COMPLETED"]},
    "common label": {"selector": _selector(env=["prod"])},
    "rare label": {"selector": _selector(wave=["rare"])},
    "labels of several values": {"selector": _selector(wave=["rare", "none"])},
    "rare label and status": {"selector": _selector(wave=["rare"]), "statuses": ["COMPLETED"]},
    "label and time": {"selector": _selector(env=["prod"]), "created_from": LONG_AGO},
    "prefix": {"job_id_prefix": "overdue"},
    "device and status": {"target_device_id": "other", "statuses": ["COMPLETED"]},
}

# With a rare status and without statistics, the plan reads up to 159 rows.
_LIST_ROWS = dict.fromkeys(
    ("rare status", "rare document type and status", "device and status"), 160
)

# Filters of ListJobExecutions.
_EXECUTION_FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "later page": {"after_device_id": "d1"},
    "FAILED": {"status": "FAILED"},
    "TIMED_OUT": {"status": "TIMED_OUT"},
    "REJECTED": {"status": "REJECTED"},
    "failure code": {"failure_code": ""},
    "frequent failure code": {"failure_code": "E1"},
    "prefix": {"device_id_prefix": "REJECTED"},
    "prefix and status": {"status": "SUCCEEDED", "device_id_prefix": "SUCCEEDED"},
    "prefix and failure code": {"failure_code": "", "device_id_prefix": "REJECTED"},
    "end cause": {"end_causes": ["JOB_EXPIRED"]},
    "ended by the device": {"end_causes": ["DEVICE"]},
}


def _list_job_executions(**values: Any) -> Call:
    filters = {"status": None, "after_device_id": ""} | values
    return _store("list_job_executions", job_id="j1", **filters, limit=11)


def _list_device_executions(job_id: str | None = None) -> Call:
    position = {"status": None, "before_queued_at": None, "before_job_id": None}
    return _store("list_device_executions", device_id=_device, job_id=job_id, **position, limit=11)


_acknowledge = _store(
    "acknowledge_executions",
    device_ids=_devices,
    job_ids=["late7"],
    execution_numbers=[1],
)

_acknowledge_cancel = _store(
    "acknowledge_executions",
    device_ids=["d1", "d2", "d3"],
    job_ids=["j1"] * 3,
    execution_numbers=[1] * 3,
)

_list_pending = _store("list_pending_executions", device_id=_device, limit=11)
_list_pending_after = _store(
    "list_pending_executions",
    device_id=_device,
    after_status="QUEUED",
    after_queue_order=0,
    after_queued_at=LONG_AGO,
    after_job_id="j1",
    limit=11,
)


def _update(*updates: ExecutionUpdate) -> Call:
    return lambda c, p: store_on(c).update_executions(p.tenant, updates, wait_ms=1000)


def _start_next(devices: Callable[[Probe], list[str]]) -> Call:
    return lambda c, p: _update(
        *(ExecutionUpdate(None, device, None, must_be_next=True) for device in devices(p))
    )(c, p)


def _fail(job_id: str) -> Call:
    """Report a failure with a code of its own for each device."""
    return lambda c, p: _update(
        *(ExecutionUpdate(job_id, d, "FAILED", failure_code=f"code-{d}") for d in _batch(p))
    )(c, p)


_report_failure = _update(ExecutionUpdate("j1", "d1", "FAILED", failure_code="E1"))


def _create_job(**fields: Any) -> Call:
    common = {"document_type": "reboot", "expires_in_hours": 1} | fields
    return _store(
        "create_job",
        job_id="new",
        request=lambda p: json.dumps(common | {"target_device_id": p.device}),
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
    return _store(
        "preview_target",
        request=json.dumps(request | {"rollout": {"stages": stages}}),
        selector_terms=json.dumps(terms),
        target_device_ids=list(device_ids) or None,
        max_targets=100,
    )


def _update_job(job_id: str, *fields: str, **values: Any) -> Call:
    unchanged = {"in_progress_timeout_minutes": None, "rollout": "{}", "failure_criteria": "[]"}
    return _store("update_job", job_id=job_id, etag="", fields=[*fields], **unchanged | values)


_STAGE_CRITERION = pb.FailureCriterion(count=1, scope=pb.FailureCriterion.STAGE)


def _list_devices(selector: str = "", prefix: str = "") -> Call:
    terms = parse(selector).terms_json
    return _store("list_devices", terms=terms, prefix=prefix, after="", limit=11)


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
    "fact.k=v": 15_300,
    "group=pumps,!fact.k": 110,
    "device_id in (d1,d2,d3)": 40,
    "device_id in (d1,d2,d3),group=fleet,rare": 40,
    "device_id!=d1,device_id!=d2": 120,
}


def _update_devices(devices: Callable[[Probe], list[str]]) -> Call:
    def all_of(value: str) -> Callable[[Probe], list[str]]:
        return lambda p: [value] * len(devices(p))

    return _store(
        "update_devices",
        device_ids=devices,
        labels=all_of('{"model": "x300"}'),
        time_zones=all_of("Europe/Berlin"),
        group_ids=all_of('["pumps", "new"]'),
        remove_labels=[],
        allow_missing=True,
    )


def _update_facts(devices: Callable[[Probe], list[str]]) -> Call:
    return _store(
        "update_facts",
        device_ids=devices,
        facts=lambda p: ['{"version": "2.1"}'] * len(devices(p)),
        replace=False,
    )


def _list_groups(after: str) -> Call:
    return _store("list_groups", prefix="", after=after, limit=11, max_counted=1_000_000)


_URL = "https://hooks.example/"
_CLAIM_ID = "00000000-0000-0000-0000-000000000001"


def _update_webhook(*fields: str) -> Call:
    return _store(
        "update_webhook",
        webhook_id="due",
        fields=[*fields],
        url=f"{_URL}new",
        description="new",
        types=["job.tripped"],
        enabled=False,
        position=5,
    )


def _list_events(**values: Any) -> Call:
    filters: dict[str, Any] = {"from_position": None, "types": None, "job_id": None}
    return _store("list_events", **(filters | {"after_position": 10_000} | values), limit=11)


def _list_job_events(*, newest_first: bool = False, **values: Any) -> Call:
    options: dict[str, Any] = {"last_position": None, "types": None} | values
    return _store("list_job_events", job_id="j1", newest_first=newest_first, limit=11, **options)


_EVENT_CASES = {
    "list_events": Case(20, _list_events()),
    "list_events: from the oldest": Case(20, _list_events(after_position=0)),
    "list_events: from a time": Case(20, _list_events(from_position=15_000)),
    "list_events: after the last": Case(10, _list_events(after_position=None)),
    "list_events: of a job": Case(20, _list_events(job_id="j1")),
    "list_events: of a type": Case(20, _list_events(types=["job.updated"])),
    # Reads 5,000 events, twice.
    "list_events: of another type": Case(10_100, _list_events(types=["job.tripped"])),
    "list_events: of another type and a job": Case(
        450, _list_events(types=["job.tripped"], job_id="j1")
    ),
    "list_events: queued": Case(60, _list_events(), _queue_events, as_owner=True),
    "list_job_events": Case(20, _list_job_events()),
    "list_job_events: newest first": Case(
        20, _list_job_events(newest_first=True, last_position=10_000)
    ),
    # Reads the 200 events of the job, twice.
    "list_job_events: of another type": Case(450, _list_job_events(types=["job.tripped"])),
    "list_job_events: of another type, newest first": Case(
        450, _list_job_events(newest_first=True, types=["job.tripped"])
    ),
    "changed_event_heads": Case(4, _sql("changed_event_heads($1, '{1}')")),
    "changed_event_heads_of_tenants": Case(
        8, lambda c, p: store_on(c).changed_event_heads(["other1", p.tenant], positions=[1, 1])
    ),
    "unregistered_devices": Case(30, _sql("unregistered_devices($1, '{d1, d2, absent}')")),
    "unregistered_devices_of_tenants": Case(
        30,
        lambda c, p: store_on(c).unregistered_devices(["other1", p.tenant, p.tenant], ["d1"] * 3),
    ),
    "sequence_queued_events": _of_owner(60, "sequence_queued_events($1)", _queue_events),
    "purge_events: old": _of_owner(80, "purge_events($1, 7, 1000000, 10)"),
    # Examines 50 events.
    "purge_events: too many": _of_owner(100, "purge_events($1, 7, 1000, 10)"),
    "tenants_with_queued_events": _of_owner(20, "tenants_with_queued_events(10, '')"),
    "tenants_with_events": _of_owner(20, "tenants_with_events(10, 'other', 7, 1000)"),
}

_WEBHOOK_CASES = {
    "create_webhook": Case(
        30,
        _store(
            "create_webhook", webhook_id="new", url=_URL, description="", types=None, key_id="k1"
        ),
    ),
    "join_devices": Case(
        2000,
        _store(
            "join_devices",
            job_id="j2",
            device_ids=_batch,
            after=None,
            last=None,
            max_targets=1_000_000,
            wait_ms=1000,
        ),
        _let_devices_join,
    ),
    "list_webhooks": Case(10, _store("list_webhooks")),
    "get_webhook": Case(5, _store("get_webhook", webhook_id="due")),
    "update_webhook": Case(10, _update_webhook("url", "types", "enabled")),
    "update_webhook: position": Case(12, _update_webhook("position")),
    "delete_webhook": Case(5, _store("delete_webhook", webhook_id="due")),
    "rotate_webhook_secret": Case(
        10, _store("rotate_webhook_secret", webhook_id="due", key_id="k2")
    ),
    "verify_webhook": Case(5, _store("verify_webhook", webhook_id="due", url=_URL)),
    "test_webhook": Case(10, _store("test_webhook", webhook_id="due")),
    # A claim returns at most 100 events, and examines at most 5,000.
    "claim_webhook": _of_owner(250, f"claim_webhook($1, 'due', '{_CLAIM_ID}')"),
    "claim_webhook: of another type": _of_owner(
        20_100, f"claim_webhook($1, 'rare', '{_CLAIM_ID}')"
    ),
    "claim_webhook: not due": _of_owner(10, f"claim_webhook($1, 'idle', '{_CLAIM_ID}')"),
    "store_delivery": _of_owner(
        10, f"store_delivery($1, 'claimed', '{_CLAIM_ID}', 5, 200, NULL, 0, false)"
    ),
    "release_webhook": _of_owner(10, f"release_webhook($1, 'claimed', '{_CLAIM_ID}', 0)"),
    "count_webhooks": _of_owner(20, "count_webhooks(10)"),
    "next_webhooks: proven": _of_owner(20, "next_webhooks(false, 15, 'other')"),
    "next_webhooks: unproven": _of_owner(20, "next_webhooks(true, 15, '')"),
    "webhooks_due: proven": _of_owner(20, "webhooks_due(false, 100, '{other}')"),
    "webhooks_due: unproven": _of_owner(20, "webhooks_due(true, 100, '{other}')"),
}

_DEVICE_CASES = {
    **{
        f"list_devices: {selector}": Case(rows, _list_devices(selector))
        for selector, rows in _SELECTORS.items()
    },
    "list_devices: prefix": Case(120, _list_devices(prefix="d1")),
    "list_devices: prefix and selector": Case(2300, _list_devices("rare", prefix="d12")),
    "get_device": Case(250, _store("get_device", device_id=_device, limit=11), reads_skipped=True),
    "update_devices: one": Case(30, _update_devices(_devices)),
    "update_devices: batch": Case(3000, _update_devices(lambda p: [*_batch(p), "new"])),
    "update_facts: one": Case(30, _update_facts(_devices)),
    "update_facts: batch": Case(1200, _update_facts(_batch)),
    "delete_devices": Case(
        400,
        _store(
            "delete_devices",
            device_ids=lambda p: [p.device, "unknown"],
            max_executions=11,
            wait_ms=1000,
        ),
        reads_skipped=True,
    ),
    # The group "fleet" has 20,000 devices. At most 10,001 of them are counted.
    "list_groups": Case(10_300, _list_groups("")),
    "list_groups: after a large group": Case(10, _list_groups("fleet")),
    # 101 devices, whose labels are counted, and as many members as list_groups counts.
    "list_labels": Case(
        10_500,
        _store(
            "list_labels",
            max_devices=100,
            max_pairs=100,
            max_labels=10,
            max_values=10,
            max_groups=10,
        ),
    ),
    # Each device has two rows.
    "get_fleet_summary": Case(
        11_000, _store("get_fleet_summary", max_jobs=10, max_failures=5), reads_devices=True
    ),
    "remove_stale_devices": Case(
        70, lambda c, p: store_on(c).remove_stale_devices(p.tenant, "d2", 11)
    ),
    "update_devices: noted": Case(3600, _update_devices(_batch), _make_continuous),
    "update_facts: noted": Case(1800, _update_facts(_batch), _make_continuous),
    "read_device_changes": Case(
        300, _store("read_device_changes", limit=10, max_changes=200), _make_continuous
    ),
    # Deletes 10 of them.
    "read_device_changes: too many": Case(
        600, _store("read_device_changes", limit=10, max_changes=10), _make_continuous
    ),
    "delete_device_changes": Case(
        40,
        _store(
            "delete_device_changes",
            noted_at=[NOW],
            change_ids=["00000000-0000-0000-0000-000000000001"],
            failed_job_ids=["j1"],
        ),
        _make_continuous,
    ),
    "next_scan_range": Case(30, _store("next_scan_range", job_id="j1", limit=11), _make_continuous),
    "finish_scan_range": Case(
        100,
        _store(
            "finish_scan_range",
            job_id="j1",
            due_at=LONG_AGO,
            read_at=NOW,
            after="d2",
            last="d200",
            interval_seconds=900.0,
            settle_seconds=60.0,
            wait_ms=1000,
        ),
        _make_continuous,
    ),
    "tenants_with_device_changes": _of_owner(
        40, "tenants_with_device_changes(10, '')", _make_continuous
    ),
    "scans_due": _of_owner(10, "scans_due(10, '{other}', '{j1}')", _make_continuous),
    "next_device_tenant": _of_owner(4, "next_device_tenant('')"),
    # Reads the row of each device three times.
    "insert_last_seen": Case(
        400, lambda c, p: c.fetch(INSERT_LAST_SEEN, p.tenant, _batch(p), [5.0] * p.devices)
    ),
    "update_last_seen": Case(
        600, lambda c, p: c.fetch(UPDATE_LAST_SEEN, p.tenant, _batch(p), [5.0] * p.devices, 1.0)
    ),
}

_EXECUTION_CASES = {
    **{
        f"list_job_executions: {name}": Case(60, _list_job_executions(**values))
        for name, values in _EXECUTION_FILTERS.items()
    },
    "list_device_executions": Case(60, _list_device_executions()),
    "list_device_executions: of a job": Case(60, _list_device_executions("j1")),
    "list_pending_executions": Case(150, _list_pending, reads_skipped=True, reads_ended=True),
    "list_pending_executions: behind waiting executions": Case(
        170, _list_pending, _wait_for_windows, reads_skipped=True, reads_ended=True
    ),
    "acknowledge_executions": Case(30, _acknowledge),
    "acknowledge_executions: forced cancel": Case(
        60, _acknowledge_cancel, _cancel_by_force, as_owner=True
    ),
    "list_pending_executions: later page": Case(150, _list_pending_after, reads_skipped=True),
    "list_watched_executions": Case(
        250,
        _store("list_watched_executions", device_ids=_devices, limits=[11], max_bytes=1 << 20),
        reads_skipped=True,
        reads_ended=True,
    ),
    "changed_pending_fingerprints": Case(
        250, _sql("changed_pending_fingerprints($1, $2, '{11}', '{NULL}')"), reads_skipped=True
    ),
    "changed_pending_fingerprints_of_tenants": Case(
        250,
        lambda c, p: store_on(c).changed_pending_fingerprints(
            [p.tenant], device_ids=[p.device], limits=[11], fingerprints=[None]
        ),
        reads_skipped=True,
    ),
    "get_execution": Case(30, _store("get_execution", device_id="d1", job_id="j1")),
    "explain_execution": Case(60, _store("explain_execution", job_id="j1", device_id="d1")),
    "explain_execution: held": Case(
        60, _store("explain_execution", job_id="j1", device_id="d1"), _hold, as_owner=True
    ),
    "explain_execution: the place in the queue": Case(
        60, _store("explain_execution", job_id="j1", device_id=_device), reads_skipped=True
    ),
    "list_execution_attempts": Case(
        30,
        _store(
            "list_execution_attempts", job_id="j1", device_id="d1", before_number=None, limit=11
        ),
    ),
    "cancel_execution": Case(
        60, _store("cancel_execution", job_id="j1", device_id="d1", reason="r", force=True)
    ),
    "retry_executions": Case(
        150,
        _store(
            "retry_executions",
            job_id="j1",
            statuses=["TIMED_OUT"],
            expires_in_hours=None,
            never_expires=False,
            max_active_jobs=None,
        ),
    ),
    "update_executions: start": Case(60, _update(ExecutionUpdate("j1", "d1", None))),
    "update_executions: start next": Case(
        100, _start_next(_devices), reads_skipped=True, reads_ended=True
    ),
    "update_executions: start next behind scheduled jobs": Case(
        100, _start_next(_devices), _schedule, reads_skipped=True, reads_ended=True
    ),
    "update_executions: start next behind waiting executions": Case(
        100, _start_next(_devices), _wait_for_windows, reads_skipped=True, reads_ended=True
    ),
    "update_executions: start next behind a held execution": Case(
        120, _start_next(lambda _: ["d1"]), _hold, as_owner=True, reads_ended=True
    ),
    "update_executions: batch of start next": Case(
        6000, _start_next(_batch), reads_skipped=True, reads_ended=True
    ),
    "update_executions: report": Case(60, _update(ExecutionUpdate("j1", "d1", "SUCCEEDED"))),
    "update_executions: report of a failure": Case(80, _report_failure),
    "update_executions: batch of failures with codes of their own": Case(1100, _fail("j1")),
    "update_executions: batch of failures with more codes than are counted": Case(
        1100, _fail("j2")
    ),
    "update_executions: batch of failures with execution events": Case(
        2900, _fail("j2"), _add_execution_events
    ),
}

# What the background tasks call. The searches return up to six rows.
_MAINTENANCE_CASES = {
    "open_due_stage": _of_owner(120, "open_due_stage($1, 'j1', 0)", _add_stages),
    "stages_due": _of_owner(100, "stages_due(100, '{}', '{}')", _add_stages),
    "count_retrying_executions": _of_owner(10, "count_retrying_executions(10000)"),
    "count_scheduled_jobs": _of_owner(20, "count_scheduled_jobs(10000)", _schedule),
    "stopped_rollouts": _of_owner(100, "stopped_rollouts(10000)", _add_stages),
    "time_out_executions": _of_owner(60, "time_out_executions($1, 'overdue1', '{other}', 0)"),
    "finalize_executions": _of_owner(150, "finalize_executions($1, 'j1', '', 10, 0)", _cancel),
    "apply_retention": _of_owner(60, "apply_retention($1, 'old1', 30, 0)"),
    "repair_counts": _of_owner(150, "repair_counts($1, 'old1')", _plant_wrong_count),
    "purge_job": _of_owner(150, "purge_job($1, 'j1', '', 10, 0)", _delete),
    "timed_out_executions": _of_owner(56, "timed_out_executions(100, '{}', '{}')"),
    "jobs_to_finalize": _of_owner(150, "jobs_to_finalize(100, '{}', '{}')"),
    "jobs_past_retention": _of_owner(56, "jobs_past_retention(100, '{}', '{}', 30)"),
    "jobs_to_purge": _of_owner(56, "jobs_to_purge(100, '{}', '{}')"),
}

CASES = {
    "create_job: one device": Case(60, _create_job()),
    "create_job: replaces": Case(80, _create_job(replaces_job_id="j1")),
    "preview_target: device_id": Case(200, _preview("device_id")),
    "preview_target: small group": Case(200, _preview("group")),
    "preview_target: list": Case(200, _preview("", "d1")),
    # 1,000 devices, whose rows and keys are read, and all groups: there are two.
    "target_names": Case(
        2100,
        _store(
            "target_names",
            label_keys=["model", "modell"],
            labels=["model=x200", "model=x20"],
            group_ids=["fleet", "pumps", "pump"],
        ),
    ),
    "get_job": Case(60, _store("get_job", job_id="j1", executions_limit=11)),
    # Reads the stages for the counts of the job, for those of each stage, and for themselves.
    "get_job: stages": Case(
        500, _store("get_job", job_id="j1", executions_limit=11), _hold, as_owner=True
    ),
    "get_jobs": Case(30, _store("get_jobs", job_ids=["j1", "overdue1"])),
    **{
        f"list_jobs: {name}": Case(_LIST_ROWS.get(name, 92), _list_jobs(**values))
        for name, values in _LIST_FILTERS.items()
    },
    "list_jobs: awaiting approval": Case(
        120, _list_jobs(awaiting_approval=True), _hold, as_owner=True
    ),
    "list_jobs: scheduled": Case(40, _list_jobs(statuses=["SCHEDULED"]), _schedule),
    # The jobs of a label are counted up to 1,000.
    "list_jobs: rare label after a common one": Case(
        1100, _list_jobs(selector=_selector(env=["prod"], wave=["rare"]))
    ),
    "changed_job_fingerprints": Case(4, _sql("changed_job_fingerprints($1, '{j1}', '{NULL}')")),
    "changed_job_fingerprints_of_tenants": Case(
        4,
        lambda c, p: store_on(c).changed_job_fingerprints(
            [p.tenant], job_ids=["j1"], fingerprints=[None]
        ),
    ),
    "get_failure_summary": Case(
        60,
        _store("get_failure_summary", job_id="j1", statuses=None, failure_codes=None),
        _report_failure,
    ),
    # It reads all executions of the job: here, one.
    "get_job_timeline": Case(
        60, _store("get_job_timeline", job_id="old1", max_buckets=200, max_marks=200)
    ),
    "pause_job": Case(60, _store("pause_job", job_id="j1", reason="r", paused_by=None, etag="")),
    "resume_job": Case(60, _store("resume_job", job_id="j1", etag="")),
    "update_job": Case(
        60, _update_job("j1", "in_progress_timeout_minutes", in_progress_timeout_minutes=5)
    ),
    "update_job: labels": Case(
        60, _update_job("old1", "labels", labels='{"env": "prod", "wave": "2"}')
    ),
    # Reads the stages a number of times that does not depend on their number.
    "update_job: criterion of stages": Case(
        1500,
        _update_job(
            "j1",
            "failure_criteria",
            failure_criteria=json.dumps(failure_criteria_json([_STAGE_CRITERION])),
        ),
        _hold,
        as_owner=True,
    ),
    # 47, and 144 without statistics.
    "advance_job": Case(
        150,
        _store("advance_job", job_id="j1", stage=None, etag=""),
        _add_stages_without_approvals,
        as_owner=True,
    ),
    "approve_stage": Case(
        100,
        _store("approve_stage", job_id="j1", stage=0, approved_by="ann", comment=""),
        _add_stages,
        as_owner=True,
    ),
    "reject_stage": Case(
        100,
        _store("reject_stage", job_id="j1", stage=0, rejected_by="ann", comment="", etag=""),
        _add_stages,
        as_owner=True,
    ),
    "approve_start": Case(
        150,
        _store(
            "approve_start",
            job_id="j1",
            approved_by="ann",
            comment="",
            etag="",
            default_expires_in_hours=24,
        ),
        _await_start_approval,
        as_owner=True,
    ),
    "reject_start": Case(
        60,
        _store("reject_start", job_id="j1", rejected_by="ann", comment="", etag=""),
        _await_start_approval,
        as_owner=True,
    ),
    "cancel_job": Case(60, _cancel),
    "delete_job": Case(60, _store("delete_job", job_id="old1")),
    **_EXECUTION_CASES,
    **_DEVICE_CASES,
    **_EVENT_CASES,
    **_WEBHOOK_CASES,
    **_MAINTENANCE_CASES,
}
