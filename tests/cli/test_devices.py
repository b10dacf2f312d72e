"""`jobs-grpc devices` and `groups`, except `devices import`."""

import asyncio
import json
import os
import re
import signal

import pytest
from fleet.jobs.v1.fleet_pb2 import Device

from jobs_grpc.cli import devices
from jobs_grpc.services import fleet as fleet_service
from tests.support.callers import Fleet, Operator
from tests.support.cli import Shell, cells, run_on_terminal, spawn
from tests.support.database import Database, job_lock_held
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

PUMP = {"model": "x200", "site": "Zürich, west"}


@pytest.fixture
async def fleet(server: Server, tenant: str) -> Fleet:
    """A caller in the test's tenant, which has the devices pump-1, pump-2 and valve."""
    fleet = server.fleet(tenant)
    await fleet.update(
        Device(device_id="pump-1", labels=PUMP, time_zone="UTC", group_ids=["north", "pumps"]),
        Device(device_id="pump-2", labels={"model": "x300"}, group_ids=["pumps"]),
        Device(device_id="valve"),
        mask=["labels", "time_zone", "group_ids"],
        allow_missing=True,
    )
    return fleet


async def test_list_continues_over_pages_that_are_not_full(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 12_000)
    await database.add_labels(tenant, {"d00001": {"a": "1"}, "d11999": {"a": "1"}})

    listed = await shell("devices", "list", "--where", "a", "-o", "csv", "--columns", "device")

    assert listed.unquoted.split() == ["device_id", "d00001", "d11999"]


async def test_facts_are_shown_apart_from_labels(
    shell: Shell, server: Server, fleet: Fleet
) -> None:
    await server.device(fleet.tenant, "pump-1").facts({"version": "2.1", "updated": "today"})

    shown = await shell("devices", "facts", "pump-1")
    listed = await shell("devices", "list", "--where", "fact.version", "-o", "csv")

    *lines, changed = shown.out.splitlines()
    assert lines == ["updated today", "version 2.1", ""]
    as_json = json.loads((await shell("devices", "facts", "pump-1", "--json")).out)
    assert (as_json["labels"], as_json["facts"]["version"]) == (PUMP, "2.1")
    assert changed.startswith("facts last changed  2")
    assert "facts     updated=today version=2.1" in (await shell("devices", "get", "pump-1")).out
    assert '"{""updated"": ""today"", ""version"": ""2.1""}"' in listed.out
    assert (await shell("devices", "facts", "valve")).out == "no facts\n"


async def test_label_changes_more_devices_than_one_call_can(
    shell: Shell, database: Database, fleet: Fleet
) -> None:
    await database.add_devices(fleet.tenant, 1001)

    result = await shell("devices", "label", *(f"d{n:05}" for n in range(1, 1002)), "a=b")

    assert result.out == "updated 1,001 devices\n"
    assert (await fleet.get("d01001")).device.labels == {"a": "b"}


async def test_delete_repeats_the_call_while_executions_remain(
    shell: Shell, fleet: Fleet, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_service, "_MAX_ENDED", 1)
    for number in range(3):
        await operator.create(job_id=f"update-{number}", target_device_id="valve")

    deleted = await shell("devices", "delete", "valve")

    assert deleted.out == "deleted 1 device, ended 3 executions\n"


@pytest.mark.slow
@pytest.mark.single_node("waits for sessions of one node")
async def test_delete_says_how_to_continue_when_ctrl_c_interrupts_it(
    shell: Shell, database: Database, fleet: Fleet, operator: Operator
) -> None:
    await operator.create(job_id="update-1", target_all=True)
    async with job_lock_held(database, fleet.tenant, "update-1"):
        process = await spawn(
            *("devices", "delete", "pump-1", "pump-2"),
            JOBS_SERVER=os.environ["JOBS_SERVER"],
            JOBS_TENANT=fleet.tenant,
        )
        await database.wait_for_blocked_sessions(1)
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), TIMEOUT)

    assert (process.returncode, errors) == (
        130,
        b"interrupted; to delete what is left, repeat the command\n",
    )
    assert (await shell("devices", "delete", "pump-1", "pump-2")).code == 0
    assert (await operator.get("update-1")).execution_counts.rejected == 2


async def test_label_says_how_many_devices_it_has_changed_before_an_error(
    shell: Shell, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_MAX_UPDATED", 1)

    labeled = await shell("devices", "label", "pump-1", "gone", "pump-2", "ring=canary")
    other = await shell("devices", "label", "gone", "ring=canary")

    assert labeled.code == 3
    assert labeled.err.endswith("; changed so far: 1 device; you can repeat the command\n")
    assert (await fleet.get("pump-1")).device.labels["ring"] == "canary"
    assert "changed so far" not in other.err


async def test_groups_shows_that_a_group_has_more_devices_than_are_counted(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 10_001, group="large")

    assert cells((await shell("groups")).out.splitlines()[1]) == ["large", "10,000+"]
    assert (await shell("groups", "-o", "csv")).unquoted.endswith("large,10001\n")


async def test_table_colors_a_status_that_says_how_the_execution_ended(
    shell: Shell, fleet: Fleet, operator: Operator
) -> None:
    await operator.create(job_id="j", target_device_id="valve")
    await fleet.delete("valve")

    _, shown = await run_on_terminal("device", "valve")

    assert re.search(r"\x1b\[33mREJECTED \(device deleted\) *\x1b\[0m", shown)
