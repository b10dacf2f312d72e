"""StartNextExecutions: each device gets what StartNextExecution returns; alone and in races."""

import asyncio
import itertools
from random import Random
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.error_reason_pb2 import ErrorReason

from jobs_grpc.errors import DatabaseUnavailable
from jobs_grpc.services.start_next import start_response
from tests.support.callers import ended_of
from tests.support.failures import expect_error, invalid_fields
from tests.support.server import Server
from tests.support.staged_jobs import rollout
from tests.support.world import World

IN_PROGRESS = pb.JobExecution.IN_PROGRESS
DEVICES = ["fan", "pump", "valve"]


@pytest.fixture(autouse=True)
async def devices(world: World) -> None:
    await world.add_devices(DEVICES)


async def test_each_device_gets_its_next_execution_in_the_order_of_the_request(
    world: World,
) -> None:
    await world.create("all", document_params={"n": 1})
    await world.create("urgent", target_device_id="pump", priority=pb.Job.HIGH)
    await world.device("fan").update("all", "SUCCEEDED")
    await world.device("valve").start("all", status_details={"percent": 5})

    fan, valve, pump = await world.server.bridge(world.tenant, "broker").start_next(
        "fan", "valve", "pump"
    )

    assert not fan.HasField("execution")
    assert 30 <= fan.poll_after.ToTimedelta().total_seconds() < 90
    assert valve.execution == await world.device("valve").get("all")
    assert valve.execution.document_params == {"n": 1}
    assert valve.execution.status_details == {"percent": 5}
    assert (pump.execution.job_id, pump.execution.status) == ("urgent", IN_PROGRESS)
    assert not any(each.HasField("poll_after") for each in (valve, pump))
    assert not any(each.HasField("error") for each in (fan, valve, pump))
    (attempt,) = await world.operator.attempts("urgent", "pump")
    assert attempt.reported_by == "broker"
    assert await world.bridge.start_next_jobs("pump", "valve") == ["urgent", "all"]
    assert await world.operator.counts("all") == {"in_progress": 1, "queued": 1, "succeeded": 1}


async def test_a_device_learns_what_others_ended(world: World) -> None:
    await world.create()
    await world.create("next", target_device_id="valve")
    await world.bridge.start_next("pump", "valve")
    await world.operator.cancel("j", force=True)

    pump, valve, fan = await world.bridge.start_next("pump", "valve", "fan")

    assert ended_of(pump) == ended_of(valve) == [("j", 1, "JOB_CANCELED")]
    assert ended_of(fan) == []
    assert valve.execution.job_id == "next"
    await world.pump.acknowledge(("j", 1))
    assert ended_of((await world.bridge.start_next("pump"))[0]) == []


async def test_an_invalid_id_is_the_error_of_one_device(world: World) -> None:
    await world.create()

    results = await world.bridge.start_next("", "pump", "a\n", "x" * 257, "ü" * 256, "unknown")

    errors = [
        ErrorReason.Name(each.error.reason) if each.HasField("error") else None for each in results
    ]
    assert errors == ["INVALID_FIELD", None, "INVALID_FIELD", "INVALID_FIELD", None, None]
    problem = "device_id must be 1–256 characters without control characters"
    assert results[0].error.message == problem
    assert results[1].execution.job_id == "j"
    assert results[5].HasField("poll_after")


async def test_call_is_rejected_as_a_whole_when_devices_are_missing_repeated_or_too_many(
    world: World,
) -> None:
    await world.create()
    for device_ids in ([], ["pump", "fan", "pump"], [f"d{n}" for n in range(101)]):
        assert await invalid_fields(world.bridge.start_next(*device_ids)) == ["device_ids"]

    assert await world.operator.counts() == {"queued": 3}


async def test_device_starts_only_its_own_executions(world: World) -> None:
    await world.create()
    request = device_pb.StartNextExecutionsRequest(device_ids=["fan", "pump"])

    response = await world.pump.call(request, device_pb.StartNextExecutionsResponse)

    fan, pump = response.results
    assert fan.error.message == "device_id must be the ID of the calling device"
    assert pump.execution.job_id == "j"
    assert await world.operator.counts() == {"queued": 2, "in_progress": 1}


async def test_devices_of_other_tenants_are_not_started(world: World, server: Server) -> None:
    await world.create()

    assert await server.bridge("another-tenant").start_next_jobs(*DEVICES) == [None] * 3
    assert await world.operator.counts() == {"queued": 3}
    stub: Any = world.bridge.stub
    request = device_pb.StartNextExecutionsRequest(device_ids=DEVICES)
    for role in ("viewer", "operator", "admin"):
        caller = (("x-tenant-id", world.tenant), ("x-roles", role))
        await expect_error("ROLE_REQUIRED", stub.StartNextExecutions(request, metadata=caller))


async def test_at_most_max_in_progress_devices_start_and_the_others_take_another_job(
    world: World,
) -> None:
    await world.create("j", "second", rollout=rollout({"remainder": True}, max_in_progress=1))

    jobs = await world.bridge.start_next_jobs(*DEVICES)

    assert sorted(map(str, jobs)) == ["None", "j", "second"]
    assert await world.bridge.start_next_jobs(*DEVICES) == jobs


async def test_paused_held_and_waiting_executions_are_skipped(world: World) -> None:
    await world.create("paused")
    await world.operator.pause("paused")
    await world.create("held", rollout=rollout({"device_count": 1}, {"remainder": True}))
    released = [
        each.device_id
        for each in (await world.operator.executions("held")).executions
        if each.status == pb.JobExecution.QUEUED
    ]
    expected = ["held" if device in released else None for device in DEVICES]

    assert await world.bridge.start_next_jobs(*DEVICES) == expected
    assert sum(job is not None for job in expected) == 1


async def test_response_without_room_leaves_executions_for_the_next_call(world: World) -> None:
    """A page of three items has at most 4,096 elements."""
    await world.create(document_params={"list": [0] * 1500})

    results = await world.bridge.start_next(*DEVICES)

    assert [each.HasField("execution") for each in results] == [True, True, False]
    assert results[2].HasField("poll_after")
    assert not results[2].poll_after.ToTimedelta()
    assert await world.operator.counts() == {"in_progress": 3}
    assert await world.bridge.start_next_jobs("valve") == ["j"]


async def test_devices_of_a_locked_job_wait_and_the_others_start(world: World) -> None:
    await world.create("j", target_device_id="pump")
    await world.create("other", target_device_ids=pb.DeviceIds(device_ids=["fan", "valve"]))
    async with world.lock_held():
        starting = await world.blocked(world.bridge.start_next_jobs(*DEVICES))
        assert await world.operator.counts("other") == {"in_progress": 2}

    assert await starting == ["other", "j", "other"]


async def test_batches_of_two_servers_start_each_device_once(world: World) -> None:
    await world.create("first", "second")
    async with world.on_another_server() as other:
        async with world.lock_held("first"):
            calls = [
                asyncio.create_task(world.bridge.start_next(*DEVICES)),
                asyncio.create_task(other.bridge.start_next(*reversed(DEVICES))),
            ]
            await world.database.wait_for_blocked_sessions(2)
        one, two = [await call for call in calls]

    assert [each.execution for each in one] == [each.execution for each in reversed(two)]
    assert {(each.execution.job_id, each.execution.version) for each in one} == {("first", 2)}
    assert await world.operator.counts("second") == {"queued": 3}


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
@pytest.mark.parametrize(
    ("statement", "counts"),
    [
        ("SELECT jobs.cancel_job($1, 'j', 'no')", {"rejected": 2}),
        ("SELECT jobs.cancel_job($1, 'j', 'no', p_force => true)", {"rejected": 2}),
        ("SELECT jobs.pause_job($1, 'j', '', NULL, '')", {"queued": 2}),
    ],
    ids=["cancel", "force", "pause"],
)
async def test_devices_take_another_job_when_theirs_is_canceled_or_paused_meanwhile(
    world: World, statement: str, counts: dict[str, int]
) -> None:
    await world.create(target_device_ids=pb.DeviceIds(device_ids=["fan", "pump"]))
    await world.create("next", target_device_ids=pb.DeviceIds(device_ids=["pump", "valve"]))

    starting = await world.wait_for_commit(world.bridge.start_next_jobs(*DEVICES), statement)

    assert await starting == [None, "next", "next"]
    assert await world.operator.counts() == counts


async def test_overlapping_calls_start_one_execution_of_each_device_while_jobs_end(
    world: World,
) -> None:
    """Calls through two servers, with devices and jobs in all orders."""
    devices = [f"d{n:02}" for n in range(20)]
    await world.add_devices(devices)
    await world.create(*(f"j{n}" for n in range(5)))
    random = Random(1)  # noqa: S311 - repeatable on purpose
    async with world.on_another_server() as other:
        calls = asyncio.gather(
            *(
                each.bridge.start_next_jobs(*random.sample(devices, 15))
                for each in (world, other) * 12
            )
        )
        await world.operator.cancel("j0", force=True)
        await world.operator.cancel("j1")
        await world.operator.pause("j2")
        assert None not in itertools.chain.from_iterable(await calls)
        last = await other.bridge.start_next_jobs(*devices)

    running = await world.rows(
        "SELECT device_id, job_id FROM jobs.execution_states"
        " WHERE tenant_id = $1 AND status = 'IN_PROGRESS' ORDER BY device_id"
    )
    assert [tuple(row) for row in running] == list(zip(devices, last, strict=True))
    assert "j0" not in last


async def test_error_of_the_service_fails_the_call_and_a_bug_only_one_device() -> None:
    async def yield_now() -> None:
        pass

    bug = await start_response([KeyError()], dict, yield_now)
    assert ErrorReason.Name(bug.results[0].error.reason) == "INTERNAL"
    with pytest.raises(DatabaseUnavailable):
        await start_response([KeyError(), DatabaseUnavailable()], dict, yield_now)
