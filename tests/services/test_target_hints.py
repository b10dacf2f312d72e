"""Hints about misspelled labels and groups, of PreviewTarget and CreateJob."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Fleet, Operator
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.staged_jobs import rollout
from tests.support.world import World

MODELL = "no device has the label modell; did you mean model?"
NORT = "no device is in group nort; did you mean north?"


@pytest.fixture
async def fleet(world: World) -> Fleet:
    """A caller of FleetService: d0 has the model x200, d1 is in the group north."""
    await world.add_devices(["d0", "d1"])
    await world.add_devices(["d1"], group="north")
    await world.database.add_labels(world.tenant, {"d0": {"model": "x200", "hw": "2"}})
    return world.fleet


@pytest.mark.parametrize(
    ("target", "hints"),
    [
        ({"target_selector": "modell=x200"}, [MODELL]),
        ({"target_selector": "MODEL"}, ["no device has the label MODEL; did you mean model?"]),
        (
            {"target_selector": "hw,model in (x20,y)"},
            ["no device has the label model=x20; did you mean x200?"],
        ),
        ({"target_selector": "device_id=d0,group in (nort)"}, [NORT]),
        ({"target_group_id": "nort"}, [NORT]),
        # Nothing is similar.
        ({"target_selector": "hw=2,site=x"}, ["no device has the label site"]),
        ({"target_selector": "site=x"}, []),
        ({"target_group_id": "pumps"}, []),
        # Each term matches a device, or no device is needed for it.
        ({"target_selector": "model=x200,group=north"}, []),
        ({"target_selector": "!model,hw,modell!=a,group!=nort"}, []),
        ({"target_selector": "model in (x20,x200),device_id=d"}, []),
        ({"target_device_id": "d"}, []),
        # Long names are not compared.
        ({"target_group_id": "north" * 50}, []),
        ({"target_selector": "modell,hw"}, [MODELL]),
    ],
)
async def test_preview_has_hints(fleet: Fleet, target: dict[str, Any], hints: list[str]) -> None:
    preview = await fleet.preview(**target)

    assert (preview.device_count, list(preview.hints)) == (0, hints)


async def test_preview_has_no_hints_about_a_target_with_devices(fleet: Fleet) -> None:
    preview = await fleet.preview(target_selector="model in (x200,x20)")

    assert (preview.device_count, list(preview.hints)) == (1, [])


async def test_preview_has_hints_for_three_stages_that_must_not_be_empty(fleet: Fleet) -> None:
    stages = rollout(
        {"group_id": "north"},
        {"selector": "modell", "allow_empty": True},
        *({"selector": "modell=1"}, {"group_id": "nort"}),
        *({"selector": "modell=2"}, {"selector": "modell=3"}),
        {"remainder": True},
    )

    preview = await fleet.preview(target_all=True, rollout=stages)

    assert list(preview.hints) == [f"stage 2: {MODELL}", f"stage 3: {NORT}", f"stage 4: {MODELL}"]


@pytest.mark.parametrize("validate_only", [True, False])
async def test_error_of_an_empty_target_has_the_hint(
    fleet: Fleet, operator: Operator, *, validate_only: bool
) -> None:
    target = {"target_selector": "modell=x200"}
    create = operator.create(job_id="j", **target, validate_only=validate_only)
    failure = await expect_error("TARGET_EMPTY", create)

    assert failure.message == f"No device matches modell=x200 ({MODELL})"
    assert failure.metadata == {"jobId": "j", "hint": MODELL}


async def test_errors_of_other_empty_targets_have_a_hint(fleet: Fleet, operator: Operator) -> None:
    await operator.create(job_id="first", target_all=True)
    failed_in = pb.FailedIn(job_id="first", selector="modell")
    failure = await expect_error("TARGET_EMPTY", operator.create(target_failed_in=failed_in))
    assert failure.metadata["hint"] == MODELL

    stages = rollout({"group_id": "north"}, {"group_id": "nort"}, {"remainder": True})
    create = operator.create(job_id="j", target_all=True, rollout=stages)
    failure = await expect_error("STAGE_EMPTY", create)
    assert failure.message.endswith(f"set allow_empty ({NORT})")
    assert failure.metadata == {"stage": "1", "groupId": "nort", "hint": NORT}

    failure = await expect_error("GROUP_EMPTY", operator.create(target_group_id="nort"))
    assert failure.message == "Group has no members"
    assert failure.metadata == {"groupId": "nort", "hint": NORT}
    assert failure.violations == {"target_group_id": NORT}


async def test_hint_says_that_it_knows_only_1000_devices(database: Database, fleet: Fleet) -> None:
    names = [f"e{n:04}" for n in range(1000)]
    labels = {key: {"model": "x200"} for key in names[:998]} | {names[998]: {"late": "1"}}
    await database.add_devices(fleet.tenant, names)
    await database.add_labels(fleet.tenant, labels | {names[999]: {"later": "1"}})

    hints = [(await fleet.preview(target_selector=key)).hints for key in ("modell", "latr")]

    subject = "none of the first 1,000 devices has the label"
    assert hints == [
        [f"{subject} modell; did you mean model?"],
        [f"{subject} latr; did you mean late?"],
    ]


async def test_suggested_groups_are_among_the_first_1000(world: World, fleet: Fleet) -> None:
    await world.owner_value(
        "INSERT INTO public.device_group_members (tenant_id, group_id, device_id)"
        " SELECT $1, 'g' || to_char(n, 'FM0000'), 'd0' FROM generate_series(1, 1000) n"
    )

    hint = "no device is in group g1000x; did you mean g1000?"
    assert (await fleet.preview(target_group_id="g1000x")).hints == [hint]
    assert not (await fleet.preview(target_group_id="nort")).hints
