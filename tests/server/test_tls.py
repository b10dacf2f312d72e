"""TLS: server certificate, client certificates, trusted peers, and files that change."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as s
from grpc import StatusCode

from jobs_grpc.config import ConfigError
from tests.support.database import Database
from tests.support.failures import expect_error, expect_failure
from tests.support.health import wait_until_healthy
from tests.support.identities import Authority, Pair, channel_credentials, mutual_tls, replace_file
from tests.support.server import Server, open_channel, running_tls_server, starting_server

AUTHORITY = Authority()
GATEWAY = "spiffe://acme.example/ns/jobs/sa/gateway"


@pytest.fixture(name="mutual_tls")
def mutual_tls_fixture(tmp_path: Path) -> dict[str, str]:
    """The settings of a server that requires client certificates."""
    return mutual_tls(AUTHORITY, tmp_path)


@pytest.fixture
def files(mutual_tls: dict[str, str]) -> dict[str, str]:
    """The settings of a server that requires none."""
    return {name: path for name, path in mutual_tls.items() if name != "JOBS_TLS_CLIENT_CA"}


@pytest.fixture
async def tls_server(database: Database, files: dict[str, str]) -> AsyncIterator[Server]:
    """A server that requires no client certificates."""
    credentials = channel_credentials(AUTHORITY)
    async with running_tls_server(database.request_dsn, credentials, **files) as server:
        yield server


async def list_with(server: Server, credentials: Any) -> None:
    """Call ListJobs over a new connection."""
    async with open_channel(server.address, credentials) as channel:
        await Server(server.config, server.address, channel, server.app).operator("t").list()


async def server_certificate(address: str) -> bytes:
    """The certificate (DER) that the server presents on a new connection."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


def der(pair: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.certificate.decode())


async def test_plaintext_call_fails_when_server_uses_tls(tls_server: Server) -> None:
    assert not (await tls_server.operator("t").list()).jobs
    with expect_failure(StatusCode.UNAVAILABLE):
        await list_with(tls_server, None)


async def test_handshake_fails_when_client_has_no_certificate_of_the_ca(
    database: Database, mutual_tls: dict[str, str]
) -> None:
    trusted = channel_credentials(AUTHORITY, AUTHORITY.client("known"))
    stranger = channel_credentials(AUTHORITY, Authority().client("known"))
    async with running_tls_server(database.request_dsn, trusted, **mutual_tls) as server:
        await list_with(server, trusted)
        for credentials in (channel_credentials(AUTHORITY), stranger):
            with expect_failure(StatusCode.UNAVAILABLE):
                await list_with(server, credentials)


async def test_health_is_reported_to_peers_that_are_not_trusted(
    database: Database, mutual_tls: dict[str, str]
) -> None:
    """`running_tls_server` waits until the probe sees SERVING."""
    probe = channel_credentials(AUTHORITY, AUTHORITY.client("kubelet"))
    async with running_tls_server(
        database.request_dsn, probe, JOBS_TRUSTED_PEERS=GATEWAY, **mutual_tls
    ) as server:
        await expect_error("PEER_NOT_TRUSTED", server.operator("t").list())


async def test_metadata_is_accepted_beyond_loopback_with_trusted_peers(
    database: Database, mutual_tls: dict[str, str]
) -> None:
    trusted = channel_credentials(AUTHORITY, AUTHORITY.client("any", GATEWAY))
    settings = {"JOBS_LISTEN": "0.0.0.0:0", "JOBS_TRUSTED_PEERS": GATEWAY} | mutual_tls
    async with starting_server(database.request_dsn, **settings) as server:
        address = f"127.0.0.1:{server.address.rpartition(':')[2]}"
        async with open_channel(address, trusted) as channel:
            await wait_until_healthy(channel)
            reachable = Server(server.config, address, channel, server.app)
            assert not (await reachable.operator("t").list()).jobs


@pytest.mark.slow
async def test_new_certificate_is_used_without_a_restart(
    tls_server: Server, tmp_path: Path
) -> None:
    before = await server_certificate(tls_server.address)
    pair = AUTHORITY.server()
    pair.write(tmp_path, "server")

    # Enough connections to reach every listener.
    used = {await server_certificate(tls_server.address) for _ in range(16)}
    assert used == {der(pair)} != {before}
    # An existing connection stays open.
    assert not (await tls_server.operator("t").list()).jobs


async def test_last_certificate_stays_in_use_when_new_files_are_invalid(
    tls_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, pair = await server_certificate(tls_server.address), AUTHORITY.server()
    caplog.set_level(logging.WARNING)

    # The key file still has the old key.
    replace_file(tmp_path / "server.crt", pair.certificate)
    assert await server_certificate(tls_server.address) == before
    assert await server_certificate(tls_server.address) == before
    assert len([line for line in caplog.messages if "previous content stays" in line]) == 1

    replace_file(tmp_path / "server.crt", pair.certificate[:100])
    assert await server_certificate(tls_server.address) == before
    (tmp_path / "server.crt").unlink()
    assert await server_certificate(tls_server.address) == before

    pair.write(tmp_path, "server")
    assert await server_certificate(tls_server.address) == der(pair)


async def test_new_client_ca_is_used_without_a_restart(
    database: Database, mutual_tls: dict[str, str], tmp_path: Path
) -> None:
    other = Authority()
    trusted = channel_credentials(AUTHORITY, AUTHORITY.client("known"))
    async with running_tls_server(database.request_dsn, trusted, **mutual_tls) as server:
        replace_file(tmp_path / "ca.crt", other.certificate)

        await list_with(server, channel_credentials(AUTHORITY, other.client("known")))
        with expect_failure(StatusCode.UNAVAILABLE):
            await list_with(server, trusted)


def encrypted(key: bytes) -> bytes:
    loaded = s.load_pem_private_key(key, None)
    encryption = s.BestAvailableEncryption(b"secret")
    return loaded.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    "broken_key",
    [
        pytest.param(lambda _: None, id="absent"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: AUTHORITY.server().key, id="of another certificate"),
        pytest.param(encrypted, id="with a passphrase"),
    ],
)
async def test_server_does_not_start_when_tls_files_are_not_usable(
    database: Database,
    files: dict[str, str],
    tmp_path: Path,
    broken_key: Callable[[bytes], bytes | None],
) -> None:
    path = tmp_path / "server.key"
    content = broken_key(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match="TLS files are not usable") as raised:
        async with starting_server(database.request_dsn, **files):
            pass
    assert "\n" not in str(raised.value)
