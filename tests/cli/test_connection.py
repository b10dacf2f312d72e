"""Tokens and TLS of the client commands, against a server that requires both."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.auth.support import KEY, jwt_settings
from tests.support.cli import Shell
from tests.support.database import Database
from tests.support.identities import Authority, channel_credentials, claims, mutual_tls, token
from tests.support.server import Server, reserved_address, running_tls_server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the certificates and keys of server and client."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
async def secure_server(database: Database, folder: Path) -> AsyncIterator[Server]:
    """A server that requires a client certificate and a token."""
    authority = Authority()
    client = authority.client("cli", "spiffe://acme.example/cli")
    client.write(folder, "client")
    settings = mutual_tls(authority, folder) | jwt_settings(folder)
    settings["JOBS_TRUSTED_PEERS"] = "spiffe://acme.example/cli"
    credentials = channel_credentials(authority, client)
    async with running_tls_server(database.request_dsn, credentials, **settings) as server:
        yield server


@pytest.fixture
def shell(
    secure_server: Server,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    """A shell whose environment names the server, the CA and the client certificate, no caller."""
    monkeypatch.setenv("JOBS_SERVER", secure_server.address)
    monkeypatch.setenv("JOBS_CA", f"{folder}/ca.crt")
    monkeypatch.setenv("JOBS_CLIENT_CERT", f"{folder}/client.crt")
    monkeypatch.setenv("JOBS_CLIENT_KEY", f"{folder}/client.key")
    monkeypatch.delenv("JOBS_TENANT", raising=False)
    return Shell(capsys)


@pytest.mark.slow
async def test_token_alone_identifies_caller(
    shell: Shell, database: Database, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.add_devices(tenant, ["device-0001", "device-0002"])
    path = tmp_path / "token"
    path.write_text(token(KEY, claims(tenant, "operator")) + "\n")

    created = await shell(
        "create", "--token-file", str(path), "--type", "reboot", "--all", "--json"
    )
    assert created.code == 0, created.err
    job_id = json.loads(created.out)["job_id"]
    monkeypatch.setenv("JOBS_TOKEN", token(KEY, claims(tenant, "viewer")))
    got = await shell("get", job_id, "--json")
    assert json.loads(got.out)["created_by"] == "olivia"
    rejected = await shell("delete", job_id)
    assert (rejected.code, rejected.out) == (6, "")
    assert rejected.err.endswith("PERMISSION_DENIED: This call needs the role admin\n")
    other = await shell("list", "--tenant", "other")
    assert (other.code, "x-tenant-id differs from the token" in other.err) == (6, True)

    monkeypatch.setenv("JOBS_TOKEN", token(KEY, claims(tenant, "bridge")))
    behavior = ("--latency", "0", "--failure-rate", "0", "--stall-rate", "0")
    simulated = await shell(
        "simulate", "--devices", "2", "--bridge", *behavior, "--for", "3", "--json"
    )
    assert json.loads(simulated.out)["succeeded"] == 2


async def test_token_is_not_sent_without_tls(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JOBS_CA", "JOBS_CLIENT_CERT", "JOBS_CLIENT_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("JOBS_TOKEN", "secret")

    result = await shell("list", "--server", "192.0.2.1:50051")

    assert result.err == "jobs-grpc: a token is only sent over TLS: add --tls or --ca\n"
    assert result.code == 2


@pytest.mark.slow
async def test_error_suggests_tls_options_when_server_requires_tls(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = (
        "(if the server requires TLS, add --tls or --ca;"
        " if it requires a client certificate, add --cert and --key)\n"
    )
    monkeypatch.setenv("JOBS_TENANT", "t")
    for name in ("JOBS_CLIENT_CERT", "JOBS_CLIENT_KEY"):
        monkeypatch.delenv(name)
    without_certificate = await shell("list")
    monkeypatch.delenv("JOBS_CA")
    without_tls = await shell("list")
    simulated = await shell("simulate", "--devices", "1", "--for", "2")

    for result in (without_certificate, without_tls, simulated):
        assert (result.code, result.out, result.err.count("\n")) == (5, "", 1)
        assert result.err.endswith(hint)


async def test_error_suggests_removing_tls_options_when_server_has_no_tls(
    shell: Shell, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_TENANT", "t")

    result = await shell("list", "--server", server.address)

    assert (result.code, result.out, result.err.count("\n")) == (5, "", 1)
    assert result.err.endswith(
        "(if the server does not use TLS, remove --tls, --ca, --cert and --key)\n"
    )


async def test_error_does_not_mention_tls_when_connection_is_refused(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_TENANT", "t")
    with reserved_address() as address:
        with_tls = await shell("list", "--server", address)
        for name in ("JOBS_CA", "JOBS_CLIENT_CERT", "JOBS_CLIENT_KEY"):
            monkeypatch.delenv(name)
        without_tls = await shell("list", "--server", address)

    for result in (with_tls, without_tls):
        assert result.code == 5
        assert f"can't reach the server at {address}: Connection refused (is it" in result.err
        assert "TLS" not in result.err


async def test_simulate_names_required_role_when_token_has_role_operator(
    shell: Shell, database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.add_devices(tenant, ["device-0001"])
    monkeypatch.setenv("JOBS_TOKEN", token(KEY, claims(tenant, "operator")))

    result = await shell("simulate", "--devices", "1", "--for", "10")

    assert (result.code, result.out) == (6, "")
    assert result.err == (
        "jobs-grpc: PERMISSION_DENIED: x-device-id differs from the token; do not send it,"
        " or send a token that has the role bridge and names no device\n"
    )
