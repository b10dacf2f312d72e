"""The tables of `jobs-grpc list` and `get` on terminals of different widths."""

import re
import uuid

import pytest

from tests.support.callers import Operator
from tests.support.cli import run_on_terminal
from tests.support.database import Database
from tests.support.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shell")]

ALL_COLUMNS = ["JOB", "STATUS", "TYPE", "TARGET", "DEVICES", "OK", "NOT_OK", "CREATED"]


def plain_lines(shown: str) -> list[str]:
    """Return the lines without colors and trailing spaces, and without the note about columns."""
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()]
    return [line for line in lines if not line.startswith("hidden")]


@pytest.mark.parametrize(
    ("columns", "header"),
    [
        (40, ["JOB"]),
        (60, ["JOB", "STATUS", "TARGET"]),
        (80, [name for name in ALL_COLUMNS if name not in ("TYPE", "CREATED")]),
        (100, ALL_COLUMNS),
        (140, ALL_COLUMNS),
    ],
)
async def test_table_drops_columns_but_keeps_whole_ids_when_terminal_is_narrow(
    database: Database, operator: Operator, columns: int, header: list[str]
) -> None:
    await database.add_devices(operator.tenant, 1, group="north")
    ids = [(await operator.create(target_group_id="north")).job_id for _ in range(2)]
    assert len(ids[0]) == len(str(uuid.uuid4()))

    code, shown = await run_on_terminal("list", columns=columns)

    lines = plain_lines(shown)
    hidden = [name for name in ALL_COLUMNS if name not in header]
    note = f"hidden, because the terminal is narrow: {', '.join(hidden)} (see -o wide)"
    assert code == 0
    assert (note in shown) == bool(hidden)
    assert lines[0].split() == header
    assert [line.split()[0] for line in lines[1:]] == ids[::-1]
    assert columns < 80 or all(" group north " in line for line in lines[1:])
    assert all(len(line) <= columns for line in lines)


async def test_wide_table_has_all_columns_in_lines_that_do_not_wrap(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1000, group="north")
    created = await operator.create(
        target_group_id="north", document_type="firmware-update", in_progress_timeout_minutes=60
    )

    _, shown = await run_on_terminal("list", "-o", "wide", columns=180)

    header, row = plain_lines(shown)
    assert len(header.split()) == 18
    assert row.startswith(created.job_id)
    assert max(len(header), len(row)) <= 180


async def test_table_marks_shortened_cells_with_ellipsis(
    database: Database, operator: Operator
) -> None:
    device = str(uuid.uuid4())
    await database.add_devices(operator.tenant, [device])
    await operator.create(document_type="firmware-update " * 6, target_device_id=device)

    _, shown = await run_on_terminal("list", columns=120)

    header, row = plain_lines(shown)
    assert header.split() == ALL_COLUMNS
    assert len(re.findall(r"  (fir\S*|device [\w-]+)…(?=  )", row)) == 2


async def test_table_colors_a_status_that_says_how_the_execution_ended(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["d"])
    await operator.create(job_id="j", target_all=True)
    await server.fleet(operator.tenant).delete("d")

    _, shown = await run_on_terminal("device", "d")

    assert re.search(r"\x1b\[33mREJECTED \(removed\) *\x1b\[0m", shown)


async def test_table_keeps_id_in_one_piece_when_it_is_wider_than_terminal(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["d" * 100])
    await operator.create(job_id="j" * 100, target_all=True)

    _, jobs = await run_on_terminal("list", columns=80)
    _, job = await run_on_terminal("get", "j" * 100, columns=80)

    assert plain_lines(jobs)[0].split()[0] == "JOB"
    assert "j" * 100 in jobs
    assert "d" * 100 in job


async def test_table_wraps_status_details_instead_of_cutting_them(
    database: Database, operator: Operator
) -> None:
    device = str(uuid.uuid4())
    await database.add_devices(operator.tenant, [device])
    await operator.create(job_id="j", target_all=True)
    reason = "".join(f"{number:04}" for number in range(50))
    await operator.cancel("j", reason=reason)

    _, shown = await run_on_terminal("get", "j", columns=80)

    table = plain_lines(shown.partition("DEVICE ")[2])
    assert table[1].startswith(f"{device} CANCELED")
    assert all(len(line) <= 80 for line in table)
    assert reason in "".join(line.strip() for line in table[1:])
