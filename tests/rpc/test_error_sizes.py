"""Errors about long ids, labels and selectors reach the client with their reason."""

import json
from collections.abc import Awaitable, Callable

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.fleet_pb2 import Device

from tests.support.callers import Fleet, Operator
from tests.support.failures import expect_error
from tests.support.server import Server

CHARACTERS = ["a", "%", "ü", "😀"]


def long_ids(character: str) -> list[str]:
    return [f"{n:02}" + character * 254 for n in range(30)]


@pytest.fixture
def fleet(server: Server, tenant: str) -> Fleet:
    return server.fleet(tenant)


async def preview(fleet: Fleet, operator: Operator, ids: list[str]) -> None:
    await fleet.preview(target_device_ids=pb.DeviceIds(device_ids=ids))


async def create(fleet: Fleet, operator: Operator, ids: list[str]) -> None:
    await operator.create(job_id="j", target_device_ids=pb.DeviceIds(device_ids=ids))


async def update(fleet: Fleet, operator: Operator, ids: list[str]) -> None:
    await fleet.update(*(Device(device_id=id_) for id_ in ids), mask=["labels"])


@pytest.mark.parametrize("character", CHARACTERS)
@pytest.mark.parametrize("call", [preview, create, update])
async def test_error_names_the_devices_it_has_room_for_when_their_ids_are_long(
    fleet: Fleet,
    operator: Operator,
    call: Callable[[Fleet, Operator, list[str]], Awaitable[None]],
    character: str,
) -> None:
    ids = long_ids(character)

    failure = await expect_error("DEVICE_NOT_FOUND", call(fleet, operator, ids))

    named = json.loads(failure.metadata["deviceIds"])
    assert named == ids[: max(1, 1000 // len(ids[0].encode()))]
    rest = len(ids) - len(named)
    assert failure.message == f"Devices not found: {', '.join(named)}, and {rest} more"


@pytest.mark.parametrize("character", CHARACTERS)
async def test_error_names_the_repeated_devices_it_has_room_for(
    fleet: Fleet, character: str
) -> None:
    devices = [Device(device_id=id_) for id_ in long_ids(character)]

    failure = await expect_error("INVALID_FIELD", fleet.update(*devices, *devices, mask=["labels"]))

    assert failure.message.startswith("devices must contain each device once, but repeats 00")
    assert list(failure.violations) == ["devices"]


async def test_message_is_shortened_when_the_selector_of_an_empty_stage_is_long(
    fleet: Fleet, operator: Operator
) -> None:
    await fleet.update(Device(device_id="d"), allow_missing=True)
    selector = ",".join(f'{key}="{"😀" * 63}"' for key in "abcdefg")
    rollout = pb.Rollout(stages=[pb.Stage(selector=selector), pb.Stage(remainder=True)])

    failure = await expect_error(
        "STAGE_EMPTY", operator.create(job_id="j", target_all=True, rollout=rollout)
    )

    start = "Stage 0 has no devices: no device of the job matches a="
    assert failure.message.startswith(start)
    assert failure.message.endswith("…")
    assert failure.metadata["stage"] == "0"


async def test_last_violations_are_left_out_when_all_are_too_long(fleet: Fleet) -> None:
    keys = [f"{n:02}" + "k" * 61 for n in range(8)]
    devices = [Device(device_id=f"d{n}", labels=dict.fromkeys(keys, "\n" * 200)) for n in range(30)]

    failure = await expect_error(
        "INVALID_FIELD", fleet.update(*devices, mask=["labels"], allow_missing=True)
    )

    assert 0 < len(failure.violations) < 20
    assert next(iter(failure.violations)) in failure.message
