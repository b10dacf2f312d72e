"""Fixtures: the clients that `make test-clients` installs, and the contract as the wheel has it."""

import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support.processes import output_of

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


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a command, which must succeed, and returns what it prints."""
    return partial(output_of, cwd=FOLDER)


@pytest.fixture(scope="session")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a package installer puts the .proto files of the wheel."""
    target = tmp_path_factory.mktemp("installed")
    uv = [str(installed("uv")), "pip", "install", "--quiet", "--offline", "--no-deps"]
    options = ["--no-build-isolation", "--python", sys.executable, "--target", str(target)]
    subprocess.run([*uv, *options, str(ROOT)], check=True)  # noqa: S603
    return target
