"""The client commands against a server with TLS that knows callers by tokens."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.cli import Shell
from tests.support.database import Database
from tests.support.identities import (
    AUDIENCE,
    ISSUER,
    Authority,
    channel_credentials,
    claims,
    jwks,
    new_key,
    token,
)
from tests.support.server import Server, reserved_address, running_tls_server

KEY = new_key()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of both ends are."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
async def secure(database: Database, folder: Path) -> AsyncIterator[Server]:
    """A server that demands a client certificate and a token."""
    authority = Authority()
    client = authority.client("cli", "spiffe://acme.example/cli")
    client.write(folder, "client")
    certificate, key = authority.server().write(folder, "server")
    (folder / "ca.crt").write_bytes(authority.certificate)
    (folder / "jwks.json").write_text(jwks(KEY))
    variables = {
        "JOBS_AUTH": "jwt",
        "JOBS_JWT_KEYS": f"{folder}/jwks.json",
        "JOBS_JWT_ISSUER": ISSUER,
        "JOBS_JWT_AUDIENCE": AUDIENCE,
        "JOBS_TLS_CERT": certificate,
        "JOBS_TLS_KEY": key,
        "JOBS_TLS_CLIENT_CA": f"{folder}/ca.crt",
        "JOBS_TRUSTED_PEERS": "spiffe://acme.example/cli",
    }
    known = channel_credentials(authority, client)
    async with running_tls_server(database.request_dsn, known, **variables) as server:
        yield server


@pytest.fixture
def shell(
    secure: Server,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    """A shell whose environment names the server, both certificates and nobody."""
    monkeypatch.setenv("JOBS_SERVER", secure.address)
    monkeypatch.setenv("JOBS_CA", f"{folder}/ca.crt")
    monkeypatch.setenv("JOBS_CLIENT_CERT", f"{folder}/client.crt")
    monkeypatch.setenv("JOBS_CLIENT_KEY", f"{folder}/client.key")
    monkeypatch.delenv("JOBS_TENANT", raising=False)
    return Shell(capsys)


async def test_a_token_is_all_that_is_said_of_the_caller(
    shell: Shell,
    database: Database,
    tenant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await database.add_devices(tenant, ["device-0001", "device-0002"])
    path = tmp_path / "token"
    path.write_text(token(KEY, claims(tenant, "operator")) + "\n")

    made = await shell("create", "--token-file", str(path), "--type", "reboot", "--all", "--json")
    assert made.code == 0, made.err
    job_id = json.loads(made.out)["job_id"]
    monkeypatch.setenv("JOBS_TOKEN", token(KEY, claims(tenant, "viewer")))
    got = await shell("get", job_id, "--json")
    assert json.loads(got.out)["created_by"] == "olivia"
    refused = await shell("delete", job_id)
    assert (refused.code, refused.out) == (6, "")
    assert "PERMISSION_DENIED: This call needs the role admin" in refused.err
    other = await shell("list", "--tenant", "other")
    assert (other.code, "x-tenant-id differs from the token" in other.err) == (6, True)

    monkeypatch.setenv("JOBS_TOKEN", token(KEY, claims(tenant, "bridge")))
    fast = ("--latency", "0", "--failure-rate", "0", "--silence-rate", "0", "--for", "3")
    simulated = await shell("simulate", "--devices", "2", "--bridge", *fast, "--json")
    assert json.loads(simulated.out)["succeeded"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--tenant is required, or JOBS_TENANT, or a token"),
        (["--token-file", "/nowhere"], "can't read /nowhere: No such file or directory"),
        (["--tenant", "t", "--key", ""], "--cert and --key must be given together"),
        (["--tenant", "t", "--ca", "/nowhere"], "can't read /nowhere: No such file or directory"),
    ],
)
async def test_what_is_missing_is_one_line(shell: Shell, arguments: list[str], says: str) -> None:
    result = await shell("list", *arguments)

    assert (result.code, result.err) == (2, f"jobs-grpc: {says}\n")


async def test_a_token_is_not_sent_in_the_clear(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JOBS_CA", "JOBS_CLIENT_CERT", "JOBS_CLIENT_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("JOBS_TOKEN", "secret")

    result = await shell("list", "--server", "192.0.2.1:50051")

    assert result.err == "jobs-grpc: a token is sent over TLS only: give --tls or --ca\n"
    assert result.code == 2


async def test_a_port_that_wants_tls_is_hinted_at(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = "(the server may want TLS: --tls or --ca; or a client certificate: --cert and --key)\n"
    monkeypatch.setenv("JOBS_TENANT", "t")
    for name in ("JOBS_CLIENT_CERT", "JOBS_CLIENT_KEY"):
        monkeypatch.delenv(name)
    without_certificate = await shell("list")
    monkeypatch.delenv("JOBS_CA")
    plain = await shell("list")
    simulated = await shell("simulate", "--devices", "1", "--for", "2")

    for result in (without_certificate, plain, simulated):
        assert (result.code, result.out, result.err.count("\n")) == (5, "", 1)
        assert result.err.endswith(hint)


async def test_a_port_without_tls_is_hinted_at(
    shell: Shell, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_TENANT", "t")

    result = await shell("list", "--server", server.address)

    assert (result.code, result.out, result.err.count("\n")) == (5, "", 1)
    assert result.err.endswith(
        "(the server may not speak TLS: leave out --tls, --ca, --cert and --key)\n"
    )


async def test_where_nobody_listens_tls_is_not_the_matter(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_TENANT", "t")
    with reserved_address() as address:
        secure = await shell("list", "--server", address)
        for name in ("JOBS_CA", "JOBS_CLIENT_CERT", "JOBS_CLIENT_KEY"):
            monkeypatch.delenv(name)
        plain = await shell("list", "--server", address)

    for result in (secure, plain):
        assert result.code == 5
        assert result.err.endswith("Connection refused\n")


async def test_an_operator_is_told_what_a_fleet_needs(
    shell: Shell, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_TOKEN", token(KEY, claims(tenant, "operator")))

    result = await shell("simulate", "--devices", "1", "--for", "10")

    assert (result.code, result.out) == (6, "")
    assert result.err == (
        "jobs-grpc: PERMISSION_DENIED: x-device-id differs from the token; do not send it,"
        " or send a token that has the role bridge and names no device\n"
    )
