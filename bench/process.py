"""Run Python programs as processes, and measure those of PostgreSQL."""

import asyncio
import os
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil


class PythonProcess:
    """A Python process that is terminated when the block ends; its stderr goes to `log`."""

    def __init__(self, *arguments: str, log: Path | None = None, **environ: str) -> None:
        self._arguments = arguments
        self._log = log
        self._environ = os.environ | environ

    async def __aenter__(self) -> Any:
        with self._log.open("w") if self._log else nullcontext() as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                env=self._environ,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                # Ctrl-C of a terminal would end it before its parent has read from it.
                start_new_session=True,
                # A line can have the figures of thousands of streams.
                limit=1 << 26,
            )
        return self._process

    async def __aexit__(self, *args: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU seconds that processes have used so far, with all their threads. Linux only.

    Reads the CPU clocks of the processes, which count nanoseconds.
    """
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)  # as clock_getcpuclockid


def postgres_cpu_time(data: Path) -> float:
    """Return the CPU seconds that the PostgreSQL with its data below a folder has used so far."""
    pid = next(data.rglob("postmaster.pid")).read_text().split()[0]
    postmaster = psutil.Process(int(pid))
    seconds = sum(postmaster.cpu_times()[:4])  # with those of children that have ended
    for process in postmaster.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            seconds += sum(process.cpu_times()[:2])
    return seconds
