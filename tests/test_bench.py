"""The benchmark still works: its quick run, if `make bench` has made its environment."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-bench" / "bin" / "python"

WORKLOADS = ["create", "get_rate", "list_rate", "cancel", "expire", "report", "memory"]


@pytest.mark.skipif(not PYTHON.exists(), reason="`make bench` has not been run")
@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
@pytest.mark.timeout(300)
async def test_a_quick_run_measures_everything_and_is_not_void() -> None:
    process = await asyncio.create_subprocess_exec(
        *(PYTHON, "-m", "bench", "--quick"),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "generated"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    for workload in WORKLOADS:
        assert f"  {workload}, " in out.decode()
