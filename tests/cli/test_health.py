"""`jobs-grpc health`: the health check of containers and probes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.cli import Shell
from tests.support.database import Database
from tests.support.identities import Authority, channel_credentials, mutual_tls
from tests.support.server import Server, running_tls_server


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.delenv("JOBS_SERVER", raising=False)
    return Shell(capsys)


@pytest.fixture(scope="module")
async def tls_server(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Server, Path]]:
    """A server that requires client certificates, and the folder with the files of its client."""
    folder = tmp_path_factory.mktemp("files")
    authority = Authority()
    client = authority.client("cli", "spiffe://acme.example/cli")
    client.write(folder, "client")
    settings = mutual_tls(authority, folder)
    credentials = channel_credentials(authority, client)
    async with running_tls_server(database.request_dsn, credentials, **settings) as server:
        yield server, folder


async def test_health_succeeds_when_server_serves(shell: Shell, server: Server) -> None:
    result = await shell("health", "--server", server.address)
    assert (result.code, result.out, result.err) == (0, "SERVING\n", "")

    result = await shell("health", "--server", server.address, "--json")
    assert (result.code, result.out) == (0, '{\n  "status": "SERVING"\n}\n')


async def test_health_fails_when_nothing_listens(shell: Shell) -> None:
    result = await shell("health", "--server", "127.0.0.1:1")

    assert (result.code, result.out) == (5, "")
    assert len(result.err.splitlines()) == 1


async def test_health_checks_server_name_over_tls(
    shell: Shell, tls_server: tuple[Server, Path]
) -> None:
    server, folder = tls_server
    command = ["health", "--server", server.address, "--ca", f"{folder}/ca.crt"]
    command += ["--cert", f"{folder}/client.crt", "--key", f"{folder}/client.key"]

    assert (await shell(*command)).code == 0
    assert (await shell(*command, "--tls-server-name", "localhost")).code == 0
    assert (await shell(*command, "--tls-server-name", "other.example")).code == 5
