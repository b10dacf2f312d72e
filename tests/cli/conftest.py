"""Fixtures for the commands that call a server."""

from pathlib import Path

import pytest

from tests.support.cli import Shell
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
