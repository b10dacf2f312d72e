"""`jobs-grpc create`."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from tests.support.cli import Shell, spawn
from tests.support.database import Database
from tests.support.waiting import TIMEOUT

CREATE = ("create", "--type", "x", "--all", "--job-id", "j")


@pytest.mark.parametrize("error", [KeyError("uid not found"), OSError("no user")])
async def test_create_sends_no_user_when_account_has_no_name(
    shell: Shell, database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail() -> str:
        raise error

    await database.add_devices(tenant, 1)
    monkeypatch.delenv("JOBS_USER")
    monkeypatch.setattr("getpass.getuser", fail)

    created = await shell(*CREATE)

    assert created.code == 0
    assert "created_by" not in json.loads((await shell("get", "j", "--json")).out)


@pytest.mark.slow
async def test_create_names_the_id_of_the_job_when_ctrl_c_interrupts_it() -> None:
    called = asyncio.Event()

    async def be_silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        await process.wait()
        writer.close()

    silent = await asyncio.start_server(be_silent, "127.0.0.1", 0)
    async with silent, asyncio.timeout(TIMEOUT):
        host, port = silent.sockets[0].getsockname()
        process = await spawn(
            *("create", "--type", "x", "--all"), JOBS_SERVER=f"{host}:{port}", JOBS_TENANT="t"
        )
        await called.wait()
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()

    assert process.returncode == 130
    assert errors.startswith(
        b"interrupted; to repeat the command without creating a second job, add --job-id "
    )


async def test_create_rejects_a_file_of_params_that_is_not_utf8(
    shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "params.json"
    file.write_bytes(b'{"name": "\xff"}')

    created = await shell(*CREATE, "--params", f"@{file}")

    assert (created.code, created.err) == (2, f"jobs-grpc: can't read {file}: not UTF-8\n")
