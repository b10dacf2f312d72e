"""Databases with many jobs and executions, in several shapes, written by set-based SQL."""

from dataclasses import dataclass, replace

import asyncpg

from tests.support.scale import SCALE

TABLES = (
    "jobs.jobs",
    "jobs.job_progress",
    "jobs.job_executions",
    "jobs.execution_attempts",
    "jobs.job_failures",
    "jobs.job_labels",
    "jobs.devices",
    "jobs.device_facts",
    "jobs.device_counts",
    "jobs.event_queue",
    "jobs.events",
    "jobs.event_heads",
    "jobs.webhooks",
    "public.device_state",
    "public.device_group_members",
)


@dataclass(frozen=True)
class Jobs:
    """Jobs PREFIX1, PREFIX2 … of a tenant, each for the devices d1, d2 …."""

    count: int
    devices: int
    tenant: str = "t"
    prefix: str = "j"
    first_device: int = 1
    one_each: bool = False
    """Job n is for device n only."""
    canceled: bool = False
    """Canceled and not finalized: its executions are stored as QUEUED. Older than the others."""
    timed_out: bool = False
    """Its devices have not acknowledged that their executions timed out."""


@dataclass(frozen=True)
class Probe:
    """The device whose calls are measured. It has an execution of the job j1."""

    tenant: str = "t"
    device: str = "d1"
    devices: int = 100
    """The number of devices, from d1 on, that can start an execution."""
    skipped: int = 0
    """Executions of canceled jobs before the first pending one of the device."""
    ended: int = 0
    """Executions of the device that others have ended, without an acknowledgement."""


@dataclass(frozen=True)
class Shape:
    """Jobs, and the probes that measure calls."""

    jobs: tuple[Jobs, ...]
    probes: tuple[Probe, ...] = (Probe(),)

    @property
    def more_devices(self) -> int:
        """The number of devices of a tenant beyond 5,000, at most."""
        return max(0, *((j.count if j.one_each else j.devices) - 5000 for j in self.jobs))


def _size(count: int) -> int:
    """Return a quarter of a number in `make test`, all of it in `make nightly`."""
    return count if SCALE > 1 else count // 4


SHAPES = {
    "few huge jobs": Shape((Jobs(2, _size(50_000)),)),
    "jobs × devices": Shape((Jobs(_size(400), 200),)),
    "long queue": Shape(
        (
            Jobs(_size(5_000), 3, prefix="ended", first_device=3, canceled=True),
            Jobs(_size(20_000), 3),
        ),
        (Probe(devices=2), Probe(device="d3", devices=3, skipped=_size(5_000))),
    ),
    "many jobs of one device": Shape((Jobs(_size(20_000), 1, one_each=True),)),
    "many ended executions": Shape(
        (Jobs(_size(10_000), 1, prefix="late", timed_out=True), Jobs(10, 100)),
        (Probe(ended=_size(10_000)),),
    ),
    "huge and tiny tenant": Shape(
        (Jobs(_size(500), 100, tenant="huge"), Jobs(1, 1, tenant="tiny")),
        (Probe("huge"), Probe("tiny", devices=1)),
    ),
}

_JOBS = """
    INSERT INTO jobs.jobs (tenant_id, job_id, document_type, document_params, target_all,
        created_by, labels, expires_at, status, canceled_at, cancel_reason, created_at, updated_at)
    SELECT $1::text, $2::text || n, 'reboot', '{}', true,
        'olivia', '{"env": "prod"}', now() + interval '1 day',
        CASE WHEN ended THEN 'CANCELED' ELSE 'IN_PROGRESS' END::jobs.job_status,
        CASE WHEN ended THEN now() - interval '1 minute' END, CASE WHEN ended THEN 'mistake' END,
        created_at, created_at
    FROM generate_series(1, $3::int) n, (VALUES ($4::boolean)) v (ended),
        LATERAL (SELECT now() - interval '1 day' * (1 + ended::int) + n * interval '1 s')
            c (created_at)
    ON CONFLICT DO NOTHING
"""
# Half of the devices have started their first job; its timeout is far in the future.
_EXECUTIONS = """
    INSERT INTO jobs.job_executions (tenant_id, job_id, device_id, status, queued_at,
        started_at, times_out_at, last_updated_at, failure_code, end_cause, ended_number)
    SELECT tenant_id, job_id, 'd' || m,
        CASE WHEN timed_out THEN 'TIMED_OUT'
             WHEN started THEN 'IN_PROGRESS' ELSE 'QUEUED' END::jobs.execution_status,
        created_at, CASE WHEN started OR timed_out THEN now() END,
        CASE WHEN started THEN now() + interval '1 day' END, created_at,
        CASE WHEN timed_out THEN '' END, CASE WHEN timed_out THEN 'TIMEOUT' END,
        CASE WHEN timed_out THEN 1 END
    FROM generate_series(1, $3::int) n
    JOIN jobs.jobs ON tenant_id = $1::text AND job_id = $2::text || n,
    (VALUES ($4::boolean, $5::int, $6::int, $7::boolean, $8::boolean))
        v (ended, first_device, devices, one_each, timed_out),
    generate_series(CASE WHEN one_each THEN n ELSE first_device END,
                    CASE WHEN one_each THEN n ELSE devices END) m,
    LATERAL (SELECT n = 1 AND m % 2 = 0 AND NOT ended AND NOT timed_out) s (started)
    ON CONFLICT DO NOTHING
"""
_DEVICES = """
    INSERT INTO public.device_state (tenant_id, device_id)
    SELECT $1::text, 'd' || n FROM generate_series(1, greatest($2::int, 5000)) n
    ON CONFLICT DO NOTHING
"""
# What background work finds, three jobs of each kind, each with one execution of the device
# "other". In addition, the job j1 has executions in each terminal status, 500 of them FAILED with
# one code, and attempts. The job j2 has all counts of failures that a job can have.
_DUE = """
    INSERT INTO jobs.jobs (tenant_id, job_id, document_type, document_params, target_device_id,
        target_all, created_by, labels, status, completed_at, canceled_at, cancel_reason, finalized,
        expires_at, deleted_at, created_at, updated_at)
    SELECT $1::text, kind || n, 'rare', '{}', 'other', false, 'oscar',
        '{"env": "prod", "wave": "rare"}', status::jobs.job_status,
        CASE WHEN status = 'COMPLETED' THEN updated_at END,
        CASE WHEN status = 'CANCELED' THEN updated_at END,
        CASE WHEN status = 'CANCELED' THEN 'mistake' END, status = 'COMPLETED',
        CASE WHEN kind = 'expired' THEN updated_at END,
        CASE WHEN kind = 'deleted' THEN updated_at END,
        updated_at - interval '1 hour', updated_at
    FROM generate_series(1, 3) n, (VALUES
        ('overdue', 'IN_PROGRESS', now()),
        ('expired', 'IN_PROGRESS', now() - interval '1 hour'),
        ('canceled', 'CANCELED', now() - interval '1 hour'),
        ('deleted', 'COMPLETED', now() - interval '1 hour'),
        ('old', 'COMPLETED', now() - interval '90 days')
    ) k (kind, status, updated_at);
"""
_DUE_EXECUTIONS = """
    INSERT INTO jobs.job_executions (tenant_id, job_id, device_id, status, queued_at,
        started_at, times_out_at, last_updated_at, failure_code)
    SELECT tenant_id, job_id, 'other',
        CASE WHEN job_id LIKE 'overdue%' THEN 'IN_PROGRESS'
             WHEN status = 'COMPLETED' THEN 'SUCCEEDED' ELSE 'QUEUED' END::jobs.execution_status,
        created_at, created_at,
        CASE WHEN job_id LIKE 'overdue%' THEN now() - interval '1 minute' END, created_at,
        NULL
    FROM jobs.jobs WHERE tenant_id = $1::text AND document_type = 'rare'
    UNION ALL
    SELECT $1::text, 'j1', status || n, status::jobs.execution_status, now(), now(), NULL, now(),
        CASE status WHEN 'FAILED' THEN 'E1' WHEN 'REJECTED' THEN '' END  -- '': by the device
    FROM (VALUES ('SUCCEEDED', 3), ('FAILED', 500), ('TIMED_OUT', 3), ('REJECTED', 3))
            s (status, count),
        generate_series(1, count) n
"""
_LABELS = """
    INSERT INTO jobs.job_labels (tenant_id, label, created_at, job_id)
    SELECT tenant_id, key || '=' || value, created_at, job_id
    FROM jobs.jobs, jsonb_each_text(labels)
    WHERE tenant_id = $1::text AND deleted_at IS NULL
    ON CONFLICT DO NOTHING
"""
_ATTEMPTS = """
    INSERT INTO jobs.execution_attempts (tenant_id, job_id, device_id, execution_number, version,
        status, queued_at, last_updated_at)
    SELECT $1::text, 'j1', 'd1', n, n, 'FAILED', now(), now() FROM generate_series(1, 5) n
"""
_FAILURE_COUNTS = """
    INSERT INTO jobs.job_failures (tenant_id, job_id, status, failure_code, executions)
    SELECT tenant_id, job_id, 'FAILED', 'old-' || n, 0
    FROM jobs.jobs, generate_series(1, 100) n WHERE tenant_id = $1::text AND job_id = 'j2'
"""
_GROUP = """
    INSERT INTO public.device_group_members (tenant_id, group_id, device_id)
    SELECT $1::text, 'pumps', device FROM unnest('{d1, other}'::text[]) device
"""
# A group of most devices, and labels: one of all devices, one of a tenth, and one of few.
_FLEET = """
    INSERT INTO public.device_group_members (tenant_id, group_id, device_id)
    SELECT tenant_id, 'fleet', device_id FROM public.device_state
    WHERE tenant_id = $1::text AND device_id <> 'd1' LIMIT 20000
"""
_DEVICE_LABELS = """
    INSERT INTO jobs.devices (tenant_id, device_id, labels)
    SELECT tenant_id, device_id, jsonb_strip_nulls(jsonb_build_object(
        'model', 'x200',
        'tenth', CASE WHEN hashtext(device_id) % 10 = 0 THEN 'yes' END,
        'rare', CASE WHEN hashtext(device_id) % 5000 = 0 THEN 'yes' END
    ))
    FROM public.device_state WHERE tenant_id = $1::text
"""
_DEVICE_FACTS = """
    INSERT INTO jobs.device_facts (tenant_id, device_id, facts, facts_updated_at)
    SELECT tenant_id, device_id, '{"version": "2.0"}', now()
    FROM public.device_state WHERE tenant_id = $1::text
"""
# Events of one type, and five webhooks. Two receive all events: one is due, the other claimed. Two
# receive another type. The last one is idle. Other tenants have webhooks that are not due.
_EVENTS = """
    INSERT INTO jobs.events (tenant_id, position, job_id, type, occurred_at, status, counts)
    SELECT $1::text, n, 'j' || n % 100, 'job.updated', now(), 'IN_PROGRESS', '[1,0,0,0,0,0,0]'
    FROM generate_series(1, 20000) n
"""
_EVENT_HEAD = """
    INSERT INTO jobs.event_heads (tenant_id, position, event_count) VALUES ($1::text, 20000, 20000)
"""
_WEBHOOKS = """
    INSERT INTO jobs.webhooks (tenant_id, webhook_id, url, types, created_at, position,
        previous_position, due_at, claim_id, is_unproven, key_id)
    SELECT $1::text, id, 'https://hooks.example/', types, now(), 1, 1,
        CASE WHEN id <> 'idle' THEN now() END,
        CASE WHEN id = 'claimed' THEN '00000000-0000-0000-0000-000000000001'::uuid END,
        id = 'failing', 'k1'
    FROM (VALUES ('due', NULL), ('claimed', NULL), ('rare', '{job.tripped}'::text[]),
                 ('failing', '{job.tripped}'), ('idle', NULL)) w (id, types)
"""
_OTHER_WEBHOOKS = """
    INSERT INTO jobs.webhooks (tenant_id, webhook_id, url, created_at, position,
        previous_position, due_at, is_unproven, key_id)
    SELECT 'other' || n, 'w', 'https://hooks.example/', now(), 1, 1,
        CASE WHEN n % 2 = 0 THEN now() + interval '1 day' END, n % 4 = 0, 'k1'
    FROM generate_series(1, 5000) n
    ON CONFLICT DO NOTHING
"""
# Other tenants with events, of which a tenth has queued ones.
_OTHER_HEADS = """
    INSERT INTO jobs.event_heads (tenant_id, position, event_count)
    SELECT 'other' || n, 20000, 1 FROM generate_series(1, 5000) n
    ON CONFLICT DO NOTHING
"""
_OTHER_QUEUES = """
    INSERT INTO jobs.event_queue (tenant_id, job_id, number, type, occurred_at, status, counts)
    SELECT 'other' || n * 10, 'j' || m, 1, 'job.updated', now(), 'IN_PROGRESS', '{1,0,0,0,0,0,0}'
    FROM generate_series(1, 500) n, generate_series(1, 20) m
    ON CONFLICT DO NOTHING
"""
_DEVICE_COUNTS = """
    INSERT INTO jobs.device_counts (tenant_id, device_count)
    SELECT tenant_id, count(*) FROM public.device_state GROUP BY tenant_id
"""

_OTHER_DEVICE = "INSERT INTO public.device_state (tenant_id, device_id) VALUES ($1, 'other')"
_PROGRESS = """
    INSERT INTO jobs.job_progress (tenant_id, job_id, queued, in_progress, succeeded, failed,
        timed_out, rejected)
    SELECT tenant_id, job_id,
        count(*) FILTER (WHERE status = 'QUEUED'), count(*) FILTER (WHERE status = 'IN_PROGRESS'),
        count(*) FILTER (WHERE status = 'SUCCEEDED'), count(*) FILTER (WHERE status = 'FAILED'),
        count(*) FILTER (WHERE status = 'TIMED_OUT'), count(*) FILTER (WHERE status = 'REJECTED')
    FROM jobs.job_executions GROUP BY 1, 2
"""


async def disable_autovacuum(owner: asyncpg.Connection) -> None:
    """Keep autovacuum from the tables, so that only the caller analyzes them."""
    for table in TABLES:
        await owner.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")


async def fill(owner: asyncpg.Connection, shape: Shape) -> None:
    """Insert the rows of a shape that the tables don't have yet."""
    for jobs in shape.jobs:
        await owner.execute(_DEVICES, jobs.tenant, jobs.count if jobs.one_each else jobs.devices)
        await owner.execute(_JOBS, jobs.tenant, jobs.prefix, jobs.count, jobs.canceled)
        await owner.execute(
            _EXECUTIONS,
            *(jobs.tenant, jobs.prefix, jobs.count, jobs.canceled),
            *(jobs.first_device, jobs.devices, jobs.one_each, jobs.timed_out),
        )
        await owner.execute(_LABELS, jobs.tenant)


async def fill_due(owner: asyncpg.Connection, shape: Shape) -> None:
    """Complete a filled shape: work of the background tasks, counts, attempts, groups."""
    for tenant in {jobs.tenant for jobs in shape.jobs}:
        for sql in (
            *(_DUE, _DUE_EXECUTIONS, _LABELS, _ATTEMPTS, _FAILURE_COUNTS, _OTHER_DEVICE, _GROUP),
        ):
            await owner.execute(sql, tenant)
        for sql in (_FLEET, _DEVICE_LABELS, _DEVICE_FACTS, _EVENTS, _EVENT_HEAD, _WEBHOOKS):
            await owner.execute(sql, tenant)
    await fill_counts(owner)
    for sql in (_DEVICE_COUNTS, _OTHER_WEBHOOKS, _OTHER_HEADS, _OTHER_QUEUES):
        await owner.execute(sql)


async def fill_counts(owner: asyncpg.Connection) -> None:
    """Insert the counts of all jobs, which must have none."""
    await owner.execute(_PROGRESS)


async def clear(owner: asyncpg.Connection) -> None:
    """Delete all rows, but keep the statistics of the columns."""
    await owner.execute(f"TRUNCATE {', '.join(TABLES)}")


async def analyze(owner: asyncpg.Connection) -> None:
    await owner.execute(f"ANALYZE {', '.join(TABLES)}")


def small(shape: Shape) -> Shape:
    """Return the shape with about a thousandth of its jobs and devices."""
    return replace(
        shape,
        jobs=tuple(
            replace(
                jobs,
                count=-(-jobs.count // 1000),
                devices=max(jobs.first_device, -(-jobs.devices // 1000)),
            )
            for jobs in shape.jobs
        ),
    )
