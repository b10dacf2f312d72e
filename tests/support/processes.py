"""Programs in processes of their own, which do not block the event loop."""

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest


async def output_of(*command: str | Path, expect: int = 0, stdin: str = "", **options: Any) -> str:
    """Run a command, which must end with the exit code `expect`; return what it prints."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=STDOUT, **options
    )
    output = (await process.communicate(stdin.encode()))[0].decode()
    assert process.returncode == expect, f"{command}\n{output}"
    return output


@asynccontextmanager
async def running_process(
    *command: str | Path, stop: signal.Signals = signal.SIGKILL, **options: Any
) -> AsyncIterator[Process]:
    """Run a program during the block. If it still runs at the end, send it the signal `stop`."""
    process = await asyncio.create_subprocess_exec(*command, **options)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(stop)
        await process.wait()


def skip_without(what: str) -> NoReturn:
    """Skip the test because something is not installed, or fail it in CI."""
    assert not os.environ.get("CI"), f"CI must run this test, so install {what}"
    pytest.skip(f"{what} is not installed")
