"""`jobs-grpc whoami`: the caller, its roles and its calls."""

from pathlib import Path

import pytest

from tests.auth.support import JWT_SETTINGS, KEY
from tests.support.cli import Shell
from tests.support.database import Database
from tests.support.identities import claims, jwks, token
from tests.support.server import running_server


async def test_whoami_shows_caller_and_its_calls(
    shell: Shell, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    result = await shell("whoami")

    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[:3] == [
        f"tenant           {tenant}",
        "user             olivia",
        "roles            admin bridge",
    ]
    assert lines[3].startswith("JobService       AdvanceJob ApproveStage ")
    assert lines[4].startswith("                 ")
    assert any(line.startswith("DeviceJobService AcknowledgeExecutions ") for line in lines)
    assert max(map(len, lines)) <= 60


@pytest.mark.slow
async def test_whoami_shows_when_the_token_expires(
    shell: Shell, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jwks.json").write_text(jwks(KEY))
    text = token(KEY, claims("acme", "device", exp=1_893_499_200, device_id="pump-1"))
    monkeypatch.delenv("JOBS_TENANT")
    monkeypatch.delenv("JOBS_USER")
    monkeypatch.setenv("JOBS_TOKEN", text)
    keys = {"JOBS_JWT_KEYS": str(tmp_path / "jwks.json"), "JOBS_JWT_LEEWAY": "0"}
    async with running_server(database.request_dsn, **keys, **JWT_SETTINGS) as server:
        result = await shell("whoami", "--utc", "--server", server.address)

    assert result.out.splitlines()[:5] == [
        "tenant           acme",
        "user             olivia",
        "device           pump-1",
        "roles            device",
        "access expires   2030-01-01 12:00:00Z",
    ]
