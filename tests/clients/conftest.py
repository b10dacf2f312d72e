"""Fixtures: the clients that `make test-clients` installs, and the contract as the wheel has it."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]

Run: TypeAlias = Callable[..., Awaitable[str]]
"""Takes a command, and optionally its working directory and standard input."""


def installed(name: str) -> Path:
    """Return the path of a program that `make test-clients` installs."""
    for folder in (FOLDER / "bin", FOLDER / "node_modules" / ".bin", Path(sys.executable).parent):
        if (program := folder / name).exists():
            return program
    raise AssertionError(f"{name} is not installed: run `make test-clients`")


@pytest.fixture
def run() -> Run:
    """Runs a command, which must succeed, and returns what it prints.

    It does not block the event loop, which also serves the gRPC server.
    """

    async def run_command(
        *command: str | Path, cwd: Path = FOLDER, stdin: str = "", expect: int = 0
    ) -> str:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate(stdin.encode())
        assert process.returncode == expect, output.decode()
        return output.decode()

    return run_command


@pytest.fixture(scope="session")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a package installer puts the .proto files of the wheel."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--root-user-action=ignore"]
    subprocess.run([*pip, *offline, "--target", str(target), str(ROOT)], check=True)  # noqa: S603
    return target
