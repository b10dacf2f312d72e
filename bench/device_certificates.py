"""Client certificates of the devices d0000000, d0000001 … for JOBS_DEVICE_LISTEN."""

import json
from collections.abc import Sequence
from pathlib import Path

import grpc

from tests.support.device_certificates import device_settings
from tests.support.identities import Authority


def write_certificates(folder: Path, count: int, tenants: Sequence[str]) -> dict[str, str]:
    """Write the certificates of `count` devices, and return the settings of the server.

    Device n belongs to tenant n modulo the number of tenants.
    """
    authority = Authority()
    pairs = (
        authority.device(tenants[n % len(tenants)], f"d{n // len(tenants):07}")
        for n in range(count)
    )
    devices = [(pair.key.decode(), pair.certificate.decode()) for pair in pairs]
    content = {"authority": authority.certificate.decode(), "devices": devices}
    certificates_file(folder).write_text(json.dumps(content))
    return device_settings(authority, folder)


def certificates_file(folder: Path) -> Path:
    """Return the file that `write_certificates` writes."""
    return folder / "certificates.json"


def read_credentials(path: str, first: int, count: int) -> list[grpc.ChannelCredentials]:
    """Return the credentials of `count` devices, from the device `first`."""
    content = json.loads(Path(path).read_text())
    authority = content["authority"].encode()
    return [
        grpc.ssl_channel_credentials(authority, key.encode(), certificate.encode())
        for key, certificate in content["devices"][first : first + count]
    ]
