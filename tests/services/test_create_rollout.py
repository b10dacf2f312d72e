"""CreateJob with a rollout: stages, ranks, repeats, and validate_only."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from jobs_grpc.services.rollout_conversions import MAX_DETAILS_BYTES
from jobs_grpc.services.rollout_validation import MAX_CRITERIA_BYTES, MAX_ROLLOUT_BYTES
from tests.support.failures import expect_error, invalid_fields
from tests.support.staged_jobs import rollout
from tests.support.world import World

DEVICES = [f"d{n:02}" for n in range(10)]
REMAINDER: dict[str, Any] = {"remainder": True}
ALL: dict[str, Any] = {"job_id": "j", "target_all": True}
APPROVED: dict[str, Any] = {"device_count": 1, "gate": pb.Gate(require_approval=True)}


@pytest.fixture(autouse=True)
async def devices(world: World) -> None:
    await world.add_devices(DEVICES)


async def placements(world: World) -> dict[str, tuple[int, int]]:
    """The stage and the rank of each device."""
    rows = await world.rows(
        "SELECT device_id, stage, rank FROM jobs.job_executions"
        " WHERE tenant_id = $1 AND job_id = 'j' ORDER BY rank"
    )
    return {row["device_id"]: (row["stage"], row["rank"]) for row in rows}


async def sizes(world: World) -> list[int]:
    """The size of each stage; its ranks and its count agree."""
    rows = await world.rows(
        "SELECT first_rank, last_rank, queued FROM jobs.job_stages"
        " WHERE tenant_id = $1 AND job_id = 'j' ORDER BY stage"
    )
    result = [row["last_rank"] - row["first_rank"] + 1 for row in rows]
    assert result == [row["queued"] for row in rows]
    return result


async def test_stages_take_devices_in_the_order_of_a_hash(world: World) -> None:
    stages = rollout({"device_count": 1}, *[{"percent": 25}] * 2, REMAINDER, seed="s")

    assert (await world.create(rollout=stages)).execution_count == 10

    ordered = await world.database.order_of_release(DEVICES, "s")
    # Percentages are added before they are rounded up.
    assert await sizes(world) == [1, 3, 2, 4]
    stages_in_order = [0, 1, 1, 1, 2, 2, 3, 3, 3, 3]
    assert await placements(world) == {
        device: (stage, rank)
        for rank, (device, stage) in enumerate(zip(ordered, stages_in_order, strict=True), 1)
    }


async def test_seed_defaults_to_the_job_id(world: World) -> None:
    await world.create(rollout=rollout(REMAINDER))

    ordered = await world.database.order_of_release(DEVICES, "j")
    assert list(await placements(world)) == ordered


async def test_job_for_one_device_can_have_a_rollout(world: World) -> None:
    stages = rollout({"percent": 1}, REMAINDER)

    await world.create(target_device_id="d03", rollout=stages)

    assert await sizes(world) == [1, 0]


@pytest.mark.parametrize("validate_only", [False, True])
@pytest.mark.parametrize(
    ("target", "groups", "stage"),
    [
        ({"target_all": True}, ["none"], 0),
        ({"target_group_id": "north"}, ["lab", "north"], 0),
        ({"target_all": True}, ["north", "northwest"], 1),
        ({"target_device_id": "d05"}, ["north"], 0),
    ],
)
async def test_stage_of_a_group_without_devices_is_rejected(
    world: World, target: dict[str, Any], groups: list[str], stage: int, validate_only: bool
) -> None:
    """Because the group does not exist, has no targeted member, or has none that is left."""
    await world.add_devices(DEVICES[:4], group="north")
    await world.add_devices(DEVICES[:2], group="northwest")
    await world.add_devices(DEVICES[4:5], group="lab")
    stages: list[dict[str, Any]] = [*({"group_id": name} for name in groups), REMAINDER]

    failure = await expect_error(
        "STAGE_EMPTY",
        world.operator.create(**target, rollout=rollout(*stages), validate_only=validate_only),
    )

    assert failure.metadata == {"stage": str(stage), "groupId": groups[stage]}
    assert failure.message == (
        f"Stage {stage} has no devices: no device of the job is in group {groups[stage]}, or"
        " earlier stages claim them all; correct group_id or set allow_empty"
    )
    assert not (await world.operator.list()).jobs
    stages[stage]["allow_empty"] = True
    await world.operator.create(**target, rollout=rollout(*stages), validate_only=validate_only)


async def test_allow_empty_is_returned_and_belongs_to_the_request(world: World) -> None:
    await world.add_devices(DEVICES, group="north")
    allowing = rollout({"group_id": "north", "allow_empty": True}, REMAINDER)
    await world.create(rollout=allowing)

    assert (await world.operator.get("j")).rollout == allowing
    assert (
        await world.operator.update("j", "rollout.stages", rollout=allowing)
    ).rollout == allowing
    await expect_error(
        "JOB_ALREADY_EXISTS", world.create(rollout=rollout({"group_id": "north"}, REMAINDER))
    )


async def test_stages_without_room_for_all_devices_are_rejected(world: World) -> None:
    await world.add_devices(DEVICES[:9], group="most")
    counts = rollout({"device_count": 4}, {"device_count": 5})
    groups = rollout({"group_id": "most"}, {"group_id": "none", "allow_empty": True})

    for validate_only in (False, True):
        for stages in (counts, groups):
            failure = await expect_error(
                "INVALID_FIELD", world.create(rollout=stages, validate_only=validate_only)
            )
            assert {*failure.violations} == {"rollout.stages"}
            assert "9 of 10" in failure.message
    await world.create(rollout=rollout({"device_count": 4}, {"device_count": 6}))


async def test_repeated_request_returns_the_first_response(world: World) -> None:
    request: dict[str, Any] = {
        **ALL,
        "rollout": rollout({"percent": 10}, REMAINDER),
        "failure_criteria": [pb.FailureCriterion(percent=5)],
    }
    first = await world.operator.create(**request)

    # The defaults that the contract documents make no difference.
    explicit = pb.FailureCriterion(
        percent=5,
        basis=pb.FailureCriterion.FINISHED,
        scope=pb.FailureCriterion.JOB,
        action=pb.FailureCriterion.PAUSE,
        statuses=[pb.JobExecution.REJECTED, pb.JobExecution.FAILED, pb.JobExecution.TIMED_OUT],
    )
    assert await world.operator.create(**request | {"failure_criteria": [explicit]}) == first

    changes: list[dict[str, Any]] = [
        {"rollout": rollout({"percent": 11}, REMAINDER)},
        {"failure_criteria": [pb.FailureCriterion(percent=6)]},
        {"failure_criteria": []},
    ]
    for change in changes:
        for validate_only in (False, True):
            await expect_error(
                "JOB_ALREADY_EXISTS",
                world.operator.create(**request | change, validate_only=validate_only),
            )


async def test_validate_only_returns_the_sizes_of_the_stages_and_writes_nothing(
    world: World,
) -> None:
    response = await world.create(
        rollout=rollout(
            {"group_id": "empty", "allow_empty": True, "display_name": "lab"},
            {"percent": 25, "releases_per_minute": 60},
            REMAINDER,
            max_in_progress=3,
        ),
        failure_criteria=[pb.FailureCriterion(count=2)],
        validate_only=True,
    )

    assert (response.job_id, response.execution_count) == ("j", 10)
    assert response.preview.stage_sizes == [0, 3, 7]
    for table in ("jobs", "job_executions", "job_progress", "job_stages", "job_failure_criteria"):
        count = await world.owner_value(f"SELECT count(*) FROM jobs.{table} WHERE tenant_id = $1")
        assert count == 0, table


async def test_validate_only_rejects_what_create_rejects(world: World) -> None:
    empty = world.server.operator(world.tenant + "-empty")
    await expect_error("TENANT_EMPTY", empty.create(target_all=True, validate_only=True))
    await expect_error(
        "DEVICE_NOT_FOUND", world.operator.create(target_device_id="none", validate_only=True)
    )


async def test_gate_with_an_approval_needs_a_known_creator(world: World) -> None:
    request = {"target_all": True, "rollout": rollout(APPROVED, REMAINDER)}

    await expect_error("SUBJECT_REQUIRED", world.server.operator(world.tenant).create(**request))
    await world.operator.create(**request)


@pytest.mark.parametrize("time", ["bake_time", "advance_after"])
async def test_gate_with_a_time_needs_background_work(world: World, time: str) -> None:
    gated = {"percent": 10, "gate": {time: Duration(seconds=1)}}

    await expect_error("TIME_GATES_UNAVAILABLE", world.create(rollout=rollout(gated, REMAINDER)))


INVALID_STAGES: list[tuple[str, list[dict[str, Any]]]] = [
    ("stages", []),
    ("stages", [{"percent": 1}] * 101),
    ("stages", [{"percent": 99}]),
    ("stages", [*[APPROVED] * 21, REMAINDER]),
    ("stages[0]", [{}]),
    ("stages[0]", [{"remainder": False}]),
    ("stages[0].remainder", [REMAINDER, {"percent": 1}]),
    ("stages[1].percent", [{"percent": 60}, {"percent": 41}]),
    ("stages[0].percent", [{"percent": 0}, REMAINDER]),
    ("stages[0].device_count", [{"device_count": 0}, REMAINDER]),
    ("stages[0].group_id", [{"group_id": ""}, REMAINDER]),
    ("stages[0].allow_empty", [REMAINDER | {"allow_empty": True}]),
    ("stages[0].releases_per_minute", [REMAINDER | {"releases_per_minute": 0}]),
    ("stages[0].display_name", [REMAINDER | {"display_name": "a\nb"}]),
    ("stages[0].gate", [REMAINDER | {"gate": {}}]),
    *(
        (f"stages[0].gate.{name}", [{"percent": 1, "gate": {name: value}}, REMAINDER])
        for name, value in (
            ("min_succeeded_percent", 101),
            ("bake_time", Duration(nanos=1)),
            ("advance_after", Duration()),
            ("allow_self_approval", True),
        )
    ),
]
INVALID_CRITERIA: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    (".percent", {"percent": 0}),
    (".percent", {"percent": 101}),
    (".count", {"count": 0}),
    (".min_finished", {"percent": 1, "min_finished": -1}),
    (".min_finished", {"count": 1, "min_finished": 1}),
    (".basis", {"count": 1, "basis": "TARGETED"}),
    (".basis", {"percent": 1, "basis": 9}),
    (".scope", {"percent": 1, "scope": "STAGE"}),
    (".action", {"percent": 1, "action": 9}),
    (".statuses", {"percent": 1, "statuses": ["SUCCEEDED"]}),
    (".failure_codes[0]", {"percent": 1, "failure_codes": ["a b"]}),
]


async def test_invalid_stages_and_criteria_are_rejected(world: World) -> None:
    for field, stages in INVALID_STAGES:
        call = world.create("new", rollout=rollout(*stages))
        assert await invalid_fields(call) == [f"rollout.{field}"]
    for field, criterion in INVALID_CRITERIA:
        criteria = [pb.FailureCriterion(**criterion)]
        call = world.create("new", failure_criteria=criteria)
        assert await invalid_fields(call) == [f"failure_criteria[0]{field}"]
    criteria = [pb.FailureCriterion(count=1)] * 11
    call = world.create("new", failure_criteria=criteria)
    assert await invalid_fields(call) == ["failure_criteria"]


async def test_size_of_a_rollout_is_limited(world: World) -> None:
    await world.create("small", rollout=rollout(*[{"percent": 1}] * 100))
    stages = [{"percent": 1, "display_name": "\U0001f600" * 39 + "x"}] * 99
    largest = rollout(*stages, {"percent": 1, "display_name": "x"})
    # The name of the last stage fills what is left.
    largest.stages[-1].display_name += "x" * (MAX_ROLLOUT_BYTES - largest.ByteSize())

    await world.create(rollout=largest)
    await world.operator.update("small", "rollout.stages", rollout=largest)
    job = await world.operator.get("j")
    assert job.rollout == largest
    assert job.ByteSize() < MAX_DETAILS_BYTES

    largest.stages[-1].display_name += "x"
    for call in (
        world.create("new", rollout=largest),
        world.operator.update("small", "rollout.stages", rollout=largest),
    ):
        failure = await expect_error("INVALID_FIELD", call)
        assert failure.violations["rollout"] == (
            "rollout must be at most 16,384 bytes, encoded as protobuf, but is 16,385"
        )


async def test_size_of_failure_criteria_is_limited(world: World) -> None:
    criterion = pb.FailureCriterion(percent=5, failure_codes=[f"{code:064}" for code in range(12)])
    criteria = [criterion] * 10
    assert sum(each.ByteSize() for each in criteria) < MAX_CRITERIA_BYTES
    await world.create(failure_criteria=criteria)
    criterion.failure_codes.append("x" * 64)

    for call in (
        world.create("new", failure_criteria=criteria),
        world.operator.update("j", "failure_criteria", failure_criteria=criteria),
    ):
        failure = await expect_error("INVALID_FIELD", call)
        assert {*failure.violations} == {"failure_criteria"}
        assert "at most 8,192 bytes" in failure.message


async def test_twenty_stages_can_need_an_approval(world: World) -> None:
    await world.add_devices(20)

    response = await world.create(rollout=rollout(*[APPROVED] * 20, REMAINDER), validate_only=True)

    assert response.preview.stage_sizes == [*[1] * 20, 10]
