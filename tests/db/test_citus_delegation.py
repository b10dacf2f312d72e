"""On a Citus cluster: calls run on the node of their tenant, and searches read partial indexes."""

import re
from pathlib import Path

import asyncpg
import pytest

import jobs_grpc.db
from jobs_grpc.db import schema
from tests.db.test_store import STORE_METHODS
from tests.support import shapes
from tests.support.citus_forms import statements_of_function
from tests.support.database import Database
from tests.support.postgres import connected

_NODE_OF_TENANT = """
    SELECT format('%s:%s', nodename, nodeport) FROM citus_shards
    WHERE shardid = get_shard_id_for_distribution_column('jobs.jobs', $1::text)
"""
# Tenants on different shards.
_TENANTS = ("acme", "globex", "initech", "umbrella")

# The indexes that the searches of functions/maintenance read.
_SEARCHES = {
    "timed_out_executions": ["job_executions_by_times_out_at"],
    "stages_due": ["jobs_by_stage_due_at"],
    "jobs_to_finalize": ["jobs_to_finalize"],
    "jobs_past_retention": ["jobs_finished_by_updated_at"],
    "jobs_to_purge": ["jobs_by_deleted_at"],
    "count_retrying_executions": ["job_progress_by_retrying"],
    "count_webhooks": ["webhooks_pkey"],
    "count_scheduled_jobs": ["jobs_of_all_tenants_by_start_at"],
    "webhooks_due": ["webhooks_by_due_at"],
    "next_webhooks": ["webhooks_by_tenant"],
    "stopped_rollouts": ["jobs_waiting_by_pause_cause", "jobs_tripped_by_canceled_at"],
    "next_device_tenant": ["devices_pkey", "device_facts_pkey"],
    "tenants_with_queued_events": ["event_queue_pkey"],
    "tenants_with_events": ["event_heads_pkey"],
    "tenants_with_device_changes": ["device_changes_pkey"],
    "scans_due": ["continuous_jobs_by_scan_due_at"],
}
# What their parameters and variables stand for.
_VALUES = {
    "p_limit": "100",
    "p_after_tenant_id": "'t1'",
    "p_unproven": "false",
    "p_skip_tenant_ids": "ARRAY['t1']",
    "p_skip_job_ids": "ARRAY['j1']",
    "p_max_events": "1000000",
    "v_until": "now() - interval '1 day'",
    "v_until_position": "1000000",
    "v_retention": "interval '1 day'",
}
# So many tenants that each shard has rows. A third of the jobs are finished, and a tenth scheduled.
_JOBS = """
    INSERT INTO jobs.jobs (tenant_id, job_id, document_type, document_params, target_all, status,
                           completed_at, start_at, created_at, updated_at)
    SELECT 't' || t, 'j' || n, 'reboot', '{}', true,
           CASE WHEN n > 200 THEN 'COMPLETED' ELSE 'IN_PROGRESS' END::jobs.job_status,
           CASE WHEN n > 200 THEN now() END,
           CASE WHEN n % 10 = 0 THEN now() + make_interval(hours => 150 - n) END, now(), now()
    FROM generate_series(1, 256) t, generate_series(1, 300) n
"""
_EXECUTIONS = """
    INSERT INTO jobs.job_executions (tenant_id, job_id, device_id, queued_at, last_updated_at)
    SELECT 't' || t, 'j1', 'd' || n, now(), now()
    FROM generate_series(1, 256) t, generate_series(1, 250) n
"""
# Few of them are due.
_WEBHOOKS = """
    INSERT INTO jobs.webhooks (tenant_id, webhook_id, url, created_at, position,
                               previous_position, due_at, is_unproven, key_id)
    SELECT 't' || t, 'w' || n, 'https://hooks.example/', now(), 1, 1,
           CASE WHEN n = 1 AND t % 20 = 0 THEN now() - interval '1 minute' END, n % 4 = 0, 'k1'
    FROM generate_series(1, 4000) t, generate_series(1, 16) n
"""
_EVENTS = """
    INSERT INTO jobs.event_queue (tenant_id, job_id, number, type, occurred_at, status, counts)
    SELECT 't' || t, 'j1', n, 'job.updated', now(), 'IN_PROGRESS', '{1,0,0,0,0,0,0}'
    FROM generate_series(1, 256) t, generate_series(1, 1000) n
"""
_HEADS = """
    INSERT INTO jobs.event_heads (tenant_id, position, event_count)
    SELECT 't' || t, 1, 0 FROM generate_series(1, 20000) t
"""


async def _plan(connection: asyncpg.Connection, statement: str) -> str:
    rows = await connection.fetch(f"EXPLAIN (COSTS OFF) {statement}")
    return "\n".join(row[0] for row in rows)


async def _searches(connection: asyncpg.Connection, name: str) -> list[tuple[str, str]]:
    """The statements of a search, with values, and the index of each."""
    definition = await connection.fetchval(
        "SELECT pg_get_functiondef(to_regproc('jobs.' || $1::text))", name
    )
    searches = [
        statement.replace("public.", "jobs.")
        for statement in statements_of_function(definition)
        if "FROM public." in statement
    ]
    for variable, value in _VALUES.items():
        searches = [re.sub(rf"\b{variable}\b", value, search) for search in searches]
    return list(zip(searches, _SEARCHES[name], strict=True))


def test_every_search_has_its_indexes() -> None:
    folder = Path(jobs_grpc.db.__file__).parent / "sql/functions/maintenance"

    assert set(_SEARCHES) == {path.stem for path in folder.iterdir()}


@pytest.mark.single_node("another test reads the plans of the nodes")
async def test_order_of_each_search_selects_its_index(database: Database) -> None:
    """On PostgreSQL as well, with the settings that leave no other plan."""
    settings = dict.fromkeys(("enable_sort", "enable_seqscan", "enable_bitmapscan"), "off")
    async with connected(database.owner_dsn, server_settings=settings) as connection:
        for name in _SEARCHES:
            for search, index in await _searches(connection, name):
                assert f" {index} " in await _plan(connection, search), name


# A call of each function that Citus delegates. EXPLAIN does not run it.
_CALLS = """
    SELECT p.proname::text AS name, format('jobs.%s(%s)', p.proname, string_agg(
        CASE WHEN a.n = 1 THEN quote_literal($1::text) ELSE 'NULL::' || a.type::regtype END,
        ', ' ORDER BY a.n)) AS call
    FROM pg_proc p CROSS JOIN unnest(p.proargtypes) WITH ORDINALITY AS a (type, n)
    WHERE p.pronamespace = 'jobs'::regnamespace AND p.proname = ANY ($2::text[])
    GROUP BY p.oid
"""


@pytest.mark.citus
@pytest.mark.parametrize("tenant", _TENANTS)
async def test_each_call_is_one_task_on_the_node_of_its_tenant(
    database: Database, tenant: str
) -> None:
    node = await database.owner.fetchval(_NODE_OF_TENANT, tenant)
    host, _, port = node.rpartition(":")

    plans = {
        row["name"]: await _plan(database.owner, f"SELECT * FROM {row['call']}")
        for row in await database.owner.fetch(_CALLS, tenant, list(schema.delegated_functions()))
    }

    assert plans
    for name, plan in plans.items():
        assert "Task Count: 1" in plan, name
        assert f"host={host} port={port} " in plan, name


@pytest.mark.citus
@pytest.mark.slow
@pytest.mark.parametrize("analyzed", [True, False], ids=["analyzed", "never analyzed"])
async def test_searches_read_their_partial_index_on_each_node_up_to_the_limit(
    fresh: Database, analyzed: bool
) -> None:
    """The settings of a function do not reach the nodes, so the order must select the index."""
    await shapes.disable_autovacuum(fresh.owner)
    await fresh.owner.execute(_JOBS)
    await fresh.owner.execute(_EXECUTIONS)
    await fresh.owner.execute(_WEBHOOKS)
    await fresh.owner.execute(_EVENTS)
    await fresh.owner.execute(_HEADS)
    if analyzed:
        await fresh.owner.execute(
            "ANALYZE jobs.jobs, jobs.job_executions, jobs.webhooks, jobs.event_queue,"
            " jobs.event_heads"
        )
    await fresh.owner.execute("SET citus.explain_all_tasks = on")

    for name in _SEARCHES:
        for search, index in await _searches(fresh.owner, name):
            plan = await _plan(fresh.owner, search)
            tasks = plan.split("->  Task\n")[1:]
            on_shards = [task for task in tasks if re.search(r" on \w+_\d{6}\b", task)]

            assert len(on_shards) > 1, plan
            for task in on_shards:
                assert f" {index}_" in task, plan
                assert "Limit" in task, plan


@pytest.mark.citus
async def test_calls_and_searches_use_custom_plans_and_helpers_inherit_them(
    database: Database,
) -> None:
    rows = await database.owner.fetch(
        "SELECT proname::text, coalesce(proconfig, '{}') AS settings FROM pg_proc"
        " WHERE pronamespace = 'jobs'::regnamespace"
    )

    settings = {
        row["proname"]: {s for s in row["settings"] if s.startswith(("plan_cache_mode", "citus"))}
        for row in rows
    }

    custom = "plan_cache_mode=force_custom_plan"
    nested = "citus.allow_nested_distributed_execution=on"
    assert settings == {
        name: {custom, nested}
        if name in schema.delegated_functions()
        else {custom}
        if name in _SEARCHES or name.endswith("_of_tenants")
        else set()
        for name in settings
    }


async def test_store_methods_call_delegated_functions() -> None:
    assert set(STORE_METHODS) <= set(schema.delegated_functions())
