"""Runs the command `jobs-grpc`, in this process or in one of its own."""

import asyncio
import json
import os
import pty
import re
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from jobs_grpc.cli.program import run
from tests.support.waiting import TIMEOUT

# Restores the default handlers. A process that is started in the background, as the tests are in
# CI, inherits SIGINT as ignored, and one that is started with nohup SIGHUP.
_COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from jobs_grpc.cli import main
main()
"""

# Makes the terminal the controlling one, so that Ctrl-C on it is a signal.
_TERMINAL_COMMAND = f"""
import fcntl, termios
fcntl.ioctl(1, termios.TIOCSCTTY, 0)
{_COMMAND}
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def unquoted(self) -> str:
        """The standard output, which is CSV, without quotes."""
        return self.out.replace('"', "")


def cells(line: str) -> list[str]:
    return re.split(r" {2,}", line.strip())


class Shell:
    """Runs commands in a thread, so that a server in this event loop can respond to them."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.audit_log: list[dict[str, Any]] = []
        """The lines of the audit log that the last command wrote to stderr."""

    async def __call__(self, *argv: str) -> Result:
        """Run `jobs-grpc *argv`."""
        self._capsys.readouterr()
        code = await asyncio.to_thread(_run, argv)
        captured = self._capsys.readouterr()
        err = captured.err.splitlines(keepends=True)
        self.audit_log = [json.loads(line) for line in err if line.startswith('{"time"')]
        err = [line for line in err if not line.startswith('{"time"')]
        return Result(code, captured.out, "".join(err))


def _run(argv: tuple[str, ...]) -> int:
    try:
        return run(list(argv))
    except SystemExit as e:  # The argument parser exits on --help and on errors.
        return int(e.code or 0)


async def spawn(
    *argv: str, stdin: int | None = None, closed: str = "", **variables: str
) -> asyncio.subprocess.Process:
    """Start `jobs-grpc *argv` in its own process group, so that a test can signal the group.

    `closed` is the number of a descriptor that is closed.
    """
    environ = {k: v for k, v in os.environ.items() if not k.startswith("JOBS_")} | variables
    close = ("sh", "-c", f'exec "$@" {closed}>&-', "sh") if closed else ()
    return await asyncio.create_subprocess_exec(
        *close,
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
    return await _run_on_terminal(argv, variables | {"COLUMNS": f"{columns}"}, None)


async def answer_on_terminal(
    question: str, answer: str, /, *argv: str, **variables: str
) -> tuple[int, str]:
    """Run `jobs-grpc *argv` on a terminal, and type a line when it shows the question."""
    return await _run_on_terminal(argv, variables, (question.encode(), answer.encode() + b"\n"))


async def _run_on_terminal(
    argv: tuple[str, ...], variables: dict[str, str], answer: tuple[bytes, bytes] | None
) -> tuple[int, str]:
    our_end, terminal = pty.openpty()
    shown = asyncio.ensure_future(asyncio.to_thread(_read_all, our_end, answer))
    with (
        pytest.MonkeyPatch.context() as patch,
        os.fdopen(os.dup(terminal) if answer else os.open(os.devnull, os.O_RDONLY)) as stdin,
        os.fdopen(terminal, "w", buffering=1) as output,
    ):
        for name, value in (variables | {"LINES": "24", "TERM": "xterm"}).items():
            patch.setenv(name, value)
        for name, stream in (("stdin", stdin), ("stdout", output), ("stderr", output)):
            patch.setattr(sys, name, stream)
        patch.setattr("rich._console", None)  # It keeps the width and the colors of the first.
        code = await asyncio.to_thread(_run, argv)
    try:
        return code, await shown
    finally:
        os.close(our_end)


async def interrupt_on_terminal(question: str, *argv: str) -> tuple[int, str]:
    """Run `jobs-grpc *argv` in a process on a terminal, and press Ctrl-C at the question."""
    our_end, terminal = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _TERMINAL_COMMAND, *argv),
        env=os.environ | {"LINES": "24", "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown = await asyncio.to_thread(_read_all, our_end, (question.encode(), b"\x03"))
    os.close(our_end)
    return await process.wait(), shown


def _read_all(terminal: int, answer: tuple[bytes, bytes] | None) -> str:
    read = b""
    while True:
        try:
            read += os.read(terminal, 65536)
        except OSError:  # Linux raises EIO when the other end is closed.
            return read.decode()
        if answer and answer[0] in read:
            os.write(terminal, answer[1])
            answer = None


async def address_of(process: asyncio.subprocess.Process) -> str:
    """Return the address of a spawned `serve`, as soon as it listens."""
    assert process.stderr
    async with asyncio.timeout(TIMEOUT):
        while line := await process.stderr.readline():
            if match := re.search(r"listening on (\S+)", line.decode()):
                return match[1]
    raise AssertionError("the process exited before it listened")
