"""Describe the machine, the versions and the checkout of a run."""

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import asyncpg
import psutil


async def describe_machine(
    connection: asyncpg.Connection, packages: Iterable[str] = ("grpcio", "protobuf", "asyncpg")
) -> dict[str, str]:
    """Return the date, the machine and the versions of PostgreSQL and of Python packages."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": describe_commit(Path(__file__).parents[1]),
        "machine": f"{_cpu()}, {os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "postgresql": str(await connection.fetchval("SHOW server_version")),
        **{name: version(name) for name in packages},
    }


def describe_commit(checkout: Path) -> str:
    """Return the short hash of a checkout's commit, or "unknown" without git."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=7"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
