"""Run a Python program as a process of its own."""

import asyncio
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any


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
                # A line can have the figures of thousands of streams.
                limit=1 << 26,
            )
        return self._process

    async def __aexit__(self, *args: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()
