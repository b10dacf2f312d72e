"""JOBS_DEVICE_GATEWAYS: gateways forward the certificates of devices in metadata."""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2_grpc

from tests.auth.test_device_certificates import AUTHORITY, STRANGER, TENANT, issued_by
from tests.support.database import Database
from tests.support.device_certificates import CertifiedDevice, device_channel, device_settings
from tests.support.failures import expect_error
from tests.support.identities import Pair, channel_credentials, mutual_tls
from tests.support.server import Server, open_channel, running_server, running_tls_server

KEY = "x-device-certificate-bin"

GATEWAY = AUTHORITY.client("gateway")
PROXY = AUTHORITY.client("proxy")


@pytest.fixture(scope="module")
async def server(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """A server that trusts a gateway and a proxy, of which only the gateway forwards."""
    await database.add_devices(TENANT, ["d"])
    folder = tmp_path_factory.mktemp("tls")
    settings = {
        **device_settings(AUTHORITY, folder),
        **mutual_tls(AUTHORITY, folder),
        "JOBS_TRUSTED_PEERS": "gateway,proxy",
        "JOBS_DEVICE_GATEWAYS": "gateway",
    }
    credentials = channel_credentials(AUTHORITY, GATEWAY)
    async with running_tls_server(database.request_dsn, credentials, **settings) as server:
        yield server


def der(certificate: Pair) -> list[bytes]:
    """The certificates of a PEM text."""
    end = "-----END CERTIFICATE-----\n"
    pems = certificate.certificate.decode().split(end)[:-1]
    return [ssl.PEM_cert_to_DER_cert(pem + end) for pem in pems]


@asynccontextmanager
async def forwarding(
    server: Server, peer: Pair, *certificates: bytes, metadata: Sequence[tuple[str, str]] = ()
) -> AsyncIterator[CertifiedDevice]:
    """A device whose certificates the peer forwards."""
    sent: Any = (*((KEY, certificate) for certificate in certificates), *metadata)
    async with open_channel(server.address, channel_credentials(AUTHORITY, peer)) as channel:
        stub = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)
        yield CertifiedDevice(stub, "", "", channel, sent)


@pytest.mark.parametrize(
    "certificate", [AUTHORITY.device(TENANT, "d"), issued_by(AUTHORITY.intermediate())]
)
async def test_certificate_that_a_gateway_forwards_identifies_the_device(
    server: Server, certificate: Pair
) -> None:
    async with forwarding(server, GATEWAY, *der(certificate)) as device:
        await device.pending()
        caller = await device.operator.get_caller()
        assert (caller.tenant_id, caller.device_id, *caller.roles) == (TENANT, "d", "device")
        await expect_error("ROLE_REQUIRED", device.operator.list())


@pytest.mark.parametrize(
    "certificates",
    [
        [b""],
        [b"\x30\x82"],
        [AUTHORITY.device(TENANT, "d").certificate],  # PEM
        der(STRANGER.device(TENANT, "d")),
        [der(AUTHORITY.device(TENANT, "d"))[0] + b"\0"],
        [*der(STRANGER.device(TENANT, "d")), *der(AUTHORITY.device(TENANT, "d"))],
        der(AUTHORITY.device(TENANT, "d")) * 5,
        der(GATEWAY),
    ],
)
async def test_forwarded_certificate_is_verified(
    server: Server, certificates: Sequence[bytes]
) -> None:
    async with forwarding(server, GATEWAY, *certificates) as device:
        await expect_error("INVALID_CERTIFICATE", device.pending())


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (("x-tenant-id", "other"), "METADATA_MISMATCH"),
        (("x-device-id", "e"), "METADATA_MISMATCH"),
        (("authorization", "Bearer x"), "INVALID_TOKEN"),
    ],
)
async def test_metadata_that_contradicts_the_forwarded_certificate_is_refused(
    server: Server, metadata: tuple[str, str], reason: str
) -> None:
    certificate = der(AUTHORITY.device(TENANT, "d"))
    async with forwarding(server, GATEWAY, *certificate, metadata=[metadata]) as device:
        await expect_error(reason, device.pending())


async def test_certificate_that_another_peer_forwards_is_refused(server: Server) -> None:
    certificate = der(AUTHORITY.device(TENANT, "d"))
    identity = [("x-tenant-id", TENANT), ("x-device-id", "d")]
    async with forwarding(server, PROXY, metadata=identity) as device:
        await device.pending()
    async with forwarding(server, PROXY, *certificate, metadata=identity) as device:
        await expect_error("INVALID_CERTIFICATE", device.pending())
    async with forwarding(server, AUTHORITY.device(TENANT, "d"), *certificate) as device:
        await expect_error("PEER_NOT_TRUSTED", device.pending())


async def test_device_with_a_certificate_forwards_none(server: Server) -> None:
    (other,) = der(AUTHORITY.device("other", "e"))
    metadata: Any = ((KEY, other),)
    async with device_channel(server, AUTHORITY, AUTHORITY.device(TENANT, "d")) as device:
        caller = await replace(device, sent_metadata=metadata).operator.get_caller()
    assert (caller.tenant_id, caller.device_id) == (TENANT, "d")


@pytest.mark.parametrize("with_devices", [True, False])
async def test_forwarded_certificate_is_refused_without_gateways(
    database: Database, tmp_path: Path, *, with_devices: bool
) -> None:
    settings = device_settings(AUTHORITY, tmp_path) if with_devices else {}
    async with running_server(database.request_dsn, **settings) as server:
        (certificate,) = der(AUTHORITY.device(TENANT, "d"))
        metadata: Any = ((KEY, certificate), ("x-tenant-id", TENANT))
        await expect_error("INVALID_CERTIFICATE", server.caller(*metadata).get_caller())
