"""Ctrl-C while the command starts."""

import asyncio
import signal
import sys
from importlib.metadata import version

import pytest

pytestmark = pytest.mark.slow

# Sends SIGINT to itself when a module is imported.
_SCRIPT = """
import os, signal, sys
handler, module, *arguments = sys.argv[1:]
signal.signal(signal.SIGINT, getattr(signal, handler))

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from jobs_grpc.cli import main
sys.argv = ["jobs-grpc", *arguments]
main()
"""


async def _run(handler: str, module: str) -> tuple[int | None, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SCRIPT, handler, module, "--version"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out, err


@pytest.mark.parametrize("module", ["jobs_grpc.cli.program", "grpc", "jobs_grpc.cli.command"])
async def test_interrupted_import_prints_no_traceback(module: str) -> None:
    assert await _run("default_int_handler", module) == (-signal.SIGINT, b"", b"")


async def test_ignored_signal_stays_ignored() -> None:
    expected = f"{version('jobs-grpc')}\n".encode()
    assert await _run("SIG_IGN", "grpc") == (0, expected, b"")
