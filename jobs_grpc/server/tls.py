"""Server credentials for TLS that follow changes of the PEM files."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from jobs_grpc.auth.reloading_files import ReloadingFiles
from jobs_grpc.config import ConfigError, TlsConfig


@dataclass(frozen=True, slots=True, eq=False)
class _Content:
    """The content of PEM files."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(self.key, self.certificate)], root_certificates=self.client_ca
        )


def server_credentials(config: TlsConfig) -> Callable[[], grpc.ServerCredentials] | None:
    """Return a factory of server credentials, or None without JOBS_TLS_CERT.

    Servers cannot share credentials, so each server needs its own. Clients must present a
    certificate if JOBS_TLS_CLIENT_CA is set. Raises ConfigError if the files are not usable.
    """
    if config.cert is None or config.key is None:
        return None
    files = _reloading_files(config.cert, config.key, config.client_ca)
    return _factory(files.read, require_client_certificate=config.client_ca is not None)


def device_credentials(
    certificate: str, key: str, authorities: Callable[[], bytes]
) -> Callable[[], grpc.ServerCredentials]:
    """Return a factory of the credentials of JOBS_DEVICE_LISTEN.

    `authorities` returns those that issue certificates of devices, as PEM: the same object as
    before unless they have changed. Raises ConfigError if the files are not usable.
    """
    files = _reloading_files(certificate, key, None, noun="TLS files of JOBS_DEVICE_LISTEN")
    latest: tuple[_Content, bytes] | None = None
    content: _Content | None = None

    def read() -> _Content:
        nonlocal latest, content
        pair, pem = files.read(), authorities()
        if content is None or latest is None or latest[0] is not pair or latest[1] is not pem:
            latest = pair, pem
            content = _Content(pair.certificate, pair.key, pem)
        return content

    return _factory(read, require_client_certificate=True)


def _factory(
    read: Callable[[], _Content], *, require_client_certificate: bool
) -> Callable[[], grpc.ServerCredentials]:
    def make_credentials() -> grpc.ServerCredentials:
        current = read()

        def fetch_new_content() -> grpc.ServerCertificateConfiguration | None:
            """Called by gRPC for each handshake. None: nothing has changed."""
            nonlocal current
            previous, current = current, read()
            return None if current is previous else current.configuration()

        return grpc.dynamic_ssl_server_credentials(
            current.configuration(),
            fetch_new_content,  # type: ignore[arg-type]  # the stubs lack None
            require_client_authentication=require_client_certificate,
        )

    return make_credentials


def _reloading_files(
    certificate: str, key: str, client_ca: str | None, *, noun: str = "TLS files"
) -> ReloadingFiles[_Content]:
    """Read the files. Raises ConfigError if they are not usable."""
    paths = [Path(path) for path in (certificate, key, client_ca) if path]
    try:
        return ReloadingFiles(noun, lambda: paths, lambda: _read(*paths))
    except (OSError, ValueError) as e:
        names = ", ".join(map(str, paths))
        raise ConfigError(f"the {noun} are not usable ({names}): {e}") from None


def _read(certificate: Path, key: Path, client_ca: Path | None = None) -> _Content:
    """Read and validate the files. Raises OSError (such as ssl.SSLError) or ValueError."""
    # Fails unless the key belongs to the certificate. OpenSSL would ask for the passphrase of an
    # encrypted key on the terminal; the empty passphrase makes it fail instead.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key, password=lambda: "")
    if client_ca:
        context.load_verify_locations(client_ca)
    return _Content(
        certificate.read_bytes(), key.read_bytes(), client_ca.read_bytes() if client_ca else None
    )
