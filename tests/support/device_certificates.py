"""A server with JOBS_DEVICE_LISTEN, and devices that call it with certificates."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from fleet.jobs.v1 import device_jobs_pb2_grpc, jobs_pb2_grpc

from tests.support.callers import Device, Operator
from tests.support.identities import Authority, Pair, channel_credentials
from tests.support.server import Server, open_channel


def device_settings(authority: Authority, folder: Path) -> dict[str, str]:
    """The settings of a server whose devices have certificates of the authority."""
    (folder / "devices.pem").write_bytes(authority.certificate)
    return {
        **_address(authority, folder),
        "JOBS_DEVICE_CA": str(folder / "devices.pem"),
        "JOBS_DEVICE_TRUST_DOMAIN": "acme.example",
    }


def tenant_settings(authority: Authority, folder: Path, **tenants: Authority) -> dict[str, str]:
    """The settings of a server with an authority of each tenant.

    `authority` issues the certificate of the server.
    """
    ca_dir = folder / "tenants"
    ca_dir.mkdir()
    for tenant, its_authority in tenants.items():
        (ca_dir / f"{tenant}.pem").write_bytes(its_authority.certificate)
    return {**_address(authority, folder), "JOBS_DEVICE_CA_DIR": str(ca_dir)}


def _address(authority: Authority, folder: Path) -> dict[str, str]:
    certificate, key = authority.server().write(folder, "device-server")
    return {
        "JOBS_DEVICE_LISTEN": "127.0.0.1:0",
        "JOBS_DEVICE_TLS_CERT": certificate,
        "JOBS_DEVICE_TLS_KEY": key,
    }


@dataclass(frozen=True)
class CertifiedDevice(Device):
    """A device that needs no metadata, because its certificate identifies it."""

    channel: grpc.aio.Channel
    sent_metadata: tuple[tuple[str, str], ...] = ()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return self.sent_metadata

    @property
    def operator(self) -> Operator:
        """The same caller, of JobService."""
        stub = jobs_pb2_grpc.JobServiceStub(self.channel)
        return Operator(stub, "", explicit_metadata=self.sent_metadata)


@asynccontextmanager
async def device_channel(
    server: Server, authority: Authority, certificate: Pair | None
) -> AsyncIterator[CertifiedDevice]:
    """Connect with a certificate; `authority` has issued that of the server."""
    credentials = channel_credentials(authority, certificate)
    async with open_channel(server.app.device_address or "", credentials) as channel:
        stub = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)
        yield CertifiedDevice(stub, "", "", channel)
