"""CreateJob for a selector, a list of devices, or the devices that failed in another job."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.failures import expect_error, invalid_fields
from tests.support.staged_jobs import rollout
from tests.support.world import World

DEVICES = [f"d{n}" for n in range(6)]
REST: dict[str, Any] = {"remainder": True}
FIRST = "rollout.stages[0].selector"
MODEL_A = {device: {"model": "a"} for device in DEVICES[:3]}


def ids(*devices: str) -> pb.DeviceIds:
    return pb.DeviceIds(device_ids=devices)


def failed_in(**fields: Any) -> dict[str, pb.FailedIn]:
    return {"target_failed_in": pb.FailedIn(job_id="j", **fields)}


async def devices_of(operator: Operator, job_id: str = "j") -> list[str]:
    return [e.device_id for e in (await operator.executions(job_id)).executions]


@pytest.fixture(autouse=True)
async def fleet(world: World) -> None:
    await world.add_devices(DEVICES)
    await world.add_devices(["d2", "d3"], group="north")
    await world.database.add_labels(world.tenant, MODEL_A)


async def test_job_shows_the_canonical_selector(operator: Operator) -> None:
    await operator.create(job_id="j", target_selector=" model == a , device_id in (d1, d0)")

    (listed,) = (await operator.list()).jobs
    assert listed.target_selector == "device_id in (d0,d1),model=a"
    assert (await operator.get("j")).target_selector == listed.target_selector


async def test_selector_ignores_members_of_groups_that_are_not_devices(world: World) -> None:
    await world.execute(
        "INSERT INTO public.device_group_members (tenant_id, group_id, device_id)"
        " VALUES ($1, 'north', 'unknown')"
    )

    await world.create(target_selector="group=north")

    assert await devices_of(world.operator) == ["d2", "d3"]


async def test_create_is_repeated_when_the_selector_has_another_spelling(world: World) -> None:
    first = await world.create(target_selector="model=a,group!=north")
    await world.database.add_labels(world.tenant, {"d5": {"model": "a"}})

    assert await world.create(target_selector="group notin (north), model=a") == first
    await expect_error("JOB_ALREADY_EXISTS", world.create(target_selector="model=a"))


async def test_create_fails_when_no_device_matches_the_selector(world: World) -> None:
    failure = await expect_error("TARGET_EMPTY", world.create(target_selector="model=b"))

    assert failure.message == "No device matches model=b"
    assert (await world.operator.list()).jobs == []


@pytest.mark.parametrize(
    ("fields", "violations"),
    [
        ({"target_selector": ""}, ["target"]),
        ({"target_selector": " "}, ["target_selector"]),
        ({"target_selector": "model=a,"}, ["target_selector"]),
        ({"target_selector": "a," * 40 + "a"}, ["target_selector"]),
        ({"target_selector": "a" * 4097}, ["target_selector"]),
        ({"target_device_ids": ids()}, ["target_device_ids.device_ids"]),
        ({"target_device_ids": ids("a\n")}, ["target_device_ids.device_ids[0]"]),
        ({"target_device_ids": ids(*["a"] * 10_001)}, ["target_device_ids.device_ids"]),
        ({"target_failed_in": pb.FailedIn()}, ["target_failed_in.job_id"]),
        (failed_in(statuses=[pb.JobExecution.SUCCEEDED]), ["target_failed_in.statuses"]),
        (failed_in(selector="="), ["target_failed_in.selector"]),
        ({"target_all": True, "expected_target_digest": "12"}, ["expected_target_digest"]),
        *(
            ({"target_all": True, "rollout": rollout({"selector": selector}, REST)}, [FIRST])
            for selector in (" ", "a" * 513, "!")
        ),
        ({"target_all": True, "rollout": rollout(*[{"selector": "a"}] * 11)}, ["rollout.stages"]),
    ],
)
async def test_create_fails_when_the_target_is_malformed(
    operator: Operator, fields: dict[str, Any], violations: list[str]
) -> None:
    assert await invalid_fields(operator.create(**fields)) == violations


async def test_job_has_each_device_of_the_list_once(operator: Operator) -> None:
    response = await operator.create(job_id="j", target_device_ids=ids("d4", "d1", "d4"))

    assert response.execution_count == 2
    assert await devices_of(operator) == ["d1", "d4"]
    job = await operator.get("j")
    assert (job.WhichOneof("target"), job.target_device_count) == ("target_device_count", 2)


async def test_create_is_repeated_when_the_list_has_another_order(operator: Operator) -> None:
    first = await operator.create(job_id="j", target_device_ids=ids("d4", "d1"))

    assert await operator.create(job_id="j", target_device_ids=ids("d1", "d4", "d1")) == first
    other = operator.create(job_id="j", target_device_ids=ids("d1", "d5"))
    await expect_error("JOB_ALREADY_EXISTS", other)


@pytest.mark.parametrize("validate_only", [False, True])
async def test_create_names_20_unknown_devices(operator: Operator, validate_only: bool) -> None:
    unknown = [f"x{n:02}" for n in range(30)]

    target = ids("d0", *unknown)
    create = operator.create(job_id="j", target_device_ids=target, validate_only=validate_only)
    failure = await expect_error("DEVICE_NOT_FOUND", create)

    assert failure.message == f"Devices not found: {', '.join(unknown[:20])}, and 10 more"
    assert (await operator.list()).jobs == []


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["d0", "d1", "d2", "d3"]),
        ({"statuses": ["FAILED"]}, ["d0", "d1"]),
        ({"statuses": ["FAILED", "TIMED_OUT"], "failure_codes": ["disk", ""]}, ["d0", "d2"]),
        ({"statuses": ["REJECTED"]}, ["d3"]),
        ({"selector": "group=north,model"}, ["d2"]),
    ],
)
async def test_job_has_the_devices_that_failed_in_another_job(
    world: World, filters: dict[str, Any], expected: list[str]
) -> None:
    await world.create(in_progress_timeout_minutes=1)
    await world.device("d0").update("j", "FAILED", failure_code="disk")
    await world.device("d1").update("j", "FAILED", failure_code="network")
    await world.device("d2").start("j")
    await world.make_overdue()
    await world.sweep()
    await world.device("d4").update("j", "SUCCEEDED")
    await world.device("d5").start("j")
    # d3 becomes REJECTED without a row of its own.
    await world.operator.cancel("j")

    await world.create("k", **failed_in(**filters))

    assert await devices_of(world.operator, "k") == expected
    shown = (await world.operator.get("k")).target_failed_in
    defaults = {"statuses": ["FAILED", "TIMED_OUT", "REJECTED"]}
    codes = sorted(filters.get("failure_codes", []))
    assert shown == pb.FailedIn(job_id="j", **(defaults | filters | {"failure_codes": codes}))


async def test_devices_that_were_removed_are_no_targets(world: World) -> None:
    await world.create()
    await world.operator.cancel("j")
    await world.database.remove_devices(world.tenant, DEVICES[1:])

    await world.create("k", **failed_in())

    assert await devices_of(world.operator, "k") == ["d0"]


@pytest.mark.parametrize("job_id", ["unknown", "j"])
async def test_create_fails_when_the_failed_job_is_missing(operator: Operator, job_id: str) -> None:
    create = operator.create(job_id="j", target_failed_in=pb.FailedIn(job_id=job_id))
    failure = await expect_error("JOB_NOT_FOUND", create)

    assert failure.metadata == {"jobId": job_id}


async def test_stages_of_selectors_and_groups_claim_devices_in_order(operator: Operator) -> None:
    stages = rollout(
        {"device_count": 1},
        {"selector": "model = a,device_id!=d0"},
        {"group_id": "north"},
        {"selector": "device_id=d9", "allow_empty": True},
        {"remainder": True},
    )

    await operator.create(job_id="j", target_all=True, rollout=stages)

    job = await operator.get("j")
    assert [stage.total_executions for stage in job.stages] == [1, 2, 1, 0, 2]
    assert {e.device_id for e in job.executions if e.stage == 1} == {"d1", "d2"}
    assert [e.device_id for e in job.executions if e.stage == 2] == ["d3"]
    assert job.rollout.stages[1].selector == "device_id!=d0,model=a"


async def test_create_fails_when_no_device_is_left_for_a_selector_stage(operator: Operator) -> None:
    stages = rollout({"group_id": "north"}, {"selector": "device_id=d2"}, REST)

    create = operator.create(job_id="j", target_all=True, rollout=stages)
    failure = await expect_error("STAGE_EMPTY", create)

    assert failure.metadata == {"stage": "1"}
    assert "no device of the job matches device_id=d2" in failure.message


async def test_stages_can_be_updated_only_with_their_selectors(operator: Operator) -> None:
    stages_of_a = rollout({"selector": "model==a"}, REST)
    await operator.create(job_id="j", target_all=True, rollout=stages_of_a)
    stages = list((await operator.get("j")).rollout.stages)
    stages[0].selector = "model in (a)"
    stages[1].display_name = "all"

    job = await operator.update("j", "rollout.stages", rollout=pb.Rollout(stages=stages))

    assert job.rollout.stages[1].display_name == "all"
    stages[0].selector = "model=b"
    update = operator.update("j", "rollout.stages", rollout=pb.Rollout(stages=stages))
    assert await invalid_fields(update) == [FIRST]
