"""PreviewTarget, validate_only, and CreateJob with an expected_target_digest."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Fleet, Operator
from tests.support.database import Database
from tests.support.failures import expect_error, invalid_fields
from tests.support.postgres import connected
from tests.support.staged_jobs import rollout
from tests.support.world import World

DEVICES = [f"d{n:02}" for n in range(30)]
CANARY = rollout({"selector": "ring=0", "allow_empty": True}, {"remainder": True})
MODEL_A = {"target_selector": "model=a"}


@pytest.fixture
async def fleet(world: World) -> Fleet:
    """A caller of FleetService. 30 devices; those with an even number have the model a."""
    await world.add_devices(DEVICES)
    await label(world, "a", *DEVICES[::2])
    return world.fleet


async def label(world: World, model: str, *devices: str, **labels: str) -> None:
    of_each = {"model": model, **labels}
    await world.database.add_labels(world.tenant, dict.fromkeys(devices, of_each))


async def test_preview_shows_devices_and_the_sizes_of_stages(world: World, fleet: Fleet) -> None:
    await label(world, "a", "d00", ring="0")

    preview = await fleet.preview(**MODEL_A, rollout=CANARY)

    assert preview.device_count == 15
    assert preview.stage_sizes == [1, 14]
    assert preview.device_ids == DEVICES[::2]
    assert (await fleet.preview(target_all=True)).device_ids == DEVICES[:20]


async def test_validate_only_returns_the_same_preview(fleet: Fleet, operator: Operator) -> None:
    target = {"target_selector": "model!=a", "rollout": CANARY}

    response = await operator.create(job_id="j", **target, validate_only=True)

    assert response.preview == await fleet.preview(**target)
    assert response.execution_count == response.preview.device_count == 15


async def test_preview_names_pending_jobs_of_its_devices(fleet: Fleet, operator: Operator) -> None:
    for job_id, device in (("b", "d00"), ("a", "d00"), ("c", "d02"), ("d", "d01")):
        await operator.create(job_id=job_id, target_device_id=device)
    for job_id in ("paused", "canceled"):
        await operator.create(job_id=job_id, target_device_id="d00")
    await operator.pause("paused")
    await operator.cancel("canceled")

    preview = await fleet.preview(**MODEL_A)

    assert preview.overlapping_job_ids == ["a", "b", "c"]
    response = await operator.create(job_id="a", target_device_id="d00", validate_only=True)
    assert response.preview.overlapping_job_ids == ["b"]


async def test_preview_names_at_most_20_jobs(fleet: Fleet, operator: Operator) -> None:
    for n in range(25):
        await operator.create(job_id=f"j{n:02}", target_device_id="d00")

    preview = await fleet.preview(target_device_id="d00")

    assert len(preview.overlapping_job_ids) == 20


@pytest.mark.parametrize(
    "target",
    [
        {"target_selector": "model=b"},
        {"target_group_id": "unknown"},
        {"target_device_id": "unknown"},
        {"target_failed_in": pb.FailedIn(job_id="first")},
    ],
)
async def test_preview_of_a_target_without_devices_is_empty(
    fleet: Fleet, operator: Operator, target: dict[str, Any]
) -> None:
    await operator.create(job_id="first", target_all=True)

    preview = await fleet.preview(**target, rollout=CANARY)

    assert preview == pb.TargetPreview(
        stage_sizes=[0, 0], target_digest="0-0000000000000000-0000000000000000"
    )


async def test_preview_fails_when_the_job_is_missing_or_the_request_malformed(fleet: Fleet) -> None:
    missing = fleet.preview(target_failed_in=pb.FailedIn(job_id="unknown"))
    failure = await expect_error("JOB_NOT_FOUND", missing)
    assert failure.metadata == {"jobId": "unknown"}

    malformed = fleet.preview(target_selector="=", rollout=rollout({"selector": "!"}))
    assert await invalid_fields(malformed) == ["target_selector", "rollout.stages[0].selector"]


@asynccontextmanager
async def create_held_back(world: World) -> AsyncIterator[None]:
    """Let CreateJob of the job "j" wait until the block ends, and find no such job then."""
    async with connected(world.database.request_dsn) as session:
        transaction = session.transaction()
        await transaction.start()
        await session.execute(
            'SELECT jobs.create_job($1, \'j\', \'{"document_type": "reboot", "target_all": true,'
            " \"expires_in_hours\": 24}', '{}', NULL, 99, 99, 24)",
            world.tenant,
        )
        yield
        await transaction.rollback()


async def test_one_preview_of_a_tenant_runs_at_a_time(database: Database, fleet: Fleet) -> None:
    async with database.owner.transaction():
        # Briefly: the server's check of the database waits for it, too.
        await database.owner.execute("LOCK TABLE jobs.devices")
        running = await database.blocked_in(
            "preview_target", fleet.preview(target_selector="model")
        )
        failure = await expect_error("LIMIT_EXCEEDED", fleet.preview(target_all=True))

    assert failure.retry_after == 1
    assert (await running).device_count == 15
    assert (await fleet.preview(target_all=True)).device_count == 30


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_one_call_of_a_tenant_evaluates_targets_at_a_time(world: World, fleet: Fleet) -> None:
    operator, target = world.operator, {"target_selector": "model"}
    await operator.create(job_id="first", **target)
    async with create_held_back(world):
        running = await world.blocked(operator.create(job_id="j", **target))

        for request in (
            {"target_all": True, "validate_only": True},
            {"target_device_id": "d00", "replaces_job_id": "first", "validate_only": True},
            {"target_selector": "model", "job_id": "second"},
            {"target_failed_in": pb.FailedIn(job_id="first")},
            {"target_device_ids": pb.DeviceIds(device_ids=[f"e{n:04}" for n in range(1001)])},
            {"target_all": True, "rollout": CANARY},
        ):
            failure = await expect_error("LIMIT_EXCEEDED", operator.create(**request))
            assert failure.retry_after == 1
        await expect_error("LIMIT_EXCEEDED", fleet.preview(target_all=True))
        # A repeated request, other targets and other tenants do not wait.
        assert (await operator.create(job_id="first", **target)).execution_count == 15
        await operator.create(target_all=True)
        await operator.create(target_device_ids=pb.DeviceIds(device_ids=DEVICES))
        assert (await fleet.preview(target_device_id="d00")).device_count == 1
        assert (await world.server.fleet("other").preview(target_all=True)).device_count == 0

    assert (await running).execution_count == 15
    assert (await operator.create(job_id="second", **target)).execution_count == 15


async def create(
    operator: Operator, preview: pb.TargetPreview, **fields: Any
) -> pb.CreateJobResponse:
    digest = preview.target_digest
    return await operator.create(job_id="j", expected_target_digest=digest, **fields)


async def test_create_fails_when_labels_changed_since_preview(world: World, fleet: Fleet) -> None:
    preview = await fleet.preview(**MODEL_A)
    await label(world, "a", "d01")

    failure = await expect_error("TARGET_CHANGED", create(world.operator, preview, **MODEL_A))

    assert failure.metadata == {"jobId": "j", "deviceCount": "16", "expectedCount": "15"}
    assert (await world.operator.list()).jobs == []


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_create_fails_when_labels_change_while_it_waits(world: World, fleet: Fleet) -> None:
    preview = await fleet.preview(**MODEL_A)
    async with create_held_back(world):
        changed = await world.blocked(create(world.operator, preview, **MODEL_A))
        await label(world, "b", "d00")

    failure = await expect_error("TARGET_CHANGED", changed)

    assert failure.metadata["deviceCount"] == "14"


async def test_repeated_create_ignores_the_expected_digest(world: World, fleet: Fleet) -> None:
    preview = await fleet.preview(**MODEL_A)
    first = await create(world.operator, preview, **MODEL_A)
    await label(world, "a", "d01")

    assert await create(world.operator, preview, **MODEL_A) == first
    assert await world.operator.create(job_id="j", **MODEL_A) == first
