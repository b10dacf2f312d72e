"""Checks of JOBS_DEVICE_LISTEN: the certificate of the server, and the authorities of devices."""

import asyncio
from collections.abc import Set
from datetime import timedelta
from pathlib import Path

import asyncpg

from jobs_grpc.config import Config, ConfigError
from jobs_grpc.doctor.certificates import check_expiry
from jobs_grpc.doctor.connection import DATABASE_ERRORS, ConnectError, connect, not_examined
from jobs_grpc.doctor.finding import Finding, Status
from jobs_grpc.server import tls
from jobs_grpc.server.device_listener import read_device_authorities

_FILES = "device-tls"
_TENANTS = "device-authorities"

# A new authority has to be installed before the old one issues its last certificate.
_EXPIRES_SOON = timedelta(days=30)

# Seconds for all tenants. One takes less than a millisecond.
_TIMEOUT = 8.0

_MAX_NAMED = 5

_NEXT_TENANT = (
    "SELECT tenant_id FROM public.device_state WHERE tenant_id > $1 ORDER BY tenant_id LIMIT 1"
)


def check_files(config: Config) -> list[Finding]:
    """Read the files as the server does, and report certificates that expire or have no name."""
    devices = config.devices
    if devices.listen is None:
        return []
    # The extra mtls is installed if the authorities can be read.
    certificate = devices.cert or config.tls.cert or ""
    try:
        authorities = read_device_authorities(devices).read()
        tls.device_credentials(
            certificate, devices.key or config.tls.key or "", lambda: authorities.pem
        )
    except ConfigError as e:
        remedy = "correct the files: docs/device-certificates.md says how they are named"
        return [Finding(_FILES, Status.ERROR, str(e), remedy)]
    findings = [check_expiry(_FILES, certificate, _EXPIRES_SOON)]
    if not _has_name(Path(certificate)):
        detail = f"{certificate} has neither a DNS name nor an IP address, so devices refuse it"
        remedy = "issue it with the name that devices connect to, as subject alternative name"
        findings.append(Finding(_FILES, Status.WARNING, detail, remedy))
    paths = [devices.ca] if devices.ca else _files(devices.ca_dir or "")
    expiries = [check_expiry(_FILES, path, _EXPIRES_SOON) for path in paths]
    problems = [finding for finding in expiries if finding.status is not Status.OK]
    valid = Finding(_FILES, Status.OK, f"the authorities of devices are valid; files: {len(paths)}")
    return findings + (problems or [valid])


async def check_tenants(config: Config) -> list[Finding]:
    """With JOBS_DEVICE_CA_DIR, name tenants that have devices and no authority."""
    devices = config.devices
    if devices.listen is None or devices.ca_dir is None:
        return []
    try:
        authorities = read_device_authorities(devices).read()
    except ConfigError:
        return [Finding(_TENANTS, Status.SKIPPED, "needs the authorities of devices")]
    owner_url = config.maintenance.owner_database_url
    if owner_url is None:
        return [Finding(_TENANTS, Status.SKIPPED, "needs JOBS_OWNER_DATABASE_URL")]
    try:
        async with connect(owner_url, config) as connection, asyncio.timeout(_TIMEOUT):
            if await connection.fetchval("SELECT row_security_active('public.device_state')"):
                return [Finding(_TENANTS, Status.SKIPPED, "needs a login that sees all tenants")]
            missing = await _tenants_without(connection, authorities.tenants)
    except TimeoutError:
        return [Finding(_TENANTS, Status.SKIPPED, f"not all tenants were read in {_TIMEOUT:.0f} s")]
    except (ConnectError, *DATABASE_ERRORS) as e:
        return [not_examined(_TENANTS, e)]
    if not missing:
        return [Finding(_TENANTS, Status.OK, "every tenant with devices has an authority")]
    names = ", ".join(missing[:_MAX_NAMED]) + (", and more" if len(missing) > _MAX_NAMED else "")
    detail = f"tenants have devices, but no file in {devices.ca_dir}: {names}"
    remedy = "add the files TENANT.pem, unless these devices use tokens or a bridge"
    return [Finding(_TENANTS, Status.WARNING, detail, remedy)]


async def _tenants_without(connection: asyncpg.Connection, tenants: Set[str | None]) -> list[str]:
    """Return the first tenants with devices that are not in `tenants`.

    Reads one row of each tenant, and also works on Citus.
    """
    found: list[str] = []
    tenant = ""
    while len(found) <= _MAX_NAMED and (tenant := await connection.fetchval(_NEXT_TENANT, tenant)):
        if tenant not in tenants:
            found.append(tenant)
    return found


def _files(folder: str) -> list[str]:
    from jobs_grpc.auth.device_authorities import find_files

    return [str(path) for path in find_files(None, Path(folder))]


def _has_name(path: Path) -> bool:
    """Whether clients can compare the certificate with the address that they connect to."""
    from cryptography import x509

    try:
        extensions = x509.load_pem_x509_certificate(path.read_bytes()).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    except ValueError:
        return True  # It can't be read, which check_expiry reports.
    return any(isinstance(name, x509.DNSName | x509.IPAddress) for name in names)
