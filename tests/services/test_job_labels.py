"""Labels and descriptions of jobs: CreateJob and UpdateJob set them, ListJobs selects by them."""

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator, job_ids
from tests.support.failures import expect_error, invalid_fields
from tests.support.scale import SCALE
from tests.support.world import World

LABELS = {"team": "pumps", "wave": "1"}

# The rows of job_labels, and those that the labels of the jobs require.
STORED_LABELS = """
    SELECT label, created_at, job_id FROM jobs.job_labels WHERE tenant_id = $1 ORDER BY 1, 2, 3
"""
REQUIRED_LABELS = """
    SELECT l.key || '=' || l.value COLLATE "C", j.created_at, j.job_id
    FROM jobs.jobs j, jsonb_each_text(j.labels) l
    WHERE j.tenant_id = $1 AND j.deleted_at IS NULL ORDER BY 1, 2, 3
"""


@pytest.fixture(autouse=True)
async def devices(world: World) -> None:
    await world.add_devices(["a", "b"])


def facts(job: pb.Job) -> tuple[dict[str, str], str]:
    return dict(job.labels), job.description


async def check_stored_labels(world: World) -> int:
    """Assert that job_labels agrees with the jobs. Returns the number of its rows."""
    stored, required = await world.rows(STORED_LABELS), await world.rows(REQUIRED_LABELS)
    assert [tuple(row) for row in stored] == [tuple(row) for row in required]
    return len(stored)


async def test_job_has_the_labels_and_the_description_of_its_request(world: World) -> None:
    await world.create()
    assert facts(await world.operator.get("j")) == ({}, "")

    # Devices cannot have a label with this prefix.
    labels = LABELS | {"fact.k": "v"}
    await world.create("k", labels=labels, description="Second try, see\nthe plan")

    (listed,) = (await world.operator.list(job_id_prefix="k")).jobs
    for job in (listed, await world.operator.get("k")):
        assert facts(job) == (labels, "Second try, see\nthe plan")


async def test_repeated_create_needs_the_labels_of_the_request(world: World) -> None:
    first = await world.create(labels=LABELS, description="d")
    await world.operator.update("j", "labels", "description", labels={"other": "1"})

    assert await world.create(labels=LABELS, description="d") == first
    others: list[dict[str, Any]] = [
        {},
        {"labels": LABELS},
        {"labels": LABELS | {"wave": "2"}, "description": "d"},
        {"labels": LABELS, "description": "e"},
    ]
    for fields in others:
        await expect_error("JOB_ALREADY_EXISTS", world.create(**fields))


async def test_labels_have_their_limits_when_they_are_as_large_as_possible(world: World) -> None:
    labels = {f"{n:02}{'k' * 61}": "🚀" * 63 for n in range(32)}

    await world.create(labels=labels, description="é" * 1000)

    assert (await world.operator.get("j")).labels == labels


async def test_invalid_labels_and_descriptions_are_rejected(world: World) -> None:
    invalid: list[tuple[dict[str, Any], str]] = [
        ({"labels": {f"k{n}": "" for n in range(33)}}, "labels"),
        ({"labels": {"": "v"}}, "labels"),
        ({"labels": {"-k": "v"}}, "labels"),
        ({"labels": {"a=b": "v"}}, "labels"),
        ({"labels": {"k" * 64: "v"}}, "labels"),
        ({"labels": {"group": "v"}}, "labels"),
        ({"labels": {"in": "v"}}, "labels"),
        ({"labels": {"k": "v" * 64}}, 'labels["k"]'),
        ({"labels": {"k": "a\nb"}}, 'labels["k"]'),
        ({"description": "d" * 1001}, "description"),
        ({"description": "a\0b"}, "description"),
    ]
    for fields, field in invalid:
        for call in (
            world.create(**fields),
            world.operator.update("j", *fields, **fields),
        ):
            assert await invalid_fields(call) == [field]


async def test_update_replaces_what_the_mask_names(world: World) -> None:
    await world.create(labels=LABELS, description="d")

    kept = await world.operator.update(
        "j", "in_progress_timeout_minutes", labels={"x": "y"}, description="\0"
    )
    replaced = await world.operator.update("j", "labels", labels={"wave": "2", "x/y.z": ""})
    assert await check_stored_labels(world) == 2
    removed = await world.operator.update("j", "labels", "description")

    assert facts(kept) == (LABELS, "d")
    assert facts(replaced) == ({"wave": "2", "x/y.z": ""}, "d")
    assert facts(removed) == facts(await world.operator.get("j")) == ({}, "")
    assert await check_stored_labels(world) == 0


@pytest.mark.parametrize("status", ["IN_PROGRESS", "PAUSED", "CANCELED", "COMPLETED", "expired"])
async def test_labels_and_description_can_be_changed_in_any_status(
    world: World, status: str
) -> None:
    await world.create(labels=LABELS)
    match status:
        case "PAUSED":
            await world.operator.pause("j")
        case "CANCELED":
            await world.operator.cancel("j")
        case "COMPLETED":
            for device in "ab":
                await world.operator.cancel_execution("j", device)
        case "expired":
            await world.expire()
    before = await world.operator.get("j")

    job = await world.operator.update(
        "j", "labels", "description", labels={"k": "v"}, description="d", etag=before.etag
    )

    assert facts(job) == ({"k": "v"}, "d")
    assert job.etag != before.etag
    assert (job.status, job.updated_at) == (before.status, before.updated_at)
    assert job.execution_counts == before.execution_counts


async def test_rejected_update_changes_no_labels(world: World) -> None:
    await world.create(labels=LABELS)
    await world.operator.pause("j")
    await expect_error("JOB_CHANGED", world.operator.update("j", "labels", etag="1"))
    await world.operator.cancel("j")
    await expect_error(
        "JOB_NOT_UPDATABLE", world.operator.update("j", "labels", "expires_at", labels={"k": "v"})
    )

    assert (await world.operator.get("j")).labels == LABELS


async def test_update_of_labels_does_not_find_the_job_when_a_delete_commits_first(
    world: World,
) -> None:
    await world.create(labels=LABELS)
    await world.operator.cancel("j")

    calls = world.operator.delete("j"), world.operator.update("j", "labels", labels={"k": "v"})
    await world.second_fails("JOB_NOT_FOUND", *calls)

    assert await check_stored_labels(world) == 0


async def test_labels_are_removed_when_the_job_is_deleted_or_past_its_retention(
    world: World,
) -> None:
    for job_id in ("deleted", "old"):
        await world.create(job_id, labels=LABELS)
        await world.operator.cancel(job_id)
    assert await check_stored_labels(world) == 4

    await world.operator.delete("deleted")
    assert await check_stored_labels(world) == 2
    deleted = await world.owner_value("SELECT jobs.apply_retention($1, 'old', 0, 1000)")

    assert deleted
    assert await check_stored_labels(world) == 0
    assert await job_ids(world.operator, selector="team=pumps") == []


@pytest.fixture
async def labeled_jobs(world: World) -> Operator:
    """An operator with five jobs, the newest first: pumps-1, pumps-2, valves-1, test, none."""
    await world.create("none")
    await world.create("test", labels={"test": "", "wave": "1"})
    await world.create("valves-1", labels={"team": "valves", "wave": "1"}, document_type="up")
    await world.create("pumps-2", labels={"team": "pumps", "wave": "2"})
    await world.create("pumps-1", labels={"team": "pumps", "wave": "1"}, document_type="up")
    await world.operator.cancel("pumps-2")
    return world.operator


WAVE_1 = ["pumps-1", "valves-1", "test"]
FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"selector": ""}, ["pumps-1", "pumps-2", "valves-1", "test", "none"]),
    ({"selector": " "}, ["pumps-1", "pumps-2", "valves-1", "test", "none"]),
    ({"selector": "team=pumps"}, ["pumps-1", "pumps-2"]),
    ({"selector": "wave==1"}, ["pumps-1", "valves-1", "test"]),
    ({"selector": 'test=""'}, ["test"]),
    ({"selector": "team in (valves,pumps,fans)"}, ["pumps-1", "pumps-2", "valves-1"]),
    ({"selector": "team"}, ["pumps-1", "pumps-2", "valves-1"]),
    ({"selector": "team!=pumps"}, ["valves-1", "test", "none"]),
    ({"selector": "wave,!test", "job_id_prefix": "pumps-"}, ["pumps-1", "pumps-2"]),
    ({"selector": "team=pumps", "statuses": ["CANCELED", "COMPLETED"]}, ["pumps-2"]),
    ({"selector": "team=pumps", "status": "PAUSED"}, []),
    ({"selector": "!test", "status": "CANCELED"}, ["pumps-2"]),
    ({"selector": "wave=1", "document_type": "up"}, ["pumps-1", "valves-1"]),
    ({"selector": "wave=1", "document_type": "up", "job_id_prefix": "v"}, ["valves-1"]),
    ({"selector": "wave=1", "target_all": True, "created_by": "olivia"}, WAVE_1),
    ({"selector": "wave=1", "created_by": "oscar"}, []),
    ({"selector": "wave=1", "target_device_id": "a"}, []),
    ({"job_id_prefix": "pumps-"}, ["pumps-1", "pumps-2"]),
    ({"job_id_prefix": "pumps-1"}, ["pumps-1"]),
    ({"job_id_prefix": "pumps-1x"}, []),
    ({"job_id_prefix": "P"}, []),
    ({"job_id_prefix": "pumps-", "status": "IN_PROGRESS"}, ["pumps-1"]),
    ({"job_id_prefix": "t", "document_type": "reboot"}, ["test"]),
]


async def test_list_contains_the_jobs_that_match_labels_and_prefix(labeled_jobs: Operator) -> None:
    for filters, expected in FILTERS:
        for limit in (1, 2, 200):
            assert await job_ids(labeled_jobs, limit=limit, **filters) == expected, filters


async def test_labels_and_prefix_select_jobs_with_a_time_range_and_an_offset(
    labeled_jobs: Operator,
) -> None:
    created_at = (await labeled_jobs.get("valves-1")).created_at

    for selector in ("wave", "wave=1"):
        after = await job_ids(labeled_jobs, selector=selector, created_from=created_at)
        before = await job_ids(labeled_jobs, selector=selector, created_until=created_at)
        assert (after[-1], before) == ("valves-1", ["test"])
    until = await job_ids(labeled_jobs, job_id_prefix="t", created_until=created_at)
    assert until == ["test"]
    page = await labeled_jobs.list(selector="wave in (1,2)", offset=1, limit=2)
    assert [job.job_id for job in page.jobs] == ["pumps-2", "valves-1"]


async def test_a_prefix_is_not_a_pattern(world: World) -> None:
    for job_id in ("a.b", "axb", "a_b"):
        await world.create(job_id)

    assert await job_ids(world.operator, job_id_prefix="a.") == ["a.b"]
    assert await job_ids(world.operator, job_id_prefix="a_") == ["a_b"]


async def test_selector_and_prefix_are_rejected_when_they_are_invalid(world: World) -> None:
    selectors = ("team=", "team=pumps,", "group=north", "team=pumps,device_id!=a")
    for selector in (*selectors, "team=" + "v" * 64, "a," * 2048 + "a"):
        assert await invalid_fields(world.operator.list(selector=selector)) == ["selector"]
    for prefix in ("a b", "%", "x" * 129):
        assert await invalid_fields(world.operator.list(job_id_prefix=prefix)) == ["job_id_prefix"]


async def test_page_token_is_rejected_when_the_selector_differs(labeled_jobs: Operator) -> None:
    token = (await labeled_jobs.list(selector="team=pumps", limit=1)).next_page_token

    for other in ({"selector": "team=valves"}, {"selector": "team=pumps", "job_id_prefix": "p"}):
        await expect_error("INVALID_PAGE_TOKEN", labeled_jobs.list(page_token=token, **other))


async def test_jobs_with_the_same_labels_in_another_tenant_are_not_listed(
    world: World, labeled_jobs: Operator
) -> None:
    other = world.server.operator(f"{labeled_jobs.tenant}-2")
    await world.database.add_devices(other.tenant, ["a"])
    await other.create(job_id="pumps-3", target_all=True, labels={"team": "pumps", "wave": "1"})

    for filters in (
        {"selector": "wave=1,team=pumps"},
        {"selector": "team"},
        {"job_id_prefix": "p"},
    ):
        assert await job_ids(other, **filters) == ["pumps-3"]
        assert "pumps-3" not in await job_ids(labeled_jobs, **filters)


async def test_pages_contain_each_job_that_keeps_its_label_once_when_others_change(
    world: World,
) -> None:
    for n in range(12):
        await world.create(f"kept{n:02}", labels={"team": "pumps"})
        await world.create(f"changed{n:02}", labels={"team": "pumps", "n": f"{n}"})
        await world.create(f"added{n:02}")

    seen: list[str] = []
    page = pb.ListJobsResponse()
    for n in range(12):
        page = await world.operator.list(
            selector="team in (pumps,fans)", limit=3, page_token=page.next_page_token
        )
        seen += [job.job_id for job in page.jobs]
        if not page.next_page_token:
            break
        # Labels before, on and after the current page.
        await world.operator.update(f"changed{n:02}", "labels", labels={"team": "valves"})
        await world.operator.update(f"changed{11 - n:02}", "labels", labels={"team": "fans"})
        await world.operator.update(f"added{n:02}", "labels", labels={"team": "pumps"})
        await world.operator.update(f"kept{n:02}", "labels", labels={"team": "pumps", "n": "1"})
        await world.create(f"new{n}", labels={"team": "pumps"})

    kept = [f"kept{n:02}" for n in reversed(range(12))]
    assert [job_id for job_id in seen if job_id.startswith("kept")] == kept
    assert len(seen) == len(set(seen))
    await check_stored_labels(world)


def matches(labels: Mapping[str, str], term: tuple[str, str, list[str]]) -> bool:
    """The meaning of a term of a selector."""
    key, operator, values = term
    found = key in labels if "exists" in operator else labels.get(key) in values
    return found != operator.startswith("not")


def term_text(term: tuple[str, str, list[str]]) -> str:
    """A term in the grammar of selectors."""
    key, operator, values = term
    if "exists" in operator:
        return key if operator == "exists" else f"!{key}"
    return f"{key} {operator} ({','.join(json.dumps(v, ensure_ascii=False) for v in values)})"


@pytest.mark.slow
async def test_selectors_select_the_same_jobs_as_a_model_when_labels_are_random(
    world: World,
) -> None:
    choice = random.Random(1)  # noqa: S311 - not for security
    keys, values = ["a", "b.c", "x/y", "d"], ["", "1", "a,b", 'q"\\', "é🚀", "=", "a b"]
    jobs: dict[str, dict[str, str]] = {}

    def random_labels() -> dict[str, str]:
        return {key: choice.choice(values) for key in choice.sample(keys, choice.randint(0, 4))}

    for n in range(40):
        job_id = f"j{n:02}"
        jobs[job_id] = random_labels()
        await world.create(job_id, labels=jobs[job_id])
    for job_id in choice.sample(sorted(jobs), 15):
        jobs[job_id] = random_labels()
        await world.operator.update(job_id, "labels", labels=jobs[job_id])
    canceled = set(choice.sample(sorted(jobs), 15))
    for job_id in canceled:
        await world.operator.cancel(job_id)
    for job_id in choice.sample(sorted(canceled), 5):
        await world.operator.delete(job_id)
        del jobs[job_id]
    await check_stored_labels(world)

    for _ in range(80 * SCALE):
        terms = [
            (
                choice.choice(keys),
                choice.choice(("in", "in", "notin", "exists", "not exists")),
                choice.sample(values, choice.randint(1, 3)),
            )
            for _ in range(choice.randint(1, 4))
        ]
        statuses = choice.choice([[], ["CANCELED"], ["IN_PROGRESS", "PAUSED"]])
        selector = ",".join(map(term_text, terms))
        expected = [
            job_id
            for job_id, labels in sorted(jobs.items(), reverse=True)
            if all(matches(labels, term) for term in terms)
            and (not statuses or ("CANCELED" in statuses) == (job_id in canceled))
        ]
        limit = choice.choice((3, 200))
        found = await job_ids(world.operator, selector=selector, statuses=statuses, limit=limit)
        assert found == expected, selector
