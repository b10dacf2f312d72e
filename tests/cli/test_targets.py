"""The targets of `jobs-grpc create` and `preview`."""

import asyncio
import fcntl
import io
import json
import os
import signal
import termios
from pathlib import Path

import pytest

from tests.support.cli import Shell, spawn
from tests.support.database import Database
from tests.support.waiting import TIMEOUT, wait_until_true

CREATE = ("create", "--type", "x", "--job-id", "j")


@pytest.fixture(autouse=True)
async def fleet(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, 8)
    await database.add_labels(tenant, {d: {"model": "a"} for d in ("d00001", "d00002")})


async def test_preview_prints_json(shell: Shell) -> None:
    shown = await shell("preview", "--all", "--json")

    preview = json.loads(shown.out)
    assert (preview["device_count"], len(preview["device_ids"])) == (8, 8)
    created = await shell(*CREATE, "--all", "--expected-target-digest", preview["target_digest"])
    assert created.code == 0


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"d00001\n\xff\n", "can't read -: not UTF-8"), (None, "standard input is closed")],
)
async def test_create_rejects_devices_of_standard_input_that_it_cannot_read(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, content: bytes | None, error: str
) -> None:
    # With the locale C, Python decodes any bytes.
    stdin = content and io.TextIOWrapper(io.BytesIO(content), "ascii", "surrogateescape")
    monkeypatch.setattr("sys.stdin", stdin)

    created = await shell(*CREATE, "--devices-file", "-")

    assert (created.code, created.err) == (2, f"jobs-grpc: {error}\n")


@pytest.mark.slow
async def test_ctrl_c_ends_create_while_it_reads_the_devices(tmp_path: Path) -> None:
    pipe = tmp_path / "devices"
    os.mkfifo(pipe)
    process = await spawn(
        *(*CREATE, "--devices-file", str(pipe)), JOBS_SERVER="127.0.0.1:1", JOBS_TENANT="t"
    )
    # Returns when the command has opened the other end.
    with await asyncio.to_thread(pipe.open, "wb", 0) as writer:
        writer.write(b"d")
        # It has read that.
        await wait_until_true(lambda: fcntl.ioctl(writer, termios.FIONREAD, bytes(4)) == bytes(4))
        process.send_signal(signal.SIGINT)
        output = await asyncio.wait_for(process.communicate(), TIMEOUT)

    assert (process.returncode, output) == (130, (b"", b""))
