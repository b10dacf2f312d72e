"""Checks the TLS files: usable, and for how long."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs_grpc.config import ConfigError, TlsConfig
from jobs_grpc.doctor.finding import Finding, Status
from jobs_grpc.server.tls import server_credentials

_CHECK = "tls"

# A certificate is reported when this remains of its validity, or a quarter of the whole if that is
# less: certificates of a service mesh are valid for hours.
_EXPIRES_SOON = timedelta(days=14)

_RENEW = "replace the file; the server reads it again without a restart"


def check_certificates(config: TlsConfig) -> list[Finding]:
    """Read the files as the server does, and report each certificate that expires."""
    if config.cert is None:
        off = "off; a proxy terminates TLS" if config.terminated_by_proxy else "off"
        return [Finding(_CHECK, Status.OK, off)]
    try:
        server_credentials(config)
    except ConfigError as e:
        remedy = (
            "write PEM files that the account of the server can read; the key must belong to the"
            " first certificate and have no passphrase"
        )
        return [Finding(_CHECK, Status.ERROR, str(e), remedy)]
    try:
        import cryptography  # noqa: F401
    except ImportError:
        detail = "the files are usable; to read when they expire, cryptography is needed"
        return [Finding(_CHECK, Status.WARNING, detail, "install the extra mtls")]
    return [check_expiry(_CHECK, file) for file in (config.cert, config.client_ca) if file]


def check_expiry(check: str, file: str, soon: timedelta = _EXPIRES_SOON) -> Finding:
    """Report the certificate of a file that expires first, or one that is not valid yet."""
    from cryptography import x509

    try:
        certificates = x509.load_pem_x509_certificates(Path(file).read_bytes())
    except ValueError as e:
        detail = f"{file}: the server accepts it, but its expiry can't be read: {e}"
        remedy = "write it as PEM with BEGIN CERTIFICATE lines"
        return Finding(check, Status.WARNING, detail, remedy)
    now = datetime.now(UTC)
    first = min(certificates, key=lambda certificate: certificate.not_valid_after_utc)
    subject = first.subject.rfc4514_string()
    expires = f"{file}: {subject} expires at {first.not_valid_after_utc:%Y-%m-%d %H:%M}Z"
    remaining = first.not_valid_after_utc - now
    lifetime = first.not_valid_after_utc - first.not_valid_before_utc
    for certificate in certificates:
        if certificate.not_valid_before_utc > now:
            starts = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M}Z"
            detail = f"{file}: {certificate.subject.rfc4514_string()} is not valid before {starts}"
            return Finding(check, Status.ERROR, detail, f"check this host's clock, or {_RENEW}")
    if remaining < timedelta():
        return Finding(check, Status.ERROR, expires.replace("expires", "expired"), _RENEW)
    if remaining < min(soon, lifetime / 4):
        return Finding(check, Status.WARNING, expires, _RENEW)
    return Finding(check, Status.OK, expires)
