"""JOBS_TRUSTED_PEERS: which client certificates match an entry."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs_grpc.auth.peers import TrustedPeers
from jobs_grpc.errors import PeerNotTrusted
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.identities import Authority, Pair, channel_credentials, mutual_tls
from tests.support.server import open_channel, running_tls_server

GATEWAY = "spiffe://acme.example/gateway"
PEERS = TrustedPeers([GATEWAY, "gateway.internal"])
AUTHORITY = Authority()

TRUSTED = {
    "URI": AUTHORITY.client("any", GATEWAY),
    "one of two URIs": AUTHORITY.client("any", "spiffe://acme.example/other", GATEWAY),
    "DNS name": AUTHORITY.client("any", dns="gateway.internal"),
    "common name": AUTHORITY.client("gateway.internal"),
}
NOT_TRUSTED = {
    "another URI": AUTHORITY.client("any", f"{GATEWAY}/x"),
    "URI in other case": AUTHORITY.client("any", GATEWAY.upper()),
    "URI with NUL": AUTHORITY.client("any", f"{GATEWAY}\0.evil.com"),
    "DNS name in other case": AUTHORITY.client("any", dns="Gateway.internal"),
    "DNS name with NUL": AUTHORITY.client("any", dns="gateway.internal\0.evil.com"),
    "DNS name that is a SPIFFE id": AUTHORITY.client("any", dns=GATEWAY),
    "common name in other case": AUTHORITY.client("Gateway.internal"),
    "common name with NUL": AUTHORITY.client("gateway.internal\0.evil.com"),
    "common name that is a SPIFFE id": AUTHORITY.client(GATEWAY),
    "common name besides a URI": AUTHORITY.client("gateway.internal", "spiffe://acme.example/x"),
    "common name besides a DNS name": AUTHORITY.client("gateway.internal", dns="evil.com"),
    "first of two common names": AUTHORITY.client(
        "gateway.internal", second_common_name="evil.com"
    ),
    "last of two common names": AUTHORITY.client("evil.com", second_common_name="gateway.internal"),
    "not a certificate": Pair(b"-----BEGIN CERTIFICATE-----\n", b""),
}


def check(pair: Pair) -> None:
    """Check a certificate. gRPC cuts names at NUL, so the check must not use names from gRPC."""
    PEERS.check({"x509_pem_cert": [pair.certificate], "x509_common_name": [b"gateway.internal"]})


@pytest.mark.parametrize("name", TRUSTED)
def test_certificate_is_trusted_when_a_name_matches_an_entry(name: str) -> None:
    check(TRUSTED[name])


@pytest.mark.parametrize("name", NOT_TRUSTED)
def test_certificate_is_not_trusted_when_no_name_matches_exactly(name: str) -> None:
    for _ in range(2):  # the result is cached
        with pytest.raises(PeerNotTrusted):
            check(NOT_TRUSTED[name])


def test_connection_without_certificate_is_not_trusted() -> None:
    with pytest.raises(PeerNotTrusted):
        PEERS.check({})


async def test_call_is_rejected_when_certificate_name_differs_or_contains_nul(
    database: Database, tmp_path: Path
) -> None:
    environ = mutual_tls(AUTHORITY, tmp_path) | {
        "JOBS_TRUSTED_PEERS": f"{GATEWAY}, gateway.internal"
    }
    trusted = channel_credentials(AUTHORITY, TRUSTED["DNS name"])
    async with running_tls_server(database.request_dsn, trusted, **environ) as server:
        await server.operator("any").list()
        for name in ("another URI", "URI with NUL", "DNS name with NUL", "common name with NUL"):
            credentials = channel_credentials(AUTHORITY, NOT_TRUSTED[name])
            async with open_channel(server.address, credentials) as channel:
                caller = replace(server, channel=channel).operator("any")
                await expect_error("PEER_NOT_TRUSTED", caller.list())
