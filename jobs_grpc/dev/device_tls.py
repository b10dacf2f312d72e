"""Makes certificates, so that `jobs-grpc dev --device-tls` serves a device without a token."""

import ipaddress
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs_grpc.config import ConfigError
from jobs_grpc.dev.embedded_postgres.account import acting_as, unprivileged_account

DEMO_DEVICE = "device-0001"

_DEFAULT_ADDRESS = "127.0.0.1:50052"
_TRUST_DOMAIN = "dev.example"
_LIFETIME = timedelta(days=30)


def device_tls_folder(data_dir: Path) -> Path:
    """Return the folder with the certificates and keys."""
    return data_dir / "device-tls"


def device_tls_settings(data_dir: Path) -> dict[str, str]:
    """Return the settings with the certificates that `make_device_tls` writes."""
    folder = device_tls_folder(data_dir)
    return {
        "JOBS_DEVICE_LISTEN": os.environ.get("JOBS_DEVICE_LISTEN") or _DEFAULT_ADDRESS,
        "JOBS_DEVICE_CA": f"{folder}/ca.crt",
        "JOBS_DEVICE_TRUST_DOMAIN": _TRUST_DOMAIN,
        "JOBS_DEVICE_TLS_CERT": f"{folder}/server.crt",
        "JOBS_DEVICE_TLS_KEY": f"{folder}/server.key",
    }


def make_device_tls(data_dir: Path, tenant: str) -> None:
    """Write new certificates of an authority, of the server and of DEMO_DEVICE, with their keys.

    The key of the authority is not kept, so nobody can issue others. Raises ConfigError if the
    extra `mtls` is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise ConfigError(
            '--device-tls needs the extra mtls: pip install "jobs-grpc[mtls]"'
        ) from None
    pem = serialization.Encoding.PEM
    authority_key = ec.generate_private_key(ec.SECP256R1())

    def issue(name: str, key: ec.EllipticCurvePrivateKey, *names: x509.GeneralName) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            issuer_name=_name("jobs-grpc dev"),
            subject_name=_name(name),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(minutes=1),
            not_valid_after=now + _LIFETIME,
        )
        constraints = x509.BasicConstraints(ca=key is authority_key, path_length=None)
        builder = builder.add_extension(constraints, critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(authority_key, hashes.SHA256()).public_bytes(pem)

    def _name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    spiffe_id = f"spiffe://{_TRUST_DOMAIN}/tenant/{tenant}/device/{DEMO_DEVICE}"
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    files = {"ca.crt": issue("jobs-grpc dev", authority_key)}
    for file, *names in (
        ("server", x509.DNSName("localhost"), loopback),
        ("device", x509.UniformResourceIdentifier(spiffe_id)),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        files[f"{file}.crt"] = issue(file, key, *names)
        files[f"{file}.key"] = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    folder = device_tls_folder(data_dir)
    with acting_as(unprivileged_account()):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        for name, content in files.items():
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(content)
