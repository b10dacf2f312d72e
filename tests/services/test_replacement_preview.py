"""What a preview says about the devices of the job that a new job replaces."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.staged_jobs import rollout
from tests.support.world import World


@pytest.mark.parametrize(
    "stages",
    [
        rollout({"percent": 20}, {"remainder": True}),
        rollout({"device_count": 3}, {"selector": "ring=a"}, {"percent": 10}, {"remainder": True}),
        rollout({"group_id": "north"}, {"percent": 100}, seed="s"),
        None,
    ],
)
async def test_preview_counts_the_devices_that_wait_as_the_new_job_places_them(
    world: World, stages: pb.Rollout | None
) -> None:
    operator, names = world.operator, [f"d{n:02}" for n in range(40)]
    await world.add_devices(names[:20], group="north")
    await world.add_devices(names[20:], group="south")
    await world.database.add_labels(world.tenant, {name: {"ring": "a"} for name in names[15:25]})
    await world.create(target_all=True, rollout=rollout({"percent": 50}, {"remainder": True}))
    started = [e.device_id for e in (await operator.get("j")).executions if e.stage == 0][:5]
    for device in started:
        await world.device(device).start("j")
    new = {
        "job_id": "n",
        "replaces_job_id": "j",
        "target_selector": "device_id notin (d00,d39)",
        "rollout": stages,
    }

    checked = await operator.create(**new, validate_only=True)
    assert await operator.status("j") == "IN_PROGRESS"
    await operator.create(**new)

    waiting = {*names} - {*started}
    stage_of = {e.device_id: e.stage for e in (await operator.get("n")).executions}
    in_stages = [stage_of[device] for device in waiting & stage_of.keys()]
    assert checked.preview.replaced_devices == pb.ReplacedDevices(
        device_count=35,
        stage_counts=[in_stages.count(n) for n in range(len(stages.stages))] if stages else [],
        untargeted_count=len(waiting - stage_of.keys()),
    )
    # The job is finished now.
    again = await operator.create(**new | {"job_id": "n2"}, validate_only=True)
    assert not again.preview.HasField("replaced_devices")
