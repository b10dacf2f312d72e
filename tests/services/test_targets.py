"""CreateJob for a selector, a list of devices, or the devices that failed in another job."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure

DEVICES = [f"d{n}" for n in range(6)]
MODEL_A = {device: {"model": "a"} for device in DEVICES[:3]}


def ids(*devices: str) -> pb.DeviceIds:
    """A list of devices."""
    return pb.DeviceIds(device_ids=devices)


def rollout(*stages: dict[str, Any]) -> pb.Rollout:
    """A rollout with these stages."""
    return pb.Rollout(stages=[pb.Stage(**stage) for stage in stages])


async def devices_of(operator: Operator, job_id: str) -> list[str]:
    """The devices of a job."""
    return [e.device_id for e in (await operator.executions(job_id)).executions]


@pytest.fixture(autouse=True)
async def fleet(database: Database, tenant: str) -> None:
    """Six devices: d0 to d2 have the model a, and d2 and d3 are in the group north."""
    await database.add_devices(tenant, DEVICES)
    await database.add_devices(tenant, ["d2", "d3"], group="north")
    await database.add_labels(tenant, MODEL_A)


async def fail(
    database: Database, operator: Operator, device: str, status: str, code: str | None
) -> None:
    """Store the end of an execution of the job `first`."""
    await database.set_status(operator.tenant, "first", device, status)
    await database.owner.execute(
        "UPDATE jobs.job_executions SET failure_code = $3"
        " WHERE tenant_id = $1 AND job_id = 'first' AND device_id = $2",
        operator.tenant,
        device,
        code,
    )


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("model=a", ["d0", "d1", "d2"]),
        ("model!=a", ["d3", "d4", "d5"]),
        ("!model", ["d3", "d4", "d5"]),
        ("model,group=north", ["d2"]),
        ("group in (north,south),model!=a", ["d3"]),
        ("group!=north,device_id in (d0,d3,d9)", ["d0"]),
    ],
)
async def test_job_has_the_devices_that_match_the_selector(
    operator: Operator, selector: str, expected: list[str]
) -> None:
    response = await operator.create(job_id="j", target_selector=selector)

    assert response.execution_count == len(expected)
    assert await devices_of(operator, "j") == expected


async def test_job_shows_the_canonical_selector(operator: Operator) -> None:
    await operator.create(job_id="j", target_selector=" model == a , device_id in (d1, d0)")

    (listed,) = (await operator.list()).jobs
    assert listed.target_selector == "device_id in (d0,d1),model=a"
    assert (await operator.get("j")).target_selector == listed.target_selector


async def test_selector_ignores_members_of_groups_that_are_not_devices(
    database: Database, operator: Operator
) -> None:
    await database.owner.execute(
        "INSERT INTO public.device_group_members (tenant_id, group_id, device_id)"
        " VALUES ($1, 'north', 'unknown')",
        operator.tenant,
    )

    await operator.create(job_id="j", target_selector="group=north")

    assert await devices_of(operator, "j") == ["d2", "d3"]


async def test_create_is_repeated_when_the_selector_has_another_spelling(
    database: Database, operator: Operator
) -> None:
    first = await operator.create(job_id="j", target_selector="model=a,group!=north")
    await database.add_labels(operator.tenant, {"d5": {"model": "a"}})

    assert (
        await operator.create(job_id="j", target_selector="group notin (north), model=a") == first
    )
    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await operator.create(job_id="j", target_selector="model=a")


async def test_create_fails_when_no_device_matches_the_selector(operator: Operator) -> None:
    with expect_failure(StatusCode.FAILED_PRECONDITION, "TARGET_EMPTY") as failure:
        await operator.create(job_id="j", target_selector="model=b")

    assert failure.message == "No device matches model=b"
    assert (await operator.list()).jobs == []


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
        (
            {"target_failed_in": pb.FailedIn(job_id="j", statuses=[pb.JobExecution.SUCCEEDED])},
            ["target_failed_in.statuses"],
        ),
        (
            {"target_failed_in": pb.FailedIn(job_id="j", selector="=")},
            ["target_failed_in.selector"],
        ),
        (
            {"target_all": True, "expected_target_digest": "12"},
            ["expected_target_digest"],
        ),
        (
            {"target_all": True, "rollout": rollout({"selector": " "}, {"remainder": True})},
            ["rollout.stages[0].selector"],
        ),
        (
            {"target_all": True, "rollout": rollout({"selector": "a" * 513}, {"remainder": True})},
            ["rollout.stages[0].selector"],
        ),
        (
            {"target_all": True, "rollout": rollout({"selector": "!"}, {"remainder": True})},
            ["rollout.stages[0].selector"],
        ),
        (
            {"target_all": True, "rollout": rollout(*[{"selector": "a"}] * 11)},
            ["rollout.stages"],
        ),
    ],
)
async def test_create_fails_when_the_target_is_malformed(
    operator: Operator, fields: dict[str, Any], violations: list[str]
) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.create(**fields)

    assert list(failure.violations) == violations


async def test_job_has_each_device_of_the_list_once(operator: Operator) -> None:
    response = await operator.create(job_id="j", target_device_ids=ids("d4", "d1", "d4"))

    assert response.execution_count == 2
    assert await devices_of(operator, "j") == ["d1", "d4"]
    job = await operator.get("j")
    assert (job.WhichOneof("target"), job.target_device_count) == ("target_device_count", 2)


async def test_create_is_repeated_when_the_list_has_another_order(operator: Operator) -> None:
    first = await operator.create(job_id="j", target_device_ids=ids("d4", "d1"))

    assert await operator.create(job_id="j", target_device_ids=ids("d1", "d4", "d1")) == first
    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await operator.create(job_id="j", target_device_ids=ids("d1", "d5"))


@pytest.mark.parametrize("validate_only", [False, True])
async def test_create_names_up_to_20_unknown_devices_of_the_list(
    operator: Operator, validate_only: bool
) -> None:
    unknown = [f"x{n:02}" for n in range(30)]

    with expect_failure(StatusCode.NOT_FOUND, "DEVICE_NOT_FOUND") as failure:
        await operator.create(
            job_id="j", target_device_ids=ids("d0", *unknown), validate_only=validate_only
        )

    assert failure.message == f"Devices not found: {', '.join(unknown[:20])}, and 10 more"
    assert (await operator.list()).jobs == []


@pytest.mark.parametrize(
    ("failed_in", "expected"),
    [
        ({}, ["d0", "d1", "d2", "d3"]),
        ({"statuses": ["FAILED"]}, ["d0", "d1"]),
        ({"statuses": ["FAILED", "TIMED_OUT"], "failure_codes": ["disk", ""]}, ["d0", "d2"]),
        ({"statuses": ["REJECTED"]}, ["d3"]),
        ({"selector": "model!=a"}, ["d3"]),
        ({"selector": "group=north,model"}, ["d2"]),
    ],
)
@pytest.mark.wrong_counts("failures are stored, but not counted")
async def test_job_has_the_devices_that_failed_in_another_job(
    database: Database, operator: Operator, failed_in: dict[str, Any], expected: list[str]
) -> None:
    await operator.create(job_id="first", target_all=True)
    await fail(database, operator, "d0", "FAILED", "disk")
    await fail(database, operator, "d1", "FAILED", "network")
    await fail(database, operator, "d2", "TIMED_OUT", "")
    await fail(database, operator, "d4", "SUCCEEDED", None)
    await fail(database, operator, "d5", "IN_PROGRESS", None)
    # d3 becomes REJECTED without a row of its own.
    await operator.cancel("first")

    await operator.create(job_id="j", target_failed_in=pb.FailedIn(job_id="first", **failed_in))

    assert await devices_of(operator, "j") == expected
    shown = (await operator.get("j")).target_failed_in
    all_statuses = ["FAILED", "TIMED_OUT", "REJECTED"]
    assert shown == pb.FailedIn(
        job_id="first",
        **(
            {"statuses": all_statuses}
            | failed_in
            | {"failure_codes": sorted(failed_in.get("failure_codes", []))}
        ),
    )


async def test_devices_that_were_removed_are_no_targets(
    database: Database, operator: Operator
) -> None:
    await operator.create(job_id="first", target_all=True)
    await operator.cancel("first")
    await database.remove_devices(operator.tenant, DEVICES[1:])

    await operator.create(job_id="j", target_failed_in=pb.FailedIn(job_id="first"))

    assert await devices_of(operator, "j") == ["d0"]


async def test_create_fails_when_no_device_failed(operator: Operator) -> None:
    await operator.create(job_id="first", target_all=True)

    with expect_failure(StatusCode.FAILED_PRECONDITION, "TARGET_EMPTY"):
        await operator.create(job_id="j", target_failed_in=pb.FailedIn(job_id="first"))


@pytest.mark.parametrize("job_id", ["unknown", "j"])
async def test_create_fails_when_the_failed_job_does_not_exist(
    operator: Operator, job_id: str
) -> None:
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND") as failure:
        await operator.create(job_id="j", target_failed_in=pb.FailedIn(job_id=job_id))

    assert failure.metadata == {"jobId": job_id}


async def test_stages_of_selectors_and_groups_claim_devices_in_order(
    operator: Operator,
) -> None:
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


async def test_create_fails_when_no_device_is_left_for_a_selector_stage(
    operator: Operator,
) -> None:
    stages = rollout({"group_id": "north"}, {"selector": "device_id=d2"}, {"remainder": True})

    with expect_failure(StatusCode.FAILED_PRECONDITION, "STAGE_EMPTY") as failure:
        await operator.create(job_id="j", target_all=True, rollout=stages)

    assert failure.metadata == {"stage": "1"}
    assert "no device of the job matches device_id=d2" in failure.message


async def test_stages_can_be_updated_only_with_their_selectors(operator: Operator) -> None:
    await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout({"selector": "model==a"}, {"remainder": True}),
    )
    stages = list((await operator.get("j")).rollout.stages)
    stages[0].selector = "model in (a)"
    stages[1].display_name = "all"

    job = await operator.update("j", "rollout.stages", rollout=pb.Rollout(stages=stages))

    assert job.rollout.stages[1].display_name == "all"
    stages[0].selector = "model=b"
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.update("j", "rollout.stages", rollout=pb.Rollout(stages=stages))
    assert list(failure.violations) == ["rollout.stages[0].selector"]
