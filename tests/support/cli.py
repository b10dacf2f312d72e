"""Running the command as a shell would, in this process or in one of its own."""

import asyncio
import os
import pty
import re
import sys
from dataclasses import dataclass

import pytest

from jobs_grpc.cli import run
from tests.support.waiting import TIMEOUT

# As a shell in a terminal starts it: not with SIGINT ignored, as tests in the background are.
_COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from jobs_grpc.cli import main
main()
"""


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


class Shell:
    """Runs commands in a thread, so that a server in this loop can answer them."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def __call__(self, *argv: str) -> Result:
        """Run `jobs-grpc *argv`; a usage error of the parser is its exit code, too."""
        self._capsys.readouterr()
        code = await asyncio.to_thread(self._run, argv)
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)

    def _run(self, argv: tuple[str, ...]) -> int:
        try:
            return run(list(argv))
        except SystemExit as e:
            return int(e.code or 0)


async def spawn(
    *argv: str, stdin: int | None = None, **variables: str
) -> asyncio.subprocess.Process:
    """Start `jobs-grpc *argv` as the leader of a process group, as a shell does."""
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


async def on_terminal(*argv: str, columns: int = 80, **variables: str) -> tuple[int, str]:
    """Run `jobs-grpc *argv` on a terminal that wide: the exit code, and what it showed."""
    ours, theirs = pty.openpty()
    variables |= {"COLUMNS": f"{columns}", "TERM": "xterm"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jobs_grpc.cli", *argv),
        env=os.environ | variables,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = await asyncio.to_thread(_read_all, ours)
    os.close(ours)
    return await process.wait(), shown


def _read_all(terminal: int) -> str:
    read = b""
    while True:
        try:
            read += os.read(terminal, 65536)
        except OSError:  # Linux's end of a terminal
            return read.decode()


async def address_of(process: asyncio.subprocess.Process) -> str:
    """Where a spawned `serve` listens, as soon as it says so."""
    assert process.stderr
    async with asyncio.timeout(TIMEOUT):
        while line := await process.stderr.readline():
            if match := re.search(r"listening on (\S+)", line.decode()):
                return match[1]
    raise AssertionError("the process ended before it listened")
