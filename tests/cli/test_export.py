"""`jobs-grpc export`."""

import asyncio
import csv
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import get
from jobs_grpc.client import JobsClient
from tests.support.callers import Operator
from tests.support.cli import Shell, run_on_terminal, spawn
from tests.support.database import Database
from tests.support.scale import SCALE
from tests.support.scripted_server import Answer, Refusal, running_scripted_server
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

_DEVICES = 30


@pytest.fixture
async def job(database: Database, operator: Operator, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job of 30 devices, which are exported in pages of ten."""
    monkeypatch.setattr(get, "_PAGE_SIZE", 10)
    await database.add_devices(operator.tenant, _DEVICES)
    await operator.create(job_id="j", target_all=True)
    return "j"


def ids(count: int = _DEVICES) -> list[str]:
    return [f"d{number:05}" for number in range(1, count + 1)]


async def test_export_writes_all_executions_as_csv(shell: Shell, job: str) -> None:
    exported = await shell("export", job)

    rows = list(csv.DictReader(io.StringIO(exported.out)))
    assert (exported.code, exported.err) == (0, "")
    assert [row["device_id"] for row in rows] == ids()
    assert {row["status"] for row in rows} == {"QUEUED"}


async def test_export_writes_the_matching_executions_to_a_file(
    shell: Shell, job: str, database: Database, tenant: str, tmp_path: Path
) -> None:
    await database.set_status(tenant, job, "d00007", "FAILED")
    file = tmp_path / "failed.jsonl"

    exported = await shell("export", job, "--to", str(file), "--status", "FAILED")

    assert exported.out == f"exported 1 execution to {file}\n"
    assert [json.loads(line)["device_id"] for line in _lines(file)] == ["d00007"]
    assert _names(tmp_path) == ["failed.jsonl"]


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.mark.parametrize("command", ["export", "get"])
async def test_csv_quotes_cells_that_a_spreadsheet_would_run(shell: Shell, command: str) -> None:
    escaped = {
        "=1+1": "'=1+1",
        "+1": "'+1",
        "-1": "'-1",
        "@SUM(A1)": "'@SUM(A1)",
        " =1": "' =1",
        "\tx": "'\tx",
        "\rx": "'\rx",
        ";@SUM(1)": ";'@SUM(1)",
        "a;=1": "a;'=1",
        "a,-1|+1": "a,'-1|'+1",
        "\uff1d1+1": "'\uff1d1+1",
        "a;\uff20SUM(1)": "a;'\uff20SUM(1)",
        "a; =SUM(1)": "a;' =SUM(1)",
        "a, \uff1d1": "a,' \uff1d1",
        "a, -2+cmd": "a,' -2+cmd",
        "a=1": "a=1",
        "[1, -2, -2.5e-7]": "[1, -2, -2.5e-7]",
        "x-1": "x-1",
    }
    codes = list(escaped)
    page = pb.ListJobExecutionsResponse(
        executions=[pb.JobExecution(device_id=code, failure_code=code) for code in codes]
    )

    async def exported(*options: str) -> list[str]:
        async with running_scripted_server(**_pages(page)) as server:
            result = await shell(
                *(command, "j", "--columns", "device,code", "--server", server.address, *options)
            )
        return result.out.split("\n")[1:-1]

    assert await exported("-o", "csv") == [f'"{code}","{code}"' for code in escaped.values()]
    assert await exported("-o", "csv", "--raw") == [f'"{code}","{code}"' for code in codes]


async def test_export_leaves_no_file_when_the_job_does_not_exist(
    shell: Shell, tmp_path: Path
) -> None:
    exported = await shell("export", "nowhere", "--to", str(tmp_path / "a.csv"))

    assert (exported.code, _names(tmp_path)) == (3, [])


async def test_export_prints_nothing_to_stdout_when_the_job_does_not_exist(shell: Shell) -> None:
    exported = await shell("export", "nowhere")

    assert (exported.code, exported.out) == (3, "")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_export_leaves_no_file_when_a_signal_stops_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    called = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        process = await spawn(
            *("export", "j", "--to", str(tmp_path / "a.csv")),
            JOBS_SERVER=f"{host}:{port}",
            JOBS_TENANT="t",
        )
        async with asyncio.timeout(TIMEOUT):
            await called.wait()
            assert [name.endswith(".part") for name in _names(tmp_path)] == [True]
            process.send_signal(number)
            out, err = await process.communicate()

    assert (process.returncode, out, err) == (130, b"", b"")
    assert _names(tmp_path) == []


async def test_export_does_not_blame_the_file_when_a_call_fails(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(JobsClient, "executions", fail)

    exported = await shell("export", "j", "--to", str(tmp_path / "a.csv"))

    assert exported.err == "jobs-grpc: [Errno 104] Connection reset by peer\n"
    assert _names(tmp_path) == []


async def test_export_names_the_file_when_the_disk_is_full(
    shell: Shell, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = str(_existing(tmp_path / "a.csv.part", ""))
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_: (os.open("/dev/full", os.O_WRONLY), part))

    exported = await shell("export", job, "--to", str(tmp_path / "a.csv"))

    assert (exported.code, exported.err) == (
        1,
        f"jobs-grpc: can't write {tmp_path}/a.csv: No space left on device\n",
    )
    assert _names(tmp_path) == []


async def test_export_names_the_file_that_it_cannot_write(
    shell: Shell, job: str, tmp_path: Path
) -> None:
    exported = await shell("export", job, "--to", str(tmp_path / "gone" / "a.csv"))

    assert exported.code == 1
    assert exported.err.startswith(f"jobs-grpc: can't write {tmp_path}/gone/a.csv: No such file")


BROKEN = Refusal(grpc.StatusCode.INTERNAL, reason="INTERNAL")


def _pages(*pages: Answer) -> dict[str, list[Answer]]:
    job = pb.GetJobResponse(job=pb.Job(job_id="j", total_executions=3))  # `get` reads it
    return {"GetJob": [job], "ListJobExecutions": list(pages)}


def _page(*devices: str, token: str = "") -> pb.ListJobExecutionsResponse:
    executions = [pb.JobExecution(device_id=device) for device in devices]
    return pb.ListJobExecutionsResponse(executions=executions, next_page_token=token)


async def test_export_replaces_a_file_only_when_it_is_complete(
    shell: Shell, tmp_path: Path
) -> None:
    file = _existing(tmp_path / "a.csv", "old\n")
    async with running_scripted_server(**_pages(_page("a", token="t"), BROKEN)) as server:
        await shell("export", "j", "--to", str(file), "--server", server.address)

    assert _lines(file) == ["old"]
    assert _names(tmp_path) == ["a.csv"]


def _existing(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


async def test_export_does_not_write_through_a_symbolic_link(
    shell: Shell, job: str, tmp_path: Path
) -> None:
    link = tmp_path / "a.csv"
    link.symlink_to(_existing(tmp_path / "victim", "kept"))

    exported = await shell("export", job, "--to", str(link))

    assert (exported.code, exported.err) == (
        2,
        f"jobs-grpc: can't write {link}: it is a symbolic link; remove it or name another file\n",
    )
    assert link.read_text() == "kept"


@pytest.mark.parametrize(
    ("to", "problem"),
    [
        (".", "can't write .: it is a folder; name a file in it"),
        ("", "can't write .: it is a folder; name a file in it"),
        ("/dev/null", "can't write /dev/null: it is not a regular file; without --to, rows"),
    ],
)
async def test_export_rejects_a_path_that_is_not_a_regular_file(
    shell: Shell, job: str, to: str, problem: str
) -> None:
    exported = await shell("export", job, "--to", to)

    assert (exported.code, exported.err.count("\n")) == (2, 1)
    assert exported.err.startswith(f"jobs-grpc: {problem}")


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
async def test_export_keeps_the_mode_of_a_file_that_it_replaces(
    shell: Shell, job: str, tmp_path: Path, mode: int
) -> None:
    file = _existing(tmp_path / "a.csv", "old\n")
    file.chmod(mode)

    await shell("export", job, "--to", str(file))

    assert (stat.S_IMODE(file.stat().st_mode), len(_lines(file))) == (mode, 1 + _DEVICES)


async def test_export_gives_a_new_file_the_mode_of_the_umask(
    shell: Shell, job: str, tmp_path: Path
) -> None:
    before = os.umask(0o027)
    try:
        await shell("export", job, "--to", str(tmp_path / "a.csv"))
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == 0o640


@pytest.mark.slow
async def test_export_counts_executions_on_a_terminal(
    shell: Shell, job: str, tmp_path: Path
) -> None:
    code, shown = await run_on_terminal("export", job, "--to", str(tmp_path / "a.csv"))

    assert code == 0
    assert "\r\x1b[K30 executions" in shown
    assert "exported 30 executions to" in shown


# Prints the peak memory of a command in KiB.
_MEASURE = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "jobs_grpc.cli", *sys.argv[1:]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.timeout(120 * SCALE)
async def test_export_of_a_large_job_takes_as_much_memory_as_that_of_a_page(
    database: Database, server: Server, operator: Operator, tmp_path: Path
) -> None:
    devices = 30_000 * SCALE
    await database.add_devices(operator.tenant, devices)
    await operator.create(job_id="large", target_all=True)
    file = tmp_path / "large.csv"

    async def peak_mib(*filters: str) -> float:
        command = ("export", "large", "--to", str(file), *filters)
        environ = os.environ | {"JOBS_SERVER": server.address, "JOBS_TENANT": operator.tenant}
        measured = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", _MEASURE, *command],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        return int(measured.stdout.split()[-1]) / 1024

    nothing = await peak_mib("--status", "FAILED")
    everything = await peak_mib()

    assert len(_lines(file)) == 1 + devices
    assert everything - nothing < 30
