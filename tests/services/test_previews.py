"""PreviewTarget, validate_only, and CreateJob with an expected_target_digest."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Fleet, Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server

DEVICES = [f"d{n:02}" for n in range(30)]
CANARY = pb.Rollout(
    stages=[pb.Stage(selector="ring=0", allow_empty=True), pb.Stage(remainder=True)]
)


@pytest.fixture
async def fleet(database: Database, server: Server, tenant: str) -> Fleet:
    """A caller of FleetService. 30 devices; those with an even number have the model a."""
    await database.add_devices(tenant, DEVICES)
    await database.add_labels(tenant, {device: {"model": "a"} for device in DEVICES[::2]})
    return server.fleet(tenant)


@pytest.fixture
async def session(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A session of the request role, in which tests hold a transaction open."""
    connection = await asyncpg.connect(database.request_dsn)
    yield connection
    await connection.close()


async def test_preview_shows_the_devices_and_the_sizes_of_the_stages(
    database: Database, fleet: Fleet
) -> None:
    await database.add_labels(fleet.tenant, {"d00": {"model": "a", "ring": "0"}})

    preview = await fleet.preview(target_selector="model=a", rollout=CANARY)

    assert preview.device_count == 15
    assert preview.stage_sizes == [1, 14]
    assert preview.device_ids == DEVICES[::2]
    assert (await fleet.preview(target_all=True)).device_ids == DEVICES[:20]


async def test_validate_only_returns_the_same_as_a_preview(
    fleet: Fleet, operator: Operator
) -> None:
    target = {"target_selector": "model!=a", "rollout": CANARY}

    response = await operator.create(job_id="j", **target, validate_only=True)

    assert response.preview == await fleet.preview(**target)
    assert response.execution_count == response.preview.device_count == 15


async def test_preview_names_the_jobs_that_are_pending_on_its_devices(
    fleet: Fleet, operator: Operator
) -> None:
    for job_id, device in (("b", "d00"), ("a", "d00"), ("c", "d02"), ("d", "d01")):
        await operator.create(job_id=job_id, target_device_id=device)
    for job_id in ("paused", "canceled"):
        await operator.create(job_id=job_id, target_device_id="d00")
    await operator.pause("paused")
    await operator.cancel("canceled")

    preview = await fleet.preview(target_selector="model=a")

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


async def test_preview_fails_when_the_job_does_not_exist(fleet: Fleet) -> None:
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND") as failure:
        await fleet.preview(target_failed_in=pb.FailedIn(job_id="unknown"))

    assert failure.metadata == {"jobId": "unknown"}


async def test_preview_fails_when_the_request_is_malformed(fleet: Fleet) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await fleet.preview(
            target_selector="=", rollout=pb.Rollout(stages=[pb.Stage(selector="!")])
        )

    assert list(failure.violations) == ["target_selector", "rollout.stages[0].selector"]


# Holds back CreateJob with the same job_id until its transaction ends.
CREATE_J = """
    SELECT jobs.create_job($1, 'j', '{"document_type": "reboot", "target_all": true,
        "expires_in_hours": 24}', '{}', NULL, 99, 99, 24)
"""


async def test_one_preview_of_a_tenant_runs_at_a_time(database: Database, fleet: Fleet) -> None:
    async with database.owner.transaction():
        # Briefly: the server's check of the database waits for it, too.
        await database.owner.execute("LOCK TABLE jobs.devices")
        running = asyncio.create_task(fleet.preview(target_selector="model"))
        await database.wait_for_blocked_sessions(1)
        with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as failure:
            await fleet.preview(target_all=True)

    assert failure.retry_after == 1
    assert (await running).device_count == 15
    assert (await fleet.preview(target_all=True)).device_count == 30


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_one_call_of_a_tenant_evaluates_a_target_at_a_time(
    database: Database,
    fleet: Fleet,
    operator: Operator,
    server: Server,
    session: asyncpg.Connection,
) -> None:
    await operator.create(job_id="first", target_selector="model")
    many = [f"e{n:04}" for n in range(1001)]
    transaction = session.transaction()
    await transaction.start()
    await session.execute(CREATE_J, fleet.tenant)
    running = asyncio.create_task(operator.create(job_id="j", target_selector="model"))
    await database.wait_for_blocked_sessions(1)

    for request in (
        {"target_all": True, "validate_only": True},
        {"target_selector": "model", "job_id": "second"},
        {"target_failed_in": pb.FailedIn(job_id="first")},
        {"target_device_ids": pb.DeviceIds(device_ids=many)},
        {"target_all": True, "rollout": CANARY},
    ):
        with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as failure:
            await operator.create(**request)
        assert failure.retry_after == 1
    with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"):
        await fleet.preview(target_all=True)
    # A repeated request, other targets and other tenants do not wait.
    repeated = await operator.create(job_id="first", target_selector="model")
    assert repeated.execution_count == 15
    await operator.create(target_all=True)
    await operator.create(target_device_ids=pb.DeviceIds(device_ids=DEVICES))
    assert (await fleet.preview(target_device_id="d00")).device_count == 1
    assert (await server.fleet("other").preview(target_all=True)).device_count == 0
    await transaction.rollback()

    assert (await running).execution_count == 15
    assert (await operator.create(job_id="second", target_selector="model")).execution_count == 15


@pytest.mark.parametrize(
    "target",
    [
        {"target_selector": "model=a"},
        {"target_selector": "model=a", "rollout": CANARY},
        {"target_all": True},
        {"target_device_id": "d00"},
        {"target_device_ids": pb.DeviceIds(device_ids=DEVICES[:3]), "rollout": CANARY},
    ],
)
async def test_job_is_created_when_the_target_is_as_in_its_preview(
    fleet: Fleet, operator: Operator, target: dict[str, Any]
) -> None:
    preview = await fleet.preview(**target)

    response = await operator.create(
        job_id="j", **target, expected_target_digest=preview.target_digest
    )

    assert response.execution_count == preview.device_count


async def test_create_fails_when_labels_changed_after_the_preview(
    database: Database, fleet: Fleet, operator: Operator
) -> None:
    preview = await fleet.preview(target_selector="model=a")
    await database.add_labels(fleet.tenant, {"d01": {"model": "a"}})

    with expect_failure(StatusCode.ABORTED, "TARGET_CHANGED") as failure:
        await operator.create(
            job_id="j",
            target_selector="model=a",
            expected_target_digest=preview.target_digest,
        )

    assert failure.metadata == {"jobId": "j", "deviceCount": "16", "expectedCount": "15"}
    assert (await operator.list()).jobs == []


async def test_create_fails_when_another_stage_claims_a_device(
    database: Database, fleet: Fleet, operator: Operator
) -> None:
    target = {"target_selector": "model=a", "rollout": CANARY}
    preview = await fleet.preview(**target)
    await database.add_labels(fleet.tenant, {"d00": {"model": "a", "ring": "0"}})

    for validate_only in (True, False):
        with expect_failure(StatusCode.ABORTED, "TARGET_CHANGED") as failure:
            await operator.create(
                job_id="j",
                **target,
                expected_target_digest=preview.target_digest,
                validate_only=validate_only,
            )
        assert failure.metadata["deviceCount"] == failure.metadata["expectedCount"] == "15"


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_create_fails_when_labels_change_while_it_waits(
    database: Database, fleet: Fleet, operator: Operator, session: asyncpg.Connection
) -> None:
    preview = await fleet.preview(target_selector="model=a")
    # Another call with the same job_id, whose transaction is open.
    transaction = session.transaction()
    await transaction.start()
    await session.execute(CREATE_J, fleet.tenant)
    create = asyncio.create_task(
        operator.create(
            job_id="j", target_selector="model=a", expected_target_digest=preview.target_digest
        )
    )
    await database.wait_for_blocked_sessions(1)
    await database.add_labels(fleet.tenant, {"d00": {"model": "b"}})
    await transaction.rollback()

    with expect_failure(StatusCode.ABORTED, "TARGET_CHANGED") as failure:
        await create

    assert failure.metadata["deviceCount"] == "14"


async def test_repeated_create_ignores_the_expected_digest(
    database: Database, fleet: Fleet, operator: Operator
) -> None:
    preview = await fleet.preview(target_selector="model=a")
    target = {"target_selector": "model=a"}
    first = await operator.create(
        job_id="j", **target, expected_target_digest=preview.target_digest
    )
    await database.add_labels(fleet.tenant, {"d01": {"model": "a"}})

    again = await operator.create(
        job_id="j", **target, expected_target_digest=preview.target_digest
    )

    assert again == first == await operator.create(job_id="j", **target)
