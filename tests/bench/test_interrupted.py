"""A terminated benchmark leaves no process behind."""

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import wait_until

_BENCHMARK = """
import asyncio
import signal
from bench.environment import environment

async def main():
    async with environment() as env:
        print(next(env.folder.rglob("postmaster.pid")).read_text().split()[0], flush=True)
        await asyncio.Event().wait()

signal.signal(signal.SIGINT, {on_sigint})
asyncio.run(main())
"""
_FOREGROUND = "signal.default_int_handler"
# A shell script starts background programs with SIGINT ignored, and so may start these tests.
_BACKGROUND = "signal.SIG_IGN"


@pytest.mark.slow
@pytest.mark.parametrize("on_sigint", [_FOREGROUND, _BACKGROUND])
async def test_terminated_benchmark_stops_its_postgresql(on_sigint: str) -> None:
    """SIGTERM is turned into SIGINT, which Ctrl-C sends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _BENCHMARK.format(on_sigint=on_sigint)),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    postgres = int(await process.stdout.readline())

    process.terminate()
    _, errors = await process.communicate()

    async def is_stopped() -> bool:
        try:
            return psutil.Process(postgres).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    await wait_until(is_stopped)
    assert errors.decode().splitlines()[-1] == "KeyboardInterrupt"
