"""target_query: its text on Citus, other collations, and both ways to join."""

import json
from typing import Any

import pytest

from tests.support import citus_forms as forms
from tests.support.citus_forms import Catalog
from tests.support.database import Database
from tests.support.world import World

TERMS = {
    "label": [{"key": "k", "op": "in", "values": ["a", "'%s"]}, {"key": "l", "op": "not_exists"}],
    "fact": [{"key": "fact.k", "op": "not_in", "values": ["a", "'%s"]}],
    "group": [{"key": "group", "op": "in", "values": ["g", "h"]}],
    "others": [
        {"key": "group", "op": "not_in", "values": ["g"]},
        {"key": "device_id", "op": "not_in", "values": ["d"]},
    ],
    "device": [{"key": "device_id", "op": "in", "values": ["d"]}],
}
TARGETS: list[dict[str, Any]] = [
    {"target_device_id": "d"},
    {"target_group_id": "g"},
    {"target_all": True},
    {"target_device_ids": {"count": 1}},
    {"target_failed_in": {"job_id": "j", "statuses": ["FAILED"], "failure_codes": [""]}},
    {"target_failed_in": {"job_id": "j", "statuses": ["FAILED"], "selector": "label"}},
    *({"target_selector": selector} for selector in TERMS),
]
ROLLOUTS: list[dict[str, Any]] = [
    {},
    {"rollout": {"stages": [{"percent": 1}, {}]}},
    {"rollout": {"stages": [{"group_id": "g"}, {"selector": "label"}, {"selector": "group"}, {}]}},
    {"rollout": {"stages": [{"selector": "fact"}, {}]}},
]


@pytest.mark.parametrize("target", TARGETS, ids=json.dumps)
async def test_query_has_only_forms_that_citus_accepts(
    database: Database, target: dict[str, Any]
) -> None:
    catalog = await Catalog.of(database.owner)

    for rollout in ROLLOUTS:
        query = await database.owner.fetchval(
            "SELECT jobs.target_query('t', $1, $2, 10)",
            json.dumps(target | rollout),
            json.dumps(TERMS),
        )

        assert forms.refused_in_statement(query, catalog) == [], query


async def test_query_fails_when_the_terms_of_a_selector_are_missing(database: Database) -> None:
    for terms in (None, "{}", '{"b": []}'):
        with pytest.raises(Exception, match="JSON object does not contain key"):
            await database.owner.fetchval(
                """SELECT jobs.target_query('t', '{"target_selector": "a"}', $1, 10)""", terms
            )


@pytest.mark.single_node("EXPLAIN of one node")
async def test_query_of_a_selector_returns_its_order_without_another_sort(
    database: Database,
) -> None:
    for selector in ("label", "fact", "others"):
        query = await database.owner.fetchval(
            "SELECT jobs.target_query('t', $1, $2, 10)",
            json.dumps({"target_selector": selector}),
            json.dumps(TERMS),
        )
        async with database.owner.transaction():
            # As in create_executions.
            for name in ("enable_seqscan", "enable_hashjoin", "enable_nestloop"):
                await database.owner.execute(f"SET LOCAL {name} = off")
            plan = await database.owner.fetchval(
                f"EXPLAIN (FORMAT json) SELECT FROM ({query}) t ORDER BY t.device_id".replace(
                    "$1", "'t'"
                )
            )

        assert json.loads(plan)[0]["Plan"]["Node Type"] == "Subquery Scan", plan


@pytest.mark.slow
async def test_large_groups_are_targeted_as_small_ones(world: World) -> None:
    await world.add_devices(10_002, group="large")
    await world.add_devices(["d00001", "d00002"], group="canary")
    await world.database.add_labels(world.tenant, {"d00002": {"a": "b"}, "d00003": {"a": "b"}})
    stages = [{"selector": "a=b"}, {"group_id": "canary"}, {"remainder": True}]

    for target in ({"target_group_id": "large"}, {"target_selector": "group in (large,x)"}):
        job_id = next(iter(target))
        response = await world.operator.create(job_id=job_id, **target, rollout={"stages": stages})

        assert response.execution_count == 10_002
        job = await world.operator.get(job_id)
        assert [stage.total_executions for stage in job.stages] == [2, 1, 9_999]
    response = await world.operator.create(target_selector="group=large,!a,group!=canary")
    assert response.execution_count == 9_999
