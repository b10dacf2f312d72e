"""The file of `jobs-grpc export --to FILE`, and what else may be in its folder."""

import csv
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import pytest

from jobs_grpc.cli import export
from jobs_grpc.cli.errors import CliError
from jobs_grpc.cli.export_file import ExportFile, ExportState
from tests.support.callers import Operator
from tests.support.cli import Shell
from tests.support.database import Database


@pytest.fixture(autouse=True)
async def job(database: Database, operator: Operator, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job "j" of 30 devices, which are exported in pages of ten."""
    monkeypatch.setattr(export, "_PAGE_SIZE", 10)
    await database.add_devices(operator.tenant, 30)
    await operator.create(job_id="j", target_all=True)
    return "j"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of the export, in a folder of its own."""
    (tmp_path / "exports").mkdir()
    return tmp_path / "exports" / "a.csv"


async def interrupt(shell: Shell, file: Path) -> None:
    """Run an export that Ctrl-C interrupts after the first page."""
    save = ExportFile.save_state

    def save_and_interrupt(self: ExportFile, state: ExportState, rows: TextIO) -> None:
        save(self, state, rows)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ExportFile, "save_state", save_and_interrupt)
        result = await shell("export", "j", "--to", str(file))
    assert result.code == 130


def device_ids(file: Path) -> list[str]:
    with file.open() as opened:
        return [row["device_id"] for row in csv.DictReader(opened)]


def with_suffix(file: Path, suffix: str) -> Path:
    return Path(f"{file}{suffix}")


def create(file: Path, permissions: int) -> None:
    file.touch()
    file.chmod(permissions)


def change_state(file: Path, change: Callable[[dict[str, Any]], str]) -> Path:
    state_file = with_suffix(file, ".part.json")
    state_file.write_text(change(json.loads(state_file.read_text())))
    return state_file


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


async def test_resume_is_rejected_when_job_was_created_again(
    shell: Shell, operator: Operator, database: Database, file: Path
) -> None:
    await interrupt(shell, file)
    await operator.cancel("j", force=True)
    await operator.delete("j")
    await database.owner.execute("SELECT jobs.purge_job($1, 'j', '', 1000, 0)", operator.tenant)
    deleted = await shell("export", "j", "--to", str(file), "--resume")
    await operator.create(job_id="j", target_all=True)
    resumed = await shell("export", "j", "--to", str(file), "--resume")
    again = await shell("export", "j", "--to", str(file))

    assert deleted.code == 3
    assert (resumed.code, resumed.err.count("\n")) == (4, 1)
    assert "j is another job than the one of the interrupted export: it was created" in resumed.err
    assert resumed.err.endswith("; export again without --resume\n")
    assert (again.code, len(device_ids(file))) == (0, 30)


@pytest.mark.parametrize("suffix", ["", ".part", ".part.json"])
async def test_export_does_not_write_through_symbolic_links(
    shell: Shell, file: Path, suffix: str
) -> None:
    victim = file.parent.parent / "victim"
    victim.write_text("kept")
    link = with_suffix(file, suffix)
    link.symlink_to(victim)

    exported = await shell("export", "j", "--to", str(file))
    resumed = await shell("export", "j", "--to", str(file), "--resume")

    assert victim.read_text() == "kept"
    if suffix == ".part.json":  # The export replaces the link.
        assert (exported.code, len(device_ids(file))) == (0, 30)
        return
    problem = f"jobs-grpc: can't write {link}: it is a symbolic link; remove it or name another"
    assert (exported.code, exported.err) == (2, f"{problem} file\n")
    assert resumed.code == 2
    assert link.readlink() == victim


async def test_resume_does_not_follow_links_to_another_file(shell: Shell, file: Path) -> None:
    await interrupt(shell, file)
    part = with_suffix(file, ".part")
    victim = part.rename(file.parent.parent / "victim")
    before = victim.read_text()
    for link in (part.symlink_to, part.hardlink_to):
        link(victim)
        resumed = await shell("export", "j", "--to", str(file), "--resume")
        part.unlink()

        assert (resumed.code, resumed.err.count("\n")) == (2, 1)
    assert victim.read_text() == before


@pytest.mark.parametrize("suffix", ["", ".part", ".part.json"])
async def test_export_refuses_fifos_without_waiting(shell: Shell, file: Path, suffix: str) -> None:
    fifo = with_suffix(file, suffix)
    os.mkfifo(fifo)

    if suffix != ".part.json":
        exported = await shell("export", "j", "--to", str(file))
        assert exported.code == 2
        assert exported.err.startswith(f"jobs-grpc: can't write {fifo}: it is not a regular file;")
    resumed = await shell("export", "j", "--to", str(file), "--resume")

    assert (resumed.code, resumed.err.count("\n")) == (2, 1)
    assert fifo.is_fifo()


@pytest.mark.parametrize(
    ("to", "problem"),
    [
        (".", "can't write .: it is a folder; name a file in it"),
        ("", "can't write .: it is a folder; name a file in it"),
        ("/", "can't write /: it is a folder; name a file in it"),
        ("/dev/null", "can't write /dev/null: it is not a regular file; without --to, rows"),
    ],
)
async def test_export_rejects_a_path_that_is_not_a_regular_file(
    shell: Shell, to: str, problem: str
) -> None:
    for options in ([], ["--resume"]):
        exported = await shell("export", "j", "--to", to, *options)

        assert (exported.code, exported.err.count("\n")) == (2, 1)
        assert exported.err.startswith(f"jobs-grpc: {problem}")


@pytest.mark.parametrize("permissions", [0o600, 0o640, 0o664, 0o444])
async def test_export_keeps_the_mode_of_the_file(
    shell: Shell, file: Path, permissions: int
) -> None:
    create(file, permissions)
    await interrupt(shell, file)

    part_mode = mode(with_suffix(file, ".part"))
    await shell("export", "j", "--to", str(file), "--resume")

    assert part_mode == permissions | 0o600  # --resume opens it again
    assert (mode(file), len(device_ids(file))) == (permissions, 30)
    assert [path.name for path in file.parent.iterdir()] == ["a.csv"]


async def test_new_file_has_the_mode_of_the_umask(shell: Shell, file: Path) -> None:
    before = os.umask(0o027)
    try:
        await shell("export", "j", "--to", str(file))
    finally:
        os.umask(before)

    assert mode(file) == 0o640


DAMAGE = {
    "not JSON": "{",
    "null": "null",
    "a list": "[1]",
    "a string": '"x"',
    "nested too deeply": "[" * 100_000,
    "an unknown field": {"other": 1},
    "no token": {"page_token": ""},
    "a token that is a number": {"page_token": 5},
    "a token that is not UTF-8": {"page_token": "\ud800"},
    "a request that is a list": {"request": []},
    "a count that is a string": {"row_count": "10"},
    "a size that is a string": {"size": "10"},
    "a size below 0": {"size": -1},
    "a size that is a fraction": {"size": 1.5},
    "a size that is no number": {"size": float("nan")},
    "no size": {"size": None},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_resume_names_a_damaged_state(
    shell: Shell, file: Path, damage: str | dict[str, object]
) -> None:
    await interrupt(shell, file)
    state_file = change_state(
        file, lambda state: damage if isinstance(damage, str) else json.dumps(state | damage)
    )

    resumed = await shell("export", "j", "--to", str(file), "--resume")
    assert (resumed.code, resumed.err) == (
        2,
        f"jobs-grpc: can't read {state_file}; export again without --resume\n",
    )
    exported = await shell("export", "j", "--to", str(file))
    assert (exported.code, len(device_ids(file))) == (0, 30)


async def test_resume_names_what_differs_in_the_state(shell: Shell, file: Path) -> None:
    await interrupt(shell, file)
    change_state(
        file, lambda state: json.dumps(state | {"request": state["request"] | {"more": 1}})
    )

    resumed = await shell("export", "j", "--to", str(file), "--resume", "--raw")

    assert resumed.err.endswith(
        "a.csv.part.json belongs to a different export: raw, more differs\n"
    )


async def test_export_leaves_the_state_and_the_rows_of_a_later_export(
    shell: Shell, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ExportFile.save_state

    def start_another(self: ExportFile, state: ExportState, rows: TextIO) -> None:
        part = with_suffix(file, ".part")
        part.unlink()
        part.write_text("the rows of another export")
        with_suffix(file, ".part.json").write_text("the state of another export")
        save(self, state, rows)

    monkeypatch.setattr(ExportFile, "save_state", start_another)
    exported = await shell("export", "j", "--to", str(file))

    assert exported.code == 1
    assert f"another export has replaced {file}.part; export again" in exported.err
    left = {path.name: path.read_text() for path in file.parent.iterdir()}
    assert left == {
        "a.csv.part": "the rows of another export",
        "a.csv.part.json": "the state of another export",
    }


async def test_export_that_fails_keeps_the_rows_of_a_later_export(
    shell: Shell, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_another(self: ExportFile, state: ExportState, rows: TextIO) -> None:
        with_suffix(file, ".part").unlink()
        with_suffix(file, ".part").write_text("the first rows of another export")
        raise CliError("failed")

    monkeypatch.setattr(ExportFile, "save_state", start_another)
    await shell("export", "j", "--to", str(file))

    assert [path.name for path in file.parent.iterdir()] == ["a.csv.part"]


async def test_export_fails_when_another_export_replaces_its_rows(
    shell: Shell, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ExportFile.save_state

    def replace_part(self: ExportFile, state: ExportState, rows: TextIO) -> None:
        save(self, state, rows)
        part = with_suffix(file, ".part")
        part.unlink()
        part.write_text("the rows of another export")

    monkeypatch.setattr(ExportFile, "save_state", replace_part)
    exported = await shell("export", "j", "--to", str(file))

    assert exported.code == 1
    assert exported.err.splitlines()[-1].endswith(
        f"another export has replaced {file}.part; export again"
    )
    left = {path.name for path in file.parent.iterdir()}
    assert left == {"a.csv.part", "a.csv.part.json"}
