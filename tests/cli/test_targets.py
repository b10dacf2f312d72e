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
from tests.support.waiting import TIMEOUT, wait_until

CREATE = ("create", "--type", "x", "--job-id", "j")


@pytest.fixture(autouse=True)
async def fleet(database: Database, tenant: str) -> None:
    """Eight devices; d00001 and d00002 have the model a."""
    await database.add_devices(tenant, 8)
    await database.add_labels(tenant, {d: {"model": "a"} for d in ("d00001", "d00002")})


async def test_preview_shows_devices_stages_and_other_jobs(shell: Shell) -> None:
    await shell("create", "--type", "x", "--device", "d00002", "--job-id", "other")

    shown = await shell("preview", "--where", "!x", "--stage", "where:model=a", "--stage", "rest")
    few = await shell("preview", "--where", "model=a")

    digest = shown.out.splitlines()[-1]
    assert shown.out.splitlines()[:-1] == [
        "8 devices: d00001, d00002, d00003, d00004, d00005, …",
        " 0 model=a  2 devices",
        " 1 rest     6 devices",
        "other jobs with pending executions on them: other",
    ]
    assert digest.startswith("digest 8-")
    assert few.out.startswith("2 devices: d00001, d00002\n")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (("--where", "model=none"), "TARGET_EMPTY"),
        (("--group", "none"), "GROUP_EMPTY"),
        (("--device", "none"), "DEVICE_NOT_FOUND"),
    ],
)
async def test_preview_says_that_create_would_fail_without_devices(
    shell: Shell, target: tuple[str, ...], reason: str
) -> None:
    shown = await shell("preview", *target)

    assert shown.out.endswith(f"`create` would fail with {reason}\n")
    assert (await shell(*CREATE, *target)).code != 0


async def test_preview_and_create_suggest_a_label_and_a_group(
    database: Database, shell: Shell, tenant: str
) -> None:
    await database.add_devices(tenant, ["d00001"], group="north")
    label = "no device has the label modell; did you mean model?"
    group = "no device is in group nort; did you mean north?"

    shown = await shell("preview", "--where", "modell=a")
    stages = await shell("preview", "--all", "--stage", "group:nort", "--stage", "rest")
    created = await shell(*CREATE, "--where", "modell=a", "--preview", "--yes")
    of_group = await shell(*CREATE, "--group", "nort")

    assert shown.out.splitlines()[:2] == ["0 devices", label]
    assert f"stage 0: {group}" in stages.out.splitlines()
    assert created.err.endswith(f"No device matches modell=a ({label})\n")
    assert of_group.err.endswith(f"group nort has no members in tenant {tenant} ({group})\n")


async def test_preview_prints_json(shell: Shell) -> None:
    shown = await shell("preview", "--all", "--json")

    preview = json.loads(shown.out)
    assert (preview["device_count"], len(preview["device_ids"])) == (8, 8)
    created = await shell(*CREATE, "--all", "--expected-target-digest", preview["target_digest"])
    assert created.code == 0


async def test_create_with_preview_shows_the_devices_and_creates_the_job(shell: Shell) -> None:
    created = await shell(*CREATE, "--where", "model=a", "--preview", "--yes")

    assert created.code == 0
    assert created.err == "2 devices: d00001, d00002\n"
    assert created.out.startswith("created j for 2 devices, expires: ")


async def test_create_with_preview_needs_a_terminal_or_yes(shell: Shell) -> None:
    created = await shell(*CREATE, "--where", "model=a", "--preview")

    assert created.code == 2
    assert (
        created.err == "jobs-grpc: --preview needs a terminal to ask for confirmation; add --yes\n"
    )


@pytest.mark.parametrize(
    ("options", "target"),
    [
        (("--where", "model == a"), "where model=a"),
        (("--device", "d00001"), "device d00001"),
        (("--device", "d00001", "--device", "d00002", "d00001"), "list of 2 devices"),
        (("--failed-in", "first", "--status", "REJECTED"), "failed in first (REJECTED)"),
        (
            ("--failed-in", "first", "--where", "model=a"),
            "failed in first (FAILED, TIMED_OUT, REJECTED) where model=a",
        ),
    ],
)
async def test_get_shows_the_target(shell: Shell, options: tuple[str, ...], target: str) -> None:
    await shell("create", "--type", "x", "--all", "--job-id", "first")
    await shell("cancel", "first")

    created = await shell(*CREATE, *options)
    got = await shell("get", "j")

    assert created.code == 0, created.err
    assert f"target        {target}\n" in got.out


async def test_create_reads_devices_from_a_file(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "devices.txt"
    # Editors of Windows write a byte order mark and CRLF.
    file.write_bytes(b"\xef\xbb\xbfd00003\r\n\r\n d00001 \r\n")

    created = await shell(*CREATE, "--devices-file", str(file))

    assert created.out.startswith("created j for 2 devices")


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

        async def has_read() -> bool:
            return fcntl.ioctl(writer, termios.FIONREAD, bytes(4)) == bytes(4)

        await wait_until(has_read)
        process.send_signal(signal.SIGINT)
        output = await asyncio.wait_for(process.communicate(), TIMEOUT)

    assert (process.returncode, output) == (130, (b"", b""))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ((), "a target is required, such as --device, --group, --where or --all"),
        (("--all", "--where", ""), "--where is empty; --all targets all devices"),
        (("--group", ""), "--group is empty; --all targets all devices"),
        (("--device", ""), "--device is empty; --all targets all devices"),
        (("--all", "--where", "a"), "--where can be combined only with --failed-in"),
        (("--all", "--status", "FAILED"), "--status and --failure-code need --failed-in"),
        (("--devices-file", "/dev/null"), "/dev/null has no device"),
        (("--devices-file", "/missing"), "can't read /missing: No such file or directory"),
    ],
)
async def test_create_rejects_wrong_targets(
    shell: Shell, options: tuple[str, ...], error: str
) -> None:
    created = await shell(*CREATE, *options)

    assert created.code == 2
    assert created.err.endswith(f": {error}\n")
