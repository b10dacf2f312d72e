"""CreateJob with a rollout: stages, ranks, repeats, and validate_only."""

import json
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs_grpc.services.rollout_conversions import MAX_DETAILS_BYTES
from jobs_grpc.services.rollout_validation import MAX_CRITERIA_BYTES, MAX_ROLLOUT_BYTES
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server

DEVICES = [f"d{n:02}" for n in range(10)]


def rollout(*stages: dict[str, Any], **fields: Any) -> pb.Rollout:
    """A rollout with these stages."""
    return pb.Rollout(stages=[pb.Stage(**stage) for stage in stages], **fields)


async def placements(database: Database, tenant: str, job_id: str) -> dict[str, tuple[int, int]]:
    """The stage and the rank of each device."""
    rows = await database.owner.fetch(
        "SELECT device_id, stage, rank FROM jobs.job_executions"
        " WHERE tenant_id = $1 AND job_id = $2 ORDER BY rank",
        tenant,
        job_id,
    )
    return {row["device_id"]: (row["stage"], row["rank"]) for row in rows}


async def sizes(database: Database, tenant: str, job_id: str) -> list[int]:
    """The size of each stage; its ranks and its count agree."""
    rows = await database.owner.fetch(
        "SELECT first_rank, last_rank, queued FROM jobs.job_stages"
        " WHERE tenant_id = $1 AND job_id = $2 ORDER BY stage",
        tenant,
        job_id,
    )
    result = [row["last_rank"] - row["first_rank"] + 1 for row in rows]
    assert result == [row["queued"] for row in rows]
    return result


async def test_stages_take_devices_in_the_order_of_a_hash(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES)

    response = await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout({"device_count": 1}, {"percent": 25}, {"remainder": True}, seed="s"),
    )

    assert response.execution_count == 10
    ordered = await database.order_of_release(DEVICES, "s")
    assert await sizes(database, operator.tenant, "j") == [1, 3, 6]
    assert await placements(database, operator.tenant, "j") == {
        device: (0 if rank == 1 else 1 if rank <= 4 else 2, rank)
        for rank, device in enumerate(ordered, 1)
    }


async def test_seed_defaults_to_the_job_id(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, DEVICES)

    await operator.create(job_id="j", target_all=True, rollout=rollout({"remainder": True}))

    ordered = await database.order_of_release(DEVICES, "j")
    assert list(await placements(database, operator.tenant, "j")) == ordered


async def test_percents_end_at_the_rounded_up_share(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, DEVICES[:3])

    await operator.create(
        job_id="j", target_all=True, rollout=rollout({"percent": 50}, {"percent": 50})
    )

    assert await sizes(database, operator.tenant, "j") == [2, 1]


async def test_groups_claim_their_members_before_other_stages(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    await database.add_devices(operator.tenant, ["d00", "d01", "elsewhere"], group="north")
    await database.add_devices(operator.tenant, ["d01", "d02"], group="south")
    await database.owner.execute(
        "DELETE FROM public.device_state WHERE tenant_id = $1 AND device_id = 'elsewhere'",
        operator.tenant,
    )

    await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout(
            {"device_count": 2},
            {"group_id": "south"},
            {"group_id": "north"},
            {"group_id": "empty", "allow_empty": True},
            {"remainder": True},
            seed="s",
        ),
    )

    placed = await placements(database, operator.tenant, "j")
    assert await sizes(database, operator.tenant, "j") == [2, 2, 1, 0, 5]
    assert {device: stage for device, (stage, _) in placed.items() if stage in (1, 2)} == {
        "d01": 1,
        "d02": 1,
        "d00": 2,
    }
    others = await database.order_of_release(DEVICES[3:], "s")
    assert [device for device, (stage, _) in placed.items() if stage in (0, 4)] == others
    assert [rank for _, rank in placed.values()] == list(range(1, 11))


async def test_empty_first_stage_passes(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, DEVICES)

    await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout(
            {"group_id": "empty", "allow_empty": True}, {"percent": 50}, {"remainder": True}
        ),
    )

    row = await database.owner.fetchrow(
        "SELECT open_stage, release_end FROM jobs.jobs WHERE tenant_id = $1", operator.tenant
    )
    assert row is not None
    assert tuple(row) == (1, 5)


@pytest.mark.parametrize("validate_only", [False, True])
async def test_stage_of_a_group_without_devices_is_rejected(
    database: Database, operator: Operator, validate_only: bool
) -> None:
    """Because the group does not exist, has no targeted member, or has none that is left."""
    await database.add_devices(operator.tenant, DEVICES)
    await database.add_devices(operator.tenant, DEVICES[:4], group="north")
    await database.add_devices(operator.tenant, DEVICES[:2], group="northwest")
    await database.add_devices(operator.tenant, DEVICES[4:5], group="lab")
    request: dict[str, Any] = {"job_id": "j", "validate_only": validate_only}
    targets: list[tuple[dict[str, Any], str, list[str]]] = [
        ({"target_all": True}, "none", ["none"]),
        ({"target_group_id": "north"}, "lab", ["lab", "north"]),
        ({"target_all": True}, "northwest", ["north", "northwest"]),
        ({"target_device_id": "d05"}, "north", ["north"]),
    ]
    for target, group, groups in targets:
        stages: list[dict[str, Any]] = [{"group_id": name} for name in groups]
        with expect_failure(StatusCode.FAILED_PRECONDITION, "STAGE_EMPTY") as failure:
            await operator.create(
                rollout=rollout(*stages, {"remainder": True}), **request, **target
            )
        stage = groups.index(group)
        assert failure.metadata == {"stage": str(stage), "groupId": group}
        assert failure.message == (
            f"Stage {stage} has no devices: no device of the job is in group {group}, or earlier"
            " stages claim them all; correct group_id or set allow_empty"
        )
    assert not (await operator.list()).jobs

    stages = [{"group_id": "nort", "allow_empty": True}, {"remainder": True}]
    await operator.create(target_group_id="north", rollout=rollout(*stages), **request)


async def test_other_stages_may_be_empty(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, DEVICES[:1])

    await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout(
            {"device_count": 1}, {"device_count": 1}, {"percent": 1}, {"remainder": True}
        ),
    )

    assert await sizes(database, operator.tenant, "j") == [1, 0, 0, 0]


async def test_allow_empty_is_returned_and_belongs_to_the_request(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES, group="north")
    allowing = rollout({"group_id": "north", "allow_empty": True}, {"remainder": True})
    await operator.create(job_id="j", target_all=True, rollout=allowing)

    assert (await operator.get("j")).rollout == allowing
    assert (await operator.update("j", "rollout.stages", rollout=allowing)).rollout == allowing
    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await operator.create(
            job_id="j",
            target_all=True,
            rollout=rollout({"group_id": "north"}, {"remainder": True}),
        )


async def test_stages_without_room_for_all_devices_are_rejected(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    stages = rollout({"device_count": 4}, {"device_count": 5})

    for validate_only in (False, True):
        with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
            await operator.create(
                job_id="j", target_all=True, rollout=stages, validate_only=validate_only
            )
        assert list(failure.violations) == ["rollout.stages"]
        assert "9 of 10" in failure.message

    await database.add_devices(operator.tenant, DEVICES[:9], group="most")
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.create(
            job_id="j",
            target_all=True,
            rollout=rollout({"group_id": "most"}, {"group_id": "none", "allow_empty": True}),
        )
    assert "9 of 10" in failure.message

    await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout({"device_count": 4}, {"device_count": 6}, {"device_count": 1}),
    )
    assert await sizes(database, operator.tenant, "j") == [4, 6, 0]


async def test_job_for_one_device_can_have_a_rollout(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES)

    await operator.create(
        job_id="j",
        target_device_id="d03",
        rollout=rollout({"percent": 1}, {"remainder": True}),
    )

    assert await sizes(database, operator.tenant, "j") == [1, 0]


async def test_repeated_request_returns_the_first_response(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    request: dict[str, Any] = {
        "job_id": "j",
        "target_all": True,
        "rollout": rollout({"percent": 10}, {"remainder": True}),
        "failure_criteria": [pb.FailureCriterion(percent=5)],
    }
    first = await operator.create(**request)

    # The defaults that the contract documents make no difference.
    explicit = pb.FailureCriterion(
        percent=5,
        basis=pb.FailureCriterion.FINISHED,
        scope=pb.FailureCriterion.JOB,
        action=pb.FailureCriterion.PAUSE,
        statuses=[pb.JobExecution.REJECTED, pb.JobExecution.FAILED, pb.JobExecution.TIMED_OUT],
    )
    assert await operator.create(**request | {"failure_criteria": [explicit]}) == first

    changes: list[dict[str, Any]] = [
        {"rollout": rollout({"percent": 11}, {"remainder": True})},
        {"failure_criteria": [pb.FailureCriterion(percent=6)]},
        {"failure_criteria": []},
    ]
    for change in changes:
        for validate_only in (False, True):
            with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
                await operator.create(**request | change, validate_only=validate_only)


async def test_validate_only_returns_the_sizes_of_the_stages_and_writes_nothing(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    requested = rollout(
        {"group_id": "empty", "allow_empty": True, "display_name": "lab"},
        {"percent": 25, "releases_per_minute": 60},
        {"remainder": True},
        max_in_progress=3,
    )

    response = await operator.create(
        job_id="j",
        target_all=True,
        rollout=requested,
        failure_criteria=[pb.FailureCriterion(count=2)],
        validate_only=True,
    )

    assert (response.job_id, response.execution_count) == ("j", 10)
    assert response.preview.stage_sizes == [0, 3, 7]
    for table in ("jobs", "job_executions", "job_progress", "job_stages", "job_failure_criteria"):
        count = await database.owner.fetchval(
            f"SELECT count(*) FROM jobs.{table} WHERE tenant_id = $1", operator.tenant
        )
        assert count == 0, table


async def test_validate_only_rejects_what_create_rejects(
    database: Database, operator: Operator
) -> None:
    with expect_failure(StatusCode.FAILED_PRECONDITION, "TENANT_EMPTY"):
        await operator.create(target_all=True, validate_only=True)
    with expect_failure(StatusCode.NOT_FOUND, "DEVICE_NOT_FOUND"):
        await operator.create(target_device_id="none", validate_only=True)


async def test_gate_with_an_approval_needs_a_known_creator(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    request: dict[str, Any] = {
        "target_all": True,
        "rollout": rollout(
            {"percent": 10, "gate": {"require_approval": True}}, {"remainder": True}
        ),
    }

    with expect_failure(StatusCode.PERMISSION_DENIED, "SUBJECT_REQUIRED"):
        await server.operator(operator.tenant).create(**request)
    await operator.create(**request)


async def test_gate_with_a_time_needs_background_work(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES)

    for gate in ({"bake_time": Duration(seconds=1)}, {"advance_after": Duration(seconds=1)}):
        with expect_failure(StatusCode.FAILED_PRECONDITION, "TIME_GATES_UNAVAILABLE"):
            await operator.create(
                target_all=True,
                rollout=rollout({"percent": 10, "gate": gate}, {"remainder": True}),
            )


@pytest.mark.parametrize(
    ("field", "stages"),
    [
        ("rollout.stages", []),
        ("rollout.stages", [{"percent": 1}] * 101),
        ("rollout.stages", [{"percent": 99}]),
        ("rollout.stages[0]", [{}]),
        ("rollout.stages[0]", [{"remainder": False}]),
        ("rollout.stages[0].remainder", [{"remainder": True}, {"percent": 1}]),
        ("rollout.stages[1].percent", [{"percent": 60}, {"percent": 41}]),
        ("rollout.stages[0].percent", [{"percent": 0}, {"remainder": True}]),
        ("rollout.stages[0].device_count", [{"device_count": 0}, {"remainder": True}]),
        ("rollout.stages[0].group_id", [{"group_id": ""}, {"remainder": True}]),
        ("rollout.stages[0].allow_empty", [{"remainder": True, "allow_empty": True}]),
        ("rollout.stages[0].releases_per_minute", [{"remainder": True, "releases_per_minute": 0}]),
        ("rollout.stages[0].display_name", [{"remainder": True, "display_name": "a\nb"}]),
        ("rollout.stages[0].gate", [{"remainder": True, "gate": {}}]),
        (
            "rollout.stages[0].gate.min_succeeded_percent",
            [{"percent": 1, "gate": {"min_succeeded_percent": 101}}, {"remainder": True}],
        ),
        (
            "rollout.stages[0].gate.bake_time",
            [{"percent": 1, "gate": {"bake_time": Duration(nanos=1)}}, {"remainder": True}],
        ),
        (
            "rollout.stages[0].gate.advance_after",
            [{"percent": 1, "gate": {"advance_after": Duration()}}, {"remainder": True}],
        ),
        (
            "rollout.stages[0].gate.allow_self_approval",
            [{"percent": 1, "gate": {"allow_self_approval": True}}, {"remainder": True}],
        ),
    ],
)
async def test_invalid_stages_are_rejected(
    operator: Operator, field: str, stages: list[dict[str, Any]]
) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.create(target_all=True, rollout=rollout(*stages))
    assert list(failure.violations) == [field]


@pytest.mark.parametrize(
    ("field", "criterion"),
    [
        ("failure_criteria[0]", {}),
        ("failure_criteria[0].percent", {"percent": 0}),
        ("failure_criteria[0].percent", {"percent": 101}),
        ("failure_criteria[0].count", {"count": 0}),
        ("failure_criteria[0].min_finished", {"percent": 1, "min_finished": -1}),
        ("failure_criteria[0].min_finished", {"count": 1, "min_finished": 1}),
        ("failure_criteria[0].basis", {"count": 1, "basis": "TARGETED"}),
        ("failure_criteria[0].basis", {"percent": 1, "basis": 9}),
        ("failure_criteria[0].scope", {"percent": 1, "scope": "STAGE"}),
        ("failure_criteria[0].action", {"percent": 1, "action": 9}),
        ("failure_criteria[0].statuses", {"percent": 1, "statuses": ["SUCCEEDED"]}),
        ("failure_criteria[0].failure_codes[0]", {"percent": 1, "failure_codes": ["a b"]}),
    ],
)
async def test_invalid_criteria_are_rejected(
    operator: Operator, field: str, criterion: dict[str, Any]
) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.create(target_all=True, failure_criteria=[pb.FailureCriterion(**criterion)])
    assert list(failure.violations) == [field]


@pytest.mark.parametrize("size", [MAX_ROLLOUT_BYTES, MAX_ROLLOUT_BYTES + 1])
async def test_size_of_a_rollout_is_limited(
    database: Database, operator: Operator, size: int
) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    await operator.create(job_id="small", target_all=True, rollout=rollout(*[{"percent": 1}] * 100))
    stages = [{"percent": 1, "display_name": "\U0001f600" * 39 + "x"}] * 99
    largest = rollout(*stages, {"percent": 1, "display_name": "x"})
    # The name of the last stage fills what is left.
    largest.stages[-1].display_name += "x" * (size - largest.ByteSize())
    assert largest.ByteSize() == size

    if size == MAX_ROLLOUT_BYTES:
        await operator.create(job_id="j", target_all=True, rollout=largest)
        await operator.update("small", "rollout.stages", rollout=largest)
        job = await operator.get("j")
        assert job.rollout == largest
        assert job.ByteSize() < MAX_DETAILS_BYTES
        return
    for call in (
        operator.create(target_all=True, rollout=largest),
        operator.update("small", "rollout.stages", rollout=largest),
    ):
        with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
            await call
        assert failure.violations == {
            "rollout": "rollout must be at most 16,384 bytes, encoded as protobuf, but is 16,385"
        }


async def test_size_of_failure_criteria_is_limited(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    criterion = pb.FailureCriterion(percent=5, failure_codes=[f"{code:064}" for code in range(12)])
    criteria = [criterion] * 10
    assert sum(each.ByteSize() for each in criteria) < MAX_CRITERIA_BYTES
    await operator.create(job_id="j", target_all=True, failure_criteria=criteria)
    criterion.failure_codes.append("x" * 64)
    criteria = [criterion] * 10

    for call in (
        operator.create(target_all=True, failure_criteria=criteria),
        operator.update("j", "failure_criteria", failure_criteria=criteria),
    ):
        with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
            await call
        assert list(failure.violations) == ["failure_criteria"]
        assert "at most 8,192 bytes" in failure.message


async def test_more_than_twenty_approvals_are_rejected(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    approved = {"device_count": 1, "gate": pb.Gate(require_approval=True)}

    await operator.create(
        target_all=True, rollout=rollout(*[approved] * 20, {"remainder": True}), validate_only=True
    )
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.create(
            target_all=True, rollout=rollout(*[approved] * 21, {"remainder": True})
        )
    assert list(failure.violations) == ["rollout.stages"]


async def test_more_than_ten_criteria_are_rejected(operator: Operator) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.create(target_all=True, failure_criteria=[pb.FailureCriterion(count=1)] * 11)
    assert list(failure.violations) == ["failure_criteria"]


@st.composite
def staged_fleets(draw: st.DrawFn) -> tuple[list[dict[str, Any]], int, list[int]]:
    """Stages that end with a remainder, a number of devices, and what each group claims."""
    devices = draw(st.integers(0, 40))
    kinds = draw(st.lists(st.sampled_from(["device_count", "percent", "group_id"]), max_size=6))
    stages: list[dict[str, Any]] = []
    claimed = []
    percent_left, devices_left = 100, devices
    for kind in kinds:
        claim = 0
        if kind == "device_count":
            stages.append({kind: draw(st.integers(1, 20))})
        elif kind == "percent" and percent_left:
            stages.append({kind: draw(st.integers(1, percent_left))})
            percent_left -= stages[-1][kind]
        else:
            stages.append({"group_id": "g"})
            claim = draw(st.integers(0, devices_left))
            devices_left -= claim
        claimed.append(claim)
    return [*stages, {}], devices, [*claimed, 0]


@given(fleet=staged_fleets())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_stage_sizes_follow_the_rules(
    database: Database, fleet: tuple[list[dict[str, Any]], int, list[int]]
) -> None:
    stages, devices, claimed = fleet
    expected = []
    left = devices - sum(claimed)
    percent = 0
    for stage, claim in zip(stages, claimed, strict=True):
        if "group_id" in stage:
            expected.append(claim)
            continue
        if "percent" in stage:
            before, percent = percent, percent + stage["percent"]
            wanted = -(-percent * devices // 100) - -(-before * devices // 100)
        else:
            wanted = stage.get("device_count", left)
        expected.append(min(wanted, left))
        left -= expected[-1]

    actual = await database.owner.fetchval(
        "SELECT jobs.stage_sizes($1, $2, $3)", json.dumps(stages), devices, claimed
    )
    assert actual == expected
    assert sum(expected) == devices
