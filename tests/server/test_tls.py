"""TLS: whom the server shows itself to, whom it takes, and certificates that change."""

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
    """The variables of a server with a certificate of the authority."""
    certificate, key = authority.server().write(tmp_path, "server")
    return {"JOBS_TLS_CERT": certificate, "JOBS_TLS_KEY": key}


@pytest.fixture
def mutual(authority: Authority, files: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The variables of a server that asks its clients for theirs, too."""
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    return files | {"JOBS_TLS_CLIENT_CA": str(tmp_path / "ca.crt")}


async def list_with(server: Server, credentials: Any) -> None:
    """List jobs over a new connection."""
    async with open_channel(server.address, credentials) as channel:
        await Server(server.config, server.address, channel, server.app).operator("t").list()


async def serial(address: str) -> bytes:
    """The certificate that the server shows to a new connection."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


def der(pair: Pair) -> bytes:
    """A certificate as it is sent."""
    return ssl.PEM_cert_to_DER_cert(pair.certificate.decode())


async def test_it_serves_over_tls(
    database: Database, authority: Authority, files: dict[str, str]
) -> None:
    async with running_tls_server(
        database.request_dsn, channel_credentials(authority), **files
    ) as server:
        assert not (await server.operator("t").list()).jobs


async def test_plaintext_to_a_tls_port_gets_nowhere(
    database: Database, authority: Authority, files: dict[str, str]
) -> None:
    async with running_tls_server(
        database.request_dsn, channel_credentials(authority), **files
    ) as server:
        with expect_failure(StatusCode.UNAVAILABLE):
            await list_with(server, None)


async def test_a_client_without_a_certificate_gets_nowhere(
    database: Database, authority: Authority, mutual: dict[str, str]
) -> None:
    known = channel_credentials(authority, authority.client("known"))
    async with running_tls_server(database.request_dsn, known, **mutual) as server:
        await list_with(server, known)
        with expect_failure(StatusCode.UNAVAILABLE):
            await list_with(server, channel_credentials(authority))


async def test_a_client_of_another_authority_gets_nowhere(
    database: Database, authority: Authority, mutual: dict[str, str]
) -> None:
    known = channel_credentials(authority, authority.client("known", GATEWAY))
    stranger = channel_credentials(authority, Authority().client("known", GATEWAY))
    async with running_tls_server(
        database.request_dsn, known, JOBS_TRUSTED_PEERS=GATEWAY, **mutual
    ) as server:
        with expect_failure(StatusCode.UNAVAILABLE):
            await list_with(server, stranger)


async def test_only_peers_on_the_list_are_believed(
    database: Database, authority: Authority, mutual: dict[str, str]
) -> None:
    peers = f"{GATEWAY}, ops.example, batch"
    known = channel_credentials(authority, authority.client("any", GATEWAY))
    async with running_tls_server(
        database.request_dsn, known, JOBS_TRUSTED_PEERS=peers, **mutual
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
            # Names are more easily had than ids.
            authority.client(GATEWAY),
            authority.client("any", dns="spiffe.example"),
        ):
            with expect_failure(StatusCode.PERMISSION_DENIED, "PEER_NOT_TRUSTED"):
                await list_with(server, channel_credentials(authority, pair))


async def test_health_is_told_to_whoever_may_connect(
    database: Database, authority: Authority, mutual: dict[str, str]
) -> None:
    """`serving_tls` waits for it."""
    probe = channel_credentials(authority, authority.client("kubelet"))
    async with running_tls_server(
        database.request_dsn, probe, JOBS_TRUSTED_PEERS=GATEWAY, **mutual
    ) as server:
        with expect_failure(StatusCode.PERMISSION_DENIED, "PEER_NOT_TRUSTED"):
            await server.operator("t").list()


async def test_with_trusted_peers_metadata_is_taken_beyond_loopback(
    database: Database, authority: Authority, mutual: dict[str, str]
) -> None:
    known = channel_credentials(authority, authority.client("any", GATEWAY))
    beyond = {"JOBS_LISTEN": "0.0.0.0:0", "JOBS_TRUSTED_PEERS": GATEWAY} | mutual
    async with starting_server(database.request_dsn, **beyond) as server:
        address = f"127.0.0.1:{server.address.rpartition(':')[2]}"
        async with open_channel(address, known) as channel:
            await wait_until_healthy(channel)
            caller = Server(server.config, address, channel, server.app)
            assert not (await caller.operator("t").list()).jobs


async def test_a_new_certificate_is_shown_without_a_restart(
    database: Database, authority: Authority, files: dict[str, str], tmp_path: Path
) -> None:
    async with running_tls_server(
        database.request_dsn, channel_credentials(authority), **files
    ) as server:
        before = await serial(server.address)
        pair = authority.server()
        pair.write(tmp_path, "server")

        # Whichever of its acceptors has the connection.
        assert {await serial(server.address) for _ in range(16)} == {der(pair)} != {before}
        # A connection that was made before goes on.
        assert not (await server.operator("t").list()).jobs


async def test_files_that_are_broken_or_half_written_leave_the_last_good_ones(
    database: Database,
    authority: Authority,
    files: dict[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_tls_server(
        database.request_dsn, channel_credentials(authority), **files
    ) as server:
        before, pair = await serial(server.address), authority.server()
        caplog.set_level(logging.WARNING)

        replace_file(tmp_path / "server.crt", pair.certificate)  # and its key not yet
        assert await serial(server.address) == before
        assert await serial(server.address) == before
        assert len(warnings(caplog)) == 1

        replace_file(tmp_path / "server.crt", pair.certificate[:100])
        assert await serial(server.address) == before
        (tmp_path / "server.crt").unlink()
        assert await serial(server.address) == before

        pair.write(tmp_path, "server")
        assert await serial(server.address) == der(pair)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "the old ones stay" in r.getMessage()]


async def test_a_new_client_authority_counts_at_once(
    database: Database, authority: Authority, mutual: dict[str, str], tmp_path: Path
) -> None:
    other = Authority()
    known = channel_credentials(authority, authority.client("known"))
    async with running_tls_server(database.request_dsn, known, **mutual) as server:
        replace_file(tmp_path / "ca.crt", other.certificate)

        await list_with(server, channel_credentials(authority, other.client("known")))
        with expect_failure(StatusCode.UNAVAILABLE):
            await list_with(server, known)


@pytest.mark.parametrize("broken", ["absent", "empty", "of another key", "with a passphrase"])
async def test_files_that_are_not_usable_end_the_start(
    database: Database, authority: Authority, files: dict[str, str], tmp_path: Path, broken: str
) -> None:
    break_key(Path(files["JOBS_TLS_KEY"]), broken, authority)

    with pytest.raises(ConfigError, match="TLS files are not usable") as raised:
        async with starting_server(database.request_dsn, **files):
            pass
    assert "\n" not in str(raised.value)


def break_key(path: Path, broken: str, authority: Authority) -> None:
    """Make a key file unusable, in a way that a name says."""
    match broken:
        case "absent":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "of another key":
            path.write_bytes(authority.server().key)
        case _:
            path.write_bytes(locked(path.read_bytes()))


def locked(key: bytes) -> bytes:
    """The key with a passphrase."""
    loaded = s.load_pem_private_key(key, None)
    return loaded.private_bytes(
        s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret")
    )
