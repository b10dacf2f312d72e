"""Fixtures for the commands that call a server."""

from pathlib import Path

import pytest

from tests.support.callers import Operator
from tests.support.cli import Shell
from tests.support.database import Database
from tests.support.server import Server


@pytest.fixture(autouse=True)
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the configuration file of the commands, which does not exist yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "jobs-grpc" / "config.toml"


@pytest.fixture
def shell(
    server: Server, tenant: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """A shell whose environment names the server, the test's tenant and the user olivia."""
    monkeypatch.setenv("JOBS_SERVER", server.address)
    monkeypatch.setenv("JOBS_TENANT", tenant)
    monkeypatch.setenv("JOBS_USER", "olivia")
    return Shell(capsys)


@pytest.fixture
async def started_job(database: Database, server: Server, operator: Operator) -> None:
    """A job "j" that is IN_PROGRESS on the device "pump" and QUEUED on "valve"."""
    await database.add_devices(operator.tenant, ["pump", "valve"])
    await operator.create(job_id="j", target_all=True)
    await server.device(operator.tenant, "pump").start("j")
