"""An interrupted benchmark leaves no process behind."""

import asyncio
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import wait_until

_BENCHMARK = """
import asyncio
from bench.environment import environment

async def main():
    async with environment() as env:
        print(next(env.folder.rglob("postmaster.pid")).read_text().split()[0], flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_interrupted_benchmark_stops_its_postgresql(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _BENCHMARK),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    postgres = int(await process.stdout.readline())

    process.send_signal(number)
    _, errors = await process.communicate()

    async def is_stopped() -> bool:
        try:
            return psutil.Process(postgres).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    await wait_until(is_stopped)
    assert errors.decode().splitlines()[-1] == "KeyboardInterrupt"
