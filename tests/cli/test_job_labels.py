"""Labels, descriptions and prefixes in the commands of jobs."""

import json

import pytest

from tests.support.cli import Shell, cells
from tests.support.database import Database

CREATE = ("create", "--type", "x", "--all", "--job-id")


@pytest.fixture(autouse=True)
async def jobs(database: Database, shell: Shell, tenant: str) -> None:
    """The job "a", with labels and a description, and the job "b" without."""
    await database.add_devices(tenant, ["pump-1", "pump-2", "valve-1"], group="north")
    labels = ("--label", "wave=1", "--label", "team=pumps, west")
    created = await shell(*CREATE, "a", *labels, "--description", "Second try")
    assert created.code == 0, created.err
    await shell(*CREATE, "b", "--stage", "group:north", "--stage", "rest")


async def test_get_shows_labels_and_description(shell: Shell) -> None:
    got = await shell("get", "a")
    without = await shell("get", "b")
    as_json = json.loads((await shell("get", "a", "--json")).out)

    assert "labels        team=pumps, west wave=1\n" in got.out
    assert "description   Second try\n" in got.out
    assert "labels" not in without.out
    assert "description" not in without.out
    assert as_json["labels"] == {"team": "pumps, west", "wave": "1"}


async def test_list_selects_by_labels_and_prefix(shell: Shell) -> None:
    columns = ("-o", "csv", "--columns", "job_id")
    for option, expected in (
        (("--where", 'wave in (1,2),team="pumps, west"'), "a"),
        (("--where", "!wave"), "b"),
        (("--id-prefix", "a"), "a"),
    ):
        listed = await shell("list", *option, *columns)
        assert listed.unquoted == f"job_id\n{expected}\n"
    invalid = await shell("list", "--where", "wave=")

    assert invalid.code != 0
    assert "at character 6, expected a value" in invalid.err


async def test_list_has_columns_for_labels_and_description(shell: Shell) -> None:
    columns = ("--columns", "job,labels,description")

    table = await shell("list", *columns)
    csv = await shell("list", *columns, "-o", "csv")
    [_, row] = json.loads((await shell("list", *columns, "--json")).out)["jobs"]

    assert [cells(line) for line in table.out.splitlines()] == [
        ["JOB", "LABELS", "DESCRIPTION"],
        ["b", "-", "-"],
        ["a", "team=pumps, west wave=1", "Second try"],
    ]
    assert csv.unquoted.splitlines()[1] == "b,,"
    assert csv.unquoted.splitlines()[2].endswith(",Second try")
    assert row["labels"] == {"team": "pumps, west", "wave": "1"}


async def test_update_replaces_labels_and_description(shell: Shell) -> None:
    await shell("cancel", "a")

    updated = await shell("update", "a", "--label", "wave=2", "--description", "")
    job = json.loads((await shell("get", "a", "--json")).out)
    await shell("update", "a", "--no-labels")
    removed = json.loads((await shell("get", "a", "--json")).out)

    assert updated.out == "updated a: labels, description\n"
    assert (job["labels"], job["description"]) == ({"wave": "2"}, "")
    assert removed["labels"] == {}


@pytest.mark.parametrize("value", ["team", "=pumps", ""])
async def test_label_is_rejected_when_it_is_not_key_and_value(shell: Shell, value: str) -> None:
    created = await shell(*CREATE, "c", "--label", value)

    assert created.code == 2
    assert "--label: must be KEY=VALUE, such as team=pumps" in created.err


async def test_get_and_export_filter_by_stage_and_device_prefix(shell: Shell) -> None:
    filters = ("--stage", "0", "--device-prefix", "pump-")
    columns = ("-o", "csv", "--columns", "device")

    for command in ("get", "export"):
        shown = await shell(command, "b", *filters, *columns)
        assert shown.unquoted == "device_id\npump-1\npump-2\n"
    empty = await shell("get", "b", "--stage", "1", *columns)

    assert empty.unquoted == "device_id\n"
