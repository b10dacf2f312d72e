"""Targets in device tables whose columns have another collation, as a platform's can."""

from typing import Any

import pytest

from tests.support.callers import Operator
from tests.support.database import Database

# "POSIX" exists everywhere. It has the order of "C", but PostgreSQL treats it as another collation.
DEVICES = ["B", "a", "b", "A", "ä", "C", "c"]


@pytest.fixture(autouse=True)
async def fleet(database: Database, tenant: str) -> None:
    """Seven devices; A to C are in the group capitals."""
    for table, column in (
        ("device_state", "device_id"),
        ("device_group_members", "device_id"),
        ("device_group_members", "group_id"),
    ):
        await database.owner.execute(
            f'ALTER TABLE public.{table} ALTER {column} TYPE text COLLATE "POSIX"'
        )
    await database.add_devices(tenant, DEVICES)
    await database.add_devices(tenant, ["A", "B", "C"], group="capitals")
    await database.add_labels(tenant, {device: {"k": device} for device in DEVICES[1:]})


@pytest.mark.single_node("changes the types of distributed tables")
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"target_all": True}, ["A", "B", "C", "a", "b", "c", "ä"]),
        ({"target_group_id": "capitals"}, ["A", "B", "C"]),
        ({"target_device_ids": {"device_ids": ["b", "B"]}}, ["B", "b"]),
        ({"target_selector": "k"}, ["A", "C", "a", "b", "c", "ä"]),
        ({"target_selector": "!k"}, ["B"]),
        ({"target_selector": "group=capitals,k"}, ["A", "C"]),
        ({"target_selector": "group!=capitals"}, ["a", "b", "c", "ä"]),
        ({"target_selector": 'device_id in ("ä",A),k'}, ["A", "ä"]),
        (
            {"target_failed_in": {"job_id": "first", "selector": "k!=A"}},
            ["B", "C", "a", "b", "c", "ä"],
        ),
    ],
)
async def test_targets_do_not_depend_on_the_collation(
    operator: Operator, target: dict[str, Any], expected: list[str]
) -> None:
    await operator.create(job_id="first", target_all=True)
    await operator.cancel("first")
    stages = [
        {"selector": "k in (A,a)", "allow_empty": True},
        {"group_id": "capitals", "allow_empty": True},
        {"selector": "group!=capitals,k!=b", "allow_empty": True},
        {"remainder": True},
    ]
    stage_of = {"A": 0, "a": 0, "B": 1, "C": 1, "b": 3, "c": 2, "ä": 2}

    await operator.create(job_id="plain", **target)
    await operator.create(job_id="staged", **target, rollout={"stages": stages})

    plain = (await operator.executions("plain")).executions
    staged = (await operator.executions("staged")).executions
    assert [e.device_id for e in plain] == expected
    assert [(e.device_id, e.stage) for e in staged] == [(d, stage_of[d]) for d in expected]
