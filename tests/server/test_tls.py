"""TLS: server certificate, client certificates, trusted peers, and files that change."""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as s
from grpc import StatusCode

from jobs_grpc.config import ConfigError
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.health import wait_until_healthy
from tests.support.identities import Authority, Pair, channel_credentials, replace_file
from tests.support.server import Server, open_channel, running_tls_server, starting_server

GATEWAY = "spiffe://acme.example/ns/jobs/sa/gateway"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> dict[str, str]:
    """The settings of a server with a certificate of the authority."""
    certificate, key = authority.server().write(tmp_path, "server")
    return {"JOBS_TLS_CERT": certificate, "JOBS_TLS_KEY": key}


@pytest.fixture
def mutual_tls(authority: Authority, files: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The settings of a server that requires client certificates."""
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    return files | {"JOBS_TLS_CLIENT_CA": str(tmp_path / "ca.crt")}


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
    """The certificate in DER."""
    return ssl.PEM_cert_to_DER_cert(pair.certificate.decode())


async def test_server_serves_over_tls(
    database: Database, authority: Authority, files: dict[str, str]
) -> None:
    async with running_tls_server(
        database.request_dsn, channel_credentials(authority), **files
    ) as server:
        assert not (await server.operator("t").list()).jobs


async def test_plaintext_call_fails_on_a_tls_port(
    database: Database, authority: Authority, files: dict[str, str]
) -> None:
    async with running_tls_server(
        database.request_dsn, channel_credentials(authority), **files
    ) as server:
        with expect_failure(StatusCode.UNAVAILABLE):
            await list_with(server, None)


async def test_handshake_fails_when_client_has_no_certificate(
    database: Database, authority: Authority, mutual_tls: dict[str, str]
) -> None:
    trusted = channel_credentials(authority, authority.client("known"))
    async with running_tls_server(database.request_dsn, trusted, **mutual_tls) as server:
        await list_with(server, trusted)
        with expect_failure(StatusCode.UNAVAILABLE):
            await list_with(server, channel_credentials(authority))


async def test_handshake_fails_when_client_certificate_is_issued_by_another_ca(
    database: Database, authority: Authority, mutual_tls: dict[str, str]
) -> None:
    trusted = channel_credentials(authority, authority.client("known", GATEWAY))
    stranger = channel_credentials(authority, Authority().client("known", GATEWAY))
    async with running_tls_server(
        database.request_dsn, trusted, JOBS_TRUSTED_PEERS=GATEWAY, **mutual_tls
    ) as server:
        with expect_failure(StatusCode.UNAVAILABLE):
            await list_with(server, stranger)


async def test_call_is_rejected_when_peer_is_not_in_trusted_peers(
    database: Database, authority: Authority, mutual_tls: dict[str, str]
) -> None:
    peers = f"{GATEWAY}, ops.example, batch"
    trusted = channel_credentials(authority, authority.client("any", GATEWAY))
    async with running_tls_server(
        database.request_dsn, trusted, JOBS_TRUSTED_PEERS=peers, **mutual_tls
    ) as server:
        for pair in (
            authority.client("any", GATEWAY),
            authority.client("any", dns="ops.example"),
            authority.client("batch"),
        ):
            await list_with(server, channel_credentials(authority, pair))
        for pair in (
            authority.client("any"),
            authority.client("any", f"{GATEWAY}/x"),
            authority.client("any", GATEWAY[:-1]),
            authority.client("any", dns="x.ops.example"),
            authority.client("Batch"),
            # A SPIFFE id as the common name must not match.
            authority.client(GATEWAY),
            authority.client("any", dns="spiffe.example"),
        ):
            with expect_failure(StatusCode.PERMISSION_DENIED, "PEER_NOT_TRUSTED"):
                await list_with(server, channel_credentials(authority, pair))


async def test_health_is_reported_to_peers_that_are_not_trusted(
    database: Database, authority: Authority, mutual_tls: dict[str, str]
) -> None:
    """`running_tls_server` waits until the probe sees SERVING."""
    probe = channel_credentials(authority, authority.client("kubelet"))
    async with running_tls_server(
        database.request_dsn, probe, JOBS_TRUSTED_PEERS=GATEWAY, **mutual_tls
    ) as server:
        with expect_failure(StatusCode.PERMISSION_DENIED, "PEER_NOT_TRUSTED"):
            await server.operator("t").list()


async def test_metadata_is_accepted_beyond_loopback_with_trusted_peers(
    database: Database, authority: Authority, mutual_tls: dict[str, str]
) -> None:
    trusted = channel_credentials(authority, authority.client("any", GATEWAY))
    settings = {"JOBS_LISTEN": "0.0.0.0:0", "JOBS_TRUSTED_PEERS": GATEWAY} | mutual_tls
    async with starting_server(database.request_dsn, **settings) as server:
        address = f"127.0.0.1:{server.address.rpartition(':')[2]}"
        async with open_channel(address, trusted) as channel:
            await wait_until_healthy(channel)
            reachable = Server(server.config, address, channel, server.app)
            assert not (await reachable.operator("t").list()).jobs


@pytest.mark.slow
async def test_new_certificate_is_used_without_a_restart(
    database: Database, authority: Authority, files: dict[str, str], tmp_path: Path
) -> None:
    async with running_tls_server(
        database.request_dsn, channel_credentials(authority), **files
    ) as server:
        before = await server_certificate(server.address)
        pair = authority.server()
        pair.write(tmp_path, "server")

        # Enough connections to reach every listener.
        assert (
            {await server_certificate(server.address) for _ in range(16)} == {der(pair)} != {before}
        )
        # An existing connection stays open.
        assert not (await server.operator("t").list()).jobs


async def test_last_certificate_stays_in_use_when_new_files_are_invalid(
    database: Database,
    authority: Authority,
    files: dict[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_tls_server(
        database.request_dsn, channel_credentials(authority), **files
    ) as server:
        before, pair = await server_certificate(server.address), authority.server()
        caplog.set_level(logging.WARNING)

        replace_file(
            tmp_path / "server.crt", pair.certificate
        )  # the key file still has the old key
        assert await server_certificate(server.address) == before
        assert await server_certificate(server.address) == before
        assert len(warnings(caplog)) == 1

        replace_file(tmp_path / "server.crt", pair.certificate[:100])
        assert await server_certificate(server.address) == before
        (tmp_path / "server.crt").unlink()
        assert await server_certificate(server.address) == before

        pair.write(tmp_path, "server")
        assert await server_certificate(server.address) == der(pair)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "previous content stays" in r.getMessage()]


async def test_new_client_ca_is_used_without_a_restart(
    database: Database, authority: Authority, mutual_tls: dict[str, str], tmp_path: Path
) -> None:
    other = Authority()
    trusted = channel_credentials(authority, authority.client("known"))
    async with running_tls_server(database.request_dsn, trusted, **mutual_tls) as server:
        replace_file(tmp_path / "ca.crt", other.certificate)

        await list_with(server, channel_credentials(authority, other.client("known")))
        with expect_failure(StatusCode.UNAVAILABLE):
            await list_with(server, trusted)


@pytest.mark.parametrize("broken", ["absent", "empty", "of another key", "with a passphrase"])
async def test_server_does_not_start_when_tls_files_are_not_usable(
    database: Database, authority: Authority, files: dict[str, str], tmp_path: Path, broken: str
) -> None:
    break_key(Path(files["JOBS_TLS_KEY"]), broken, authority)

    with pytest.raises(ConfigError, match="TLS files are not usable") as raised:
        async with starting_server(database.request_dsn, **files):
            pass
    assert "\n" not in str(raised.value)


def break_key(path: Path, broken: str, authority: Authority) -> None:
    """Make a key file unusable."""
    match broken:
        case "absent":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "of another key":
            path.write_bytes(authority.server().key)
        case _:
            path.write_bytes(encrypted(path.read_bytes()))


def encrypted(key: bytes) -> bytes:
    """The key, encrypted with a passphrase."""
    loaded = s.load_pem_private_key(key, None)
    return loaded.private_bytes(
        s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret")
    )
