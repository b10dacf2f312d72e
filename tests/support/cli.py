"""Runs the command `jobs-grpc`, in this process or in one of its own."""

import asyncio
import os
import pty
import re
import sys
from dataclasses import dataclass

import pytest

from jobs_grpc.cli import run
from tests.support.waiting import TIMEOUT

# Restores the default handler of SIGINT. A process that is started in the background, as the tests
# are in CI, inherits SIGINT as ignored.
_COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from jobs_grpc.cli import main
main()
"""


@dataclass(frozen=True)
class Result:
    """The result of a command."""

    code: int
    out: str
    err: str


def cells(line: str) -> list[str]:
    """Return the cells of a line of a table."""
    return re.split(r" {2,}", line.strip())


def without_times(text: str) -> str:
    """Replace the times in UTC."""
    return re.sub(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ", "TIME", text)


class Shell:
    """Runs commands in a thread, so that a server in this event loop can respond to them."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def __call__(self, *argv: str) -> Result:
        """Run `jobs-grpc *argv`."""
        self._capsys.readouterr()
        code = await asyncio.to_thread(self._run, argv)
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)

    def _run(self, argv: tuple[str, ...]) -> int:
        try:
            return run(list(argv))
        except SystemExit as e:  # The argument parser exits on --help and on errors.
            return int(e.code or 0)


async def spawn(
    *argv: str, stdin: int | None = None, **variables: str
) -> asyncio.subprocess.Process:
    """Start `jobs-grpc *argv` in its own process group, so that a test can signal the group."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("JOBS_")} | variables
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _COMMAND,
        *argv,
        env=environ,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


async def run_on_terminal(*argv: str, columns: int = 80, **variables: str) -> tuple[int, str]:
    """Run `jobs-grpc *argv` on a terminal and return the exit code and everything it showed."""
    our_end, terminal = pty.openpty()
    variables |= {"COLUMNS": f"{columns}", "LINES": "24", "TERM": "xterm"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jobs_grpc.cli", *argv),
        env=os.environ | variables,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = await asyncio.to_thread(_read_all, our_end)
    os.close(our_end)
    return await process.wait(), shown


def _read_all(terminal: int) -> str:
    read = b""
    while True:
        try:
            read += os.read(terminal, 65536)
        except OSError:  # Linux raises EIO when the other end is closed.
            return read.decode()


async def address_of(process: asyncio.subprocess.Process) -> str:
    """Return the address of a spawned `serve`, as soon as it listens."""
    assert process.stderr
    async with asyncio.timeout(TIMEOUT):
        while line := await process.stderr.readline():
            if match := re.search(r"listening on (\S+)", line.decode()):
                return match[1]
    raise AssertionError("the process exited before it listened")
