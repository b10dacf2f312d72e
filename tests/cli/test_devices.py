"""`jobs-grpc devices` and `groups`, except `devices import`."""

import asyncio
import csv
import io
import json
import os
import signal

import pytest
from fleet.jobs.v1.fleet_pb2 import Device
from grpc import StatusCode

from jobs_grpc.cli import devices
from jobs_grpc.services import fleet as fleet_service
from tests.support.callers import Fleet, Operator
from tests.support.cli import Shell, answer_on_terminal, cells, spawn
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.server import Server
from tests.support.waiting import TIMEOUT


@pytest.fixture
async def fleet(server: Server, tenant: str) -> Fleet:
    """A caller in the test's tenant, which has the devices pump-1, pump-2 and valve."""
    fleet = server.fleet(tenant)
    pump = {"model": "x200", "site": "Zürich, west"}
    await fleet.update(
        Device(device_id="pump-1", labels=pump, time_zone="UTC", group_ids=["north", "pumps"]),
        Device(device_id="pump-2", labels={"model": "x300"}, group_ids=["pumps"]),
        Device(device_id="valve"),
        mask=["labels", "time_zone", "group_ids"],
        allow_missing=True,
    )
    return fleet


@pytest.mark.usefixtures("fleet")
async def test_list_shows_groups_labels_and_zones(shell: Shell) -> None:
    listed = await shell("devices", "list")

    assert listed.err == ""
    assert [cells(line) for line in listed.out.splitlines()] == [
        ["DEVICE", "GROUPS", "LABELS", "TIME_ZONE", "LAST_SEEN"],
        ["pump-1", "north pumps", "model=x200 site=Zürich, west", "UTC", "-"],
        ["pump-2", "pumps", "model=x300", "-", "-"],
        ["valve", "-", "-", "-", "-"],
    ]


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        (["--where", "model"], ["pump-1", "pump-2"]),
        (["--where", "model!=x200"], ["pump-2", "valve"]),
        (["--where", 'group=pumps,site="Zürich, west"'], ["pump-1"]),
        (["--id-prefix", "pump-"], ["pump-1", "pump-2"]),
        (["--id-prefix", "pump-", "--where", "!site"], ["pump-2"]),
        (["--where", "!model", "--id-prefix", "pump-"], []),
    ],
    ids=" ".join,
)
async def test_list_shows_the_devices_that_match(
    shell: Shell, filters: list[str], ids: list[str]
) -> None:
    listed = await shell("devices", "list", "-o", "csv", "--columns", "device", *filters)

    assert (listed.code, listed.unquoted.split()[1:]) == (0, ids)


@pytest.mark.usefixtures("fleet")
async def test_list_for_programs_has_the_fields_of_the_contract(shell: Shell) -> None:
    as_csv = await shell("devices", "list", "-o", "csv")
    as_json = await shell("devices", "list", "--json", "--limit", "1")

    row = next(csv.DictReader(io.StringIO(as_csv.out)))
    labels = {"model": "x200", "site": "Zürich, west"}
    assert json.loads(row["labels"]) == labels
    assert json.loads(row["group_ids"]) == ["north", "pumps"]
    page = json.loads(as_json.out)
    (device,) = page["devices"]
    assert (device["device_id"], device["labels"]) == ("pump-1", labels)
    rest = await shell("devices", "list", "-o", "jsonl", "--page-token", page["next_page_token"])
    assert [json.loads(line)["device_id"] for line in rest.out.splitlines()] == ["pump-2", "valve"]


async def test_list_continues_over_pages_that_are_not_full(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 12_000)
    await database.add_labels(tenant, {"d00001": {"a": "1"}, "d11999": {"a": "1"}})

    listed = await shell("devices", "list", "--where", "a", "-o", "csv", "--columns", "device")

    assert listed.unquoted.split() == ["device_id", "d00001", "d11999"]


@pytest.mark.usefixtures("fleet")
async def test_list_fails_with_one_line_when_the_selector_is_malformed(shell: Shell) -> None:
    listed = await shell("devices", "list", "--where", "model=")

    assert (listed.code, listed.out, listed.err.count("\n")) == (2, "", 1)
    assert "at character 7, expected a value" in listed.err


@pytest.mark.usefixtures("fleet")
async def test_get_shows_the_device_and_its_queue(shell: Shell, operator: Operator) -> None:
    await operator.create(job_id="update-1", target_group_id="pumps")

    got = await shell("devices", "get", "pump-1")
    empty = await shell("devices", "get", "valve")

    lines = got.out.splitlines()
    assert lines[:6] == [
        "device    pump-1",
        "groups    north pumps",
        "labels    model=x200 site=Zürich, west",
        "time zone UTC",
        "last seen -",
        "",
    ]
    assert cells(lines[7])[:2] == ["update-1", "QUEUED"]
    assert empty.err == "the queue is empty\n"


@pytest.mark.usefixtures("fleet")
async def test_get_for_programs_has_the_queue(shell: Shell, operator: Operator) -> None:
    await operator.create(job_id="update-1", target_group_id="pumps")

    as_json = json.loads((await shell("devices", "get", "pump-2", "--json")).out)
    as_csv = await shell("devices", "get", "pump-2", "-o", "csv", "--columns", "job,status")

    assert (as_json["device_id"], as_json["labels"]) == ("pump-2", {"model": "x300"})
    assert [execution["job_id"] for execution in as_json["executions"]] == ["update-1"]
    assert as_csv.unquoted == "job_id,status\nupdate-1,QUEUED\n"


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("command", [("get", "nobody"), ("label", "nobody", "a=b")], ids=" ".join)
async def test_command_fails_with_one_line_when_the_device_is_unknown(
    shell: Shell, command: tuple[str, ...]
) -> None:
    result = await shell("devices", *command)

    assert (result.code, result.out, result.err.count("\n")) == (3, "", 1)
    assert "nobody" in result.err


async def test_label_sets_and_removes_labels(shell: Shell, fleet: Fleet) -> None:
    result = await shell("devices", "label", "pump-1", "pump-2", "ring=canary", "site-", "note==")

    assert (result.code, result.out, result.err) == (0, "updated 2 devices\n", "")
    expected = {"model": "x200", "ring": "canary", "note": "="}
    assert (await fleet.get("pump-1")).device.labels == expected
    assert (await fleet.get("pump-2")).device.labels == expected | {"model": "x300"}


async def test_label_changes_zone_and_groups_only_when_told_to(shell: Shell, fleet: Fleet) -> None:
    await shell("devices", "label", "pump-1", "--time-zone", "Europe/Berlin")
    zoned = (await fleet.get("pump-1")).device
    await shell("devices", "label", "pump-1", "--set-group", "south", "--time-zone", "")
    moved = (await fleet.get("pump-1")).device
    await shell("devices", "label", "pump-1", "--clear-groups")
    cleared = (await fleet.get("pump-1")).device

    assert (zoned.time_zone, [*zoned.group_ids]) == ("Europe/Berlin", ["north", "pumps"])
    assert (moved.time_zone, [*moved.group_ids]) == ("", ["south"])
    assert [*cleared.group_ids] == []
    assert cleared.labels == zoned.labels == {"model": "x200", "site": "Zürich, west"}


async def test_label_registers_devices_with_allow_missing(shell: Shell, fleet: Fleet) -> None:
    result = await shell("devices", "label", "valve", "new-1", "a=b", "--allow-missing")
    plain = await shell("devices", "label", "new-2", "--allow-missing", "-o", "jsonl")

    assert result.out == "registered 1 device\nupdated 1 device\n"
    assert json.loads(plain.out) == {"registered_count": 1, "updated_count": 0}
    assert (await fleet.get("new-1")).device.labels == {"a": "b"}


async def test_label_takes_ids_that_look_like_labels_as_options(shell: Shell, fleet: Fleet) -> None:
    ids = ("--device", "cn=pump,o=acme", "--device", "c-")
    await shell("devices", "label", "a=b", *ids, "--allow-missing")

    assert (await fleet.get("cn=pump,o=acme")).device.labels == {"a": "b"}


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["pump-1"], "nothing to change"),
        (["a=b"], "no device is given"),
        (["pump-1", "a=b", "pump-2"], "pump-2 is neither KEY=VALUE nor KEY-; IDs of devices come"),
        (["pump-1", "a=b", "a=c"], "the label a is given twice"),
        (["pump-1", "a=b", "a-"], "sets a, which remove_labels removes"),
        (["pump-1", "group=b"], "has the key group, which is reserved"),
        (["pump-1", "--time-zone", "Nowhere"], "time_zone must be an IANA time zone"),
    ],
    ids=str,
)
async def test_label_fails_with_one_line_when_the_change_is_invalid(
    shell: Shell, words: list[str], problem: str
) -> None:
    result = await shell("devices", "label", *words)

    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert problem in result.err


async def test_label_changes_more_devices_than_one_call_can(
    shell: Shell, database: Database, fleet: Fleet
) -> None:
    await database.add_devices(fleet.tenant, 1001)

    result = await shell("devices", "label", *(f"d{n:05}" for n in range(1, 1002)), "a=b")

    assert result.out == "updated 1,001 devices\n"
    assert (await fleet.get("d01001")).device.labels == {"a": "b"}


async def test_delete_removes_devices_and_rejects_their_executions(
    shell: Shell, fleet: Fleet, operator: Operator
) -> None:
    await operator.create(job_id="update-1", target_all=True)

    deleted = await shell("devices", "delete", "pump-1", "pump-2", "pump-1")
    again = await shell("devices", "delete", "pump-1", "--json")

    assert deleted.out == "deleted 2 devices, ended 2 executions\n"
    assert json.loads(again.out)["deleted_count"] == 0
    assert (await operator.get("update-1")).execution_counts.rejected == 2
    with expect_failure(StatusCode.NOT_FOUND, "DEVICE_NOT_FOUND"):
        await fleet.get("pump-1")


async def test_delete_repeats_the_call_while_executions_remain(
    shell: Shell, fleet: Fleet, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_service, "_MAX_ENDED", 1)
    for number in range(3):
        await operator.create(job_id=f"update-{number}", target_device_id="valve")

    deleted = await shell("devices", "delete", "valve")

    assert deleted.out == "deleted 1 device, ended 3 executions\n"


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["", "n", "y"])
async def test_delete_asks_on_a_terminal(server: Server, fleet: Fleet, answer: str) -> None:
    code, shown = await answer_on_terminal(
        *("delete 2 devices and end their QUEUED and HELD executions? [y/N] ", answer),
        *("devices", "delete", "pump-1", "pump-2"),
        JOBS_SERVER=server.address,
        JOBS_TENANT=fleet.tenant,
    )

    if answer == "y":
        assert code == 0
        assert "deleted 2 devices, ended 0 executions" in shown
    else:
        assert code == 1
        assert "nothing was changed; to delete without this question, add --yes" in shown
        await fleet.get("pump-1")


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


@pytest.mark.usefixtures("fleet")
async def test_groups_shows_the_number_of_devices(shell: Shell) -> None:
    listed = await shell("groups")
    as_json = await shell("groups", "--json", "--limit", "1")
    filtered = await shell("groups", "--id-prefix", "pu", "-o", "csv")

    assert listed.out == "GROUP  DEVICES\nnorth        1\npumps        2\n"
    page = json.loads(as_json.out)
    assert page["groups"] == [{"group_id": "north", "device_count": 1}]
    rest = await shell("groups", "--page-token", page["next_page_token"], "-o", "csv")
    assert rest.unquoted == filtered.unquoted == "group_id,device_count\npumps,2\n"


async def test_groups_shows_that_a_group_has_more_devices_than_are_counted(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 10_001, group="large")

    assert cells((await shell("groups")).out.splitlines()[1]) == ["large", "10,000+"]
    assert (await shell("groups", "-o", "csv")).unquoted.endswith("large,10001\n")


@pytest.mark.usefixtures("fleet")
async def test_label_after_an_option_is_not_taken_for_a_group_or_a_device(shell: Shell) -> None:
    for option in ("--set-group", "--device"):
        result = await shell("devices", "label", "pump-1", option, "pump-2", "model=x300")
        assert (result.code, result.out) == (2, "")
