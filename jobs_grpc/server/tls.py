"""Server credentials for TLS that follow changes of the PEM files."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from jobs_grpc.config import ConfigError, TlsConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: certificate chain, private key, and optionally the CAs of client certificates."""

    certificate: Path
    key: Path
    client_ca: Path | None

    def stat_key(self) -> tuple[tuple[int, int, int], ...]:
        """A value that changes when a file is written or replaced. Raises OSError."""
        paths = filter(None, (self.certificate, self.key, self.client_ca))
        stats = (path.stat() for path in paths)
        return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Read and validate the files. Raises OSError (such as ssl.SSLError) or ValueError."""
        # Fails unless the key belongs to the certificate. OpenSSL would ask for the passphrase of
        # an encrypted key on the terminal; the empty passphrase makes it fail instead.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key, password=lambda: "")
        if self.client_ca:
            context.load_verify_locations(self.client_ca)
        return grpc.ssl_server_certificate_configuration(
            [(self.key.read_bytes(), self.certificate.read_bytes())],
            root_certificates=self.client_ca.read_bytes() if self.client_ca else None,
        )


class _ReloadingFiles:
    """The content of the files, read again after they change. Keeps the last valid content."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        # What the last read found: the stat_key of the files, or the text of an error.
        self._last_result: object = files.stat_key()
        self._content = files.read()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Return the content: the same object as before unless the files have changed."""
        try:
            stat_key = self._files.stat_key()
            if stat_key != self._last_result:
                content = self._files.read()
                # If the files changed while they were read, the next call reads them again.
                if self._files.stat_key() == stat_key:
                    self._last_result, self._content = stat_key, content
                    logger.info("the TLS files have changed and were read again")
        except (OSError, ValueError) as e:
            error = str(e)
            if error != self._last_result:
                self._last_result = error
                logger.warning(
                    "could not use the new TLS files; the previous content stays in use: %s", error
                )
        return self._content


def server_credentials(config: TlsConfig) -> Callable[[], grpc.ServerCredentials] | None:
    """Return a factory of server credentials, or None without JOBS_TLS_CERT.

    Servers cannot share credentials, so each server needs its own. Clients must present a
    certificate if JOBS_TLS_CLIENT_CA is set. Raises ConfigError if the files are not usable.
    """
    if config.cert is None or config.key is None:
        return None
    client_ca = Path(config.client_ca) if config.client_ca else None
    try:
        files = _ReloadingFiles(TlsFiles(Path(config.cert), Path(config.key), client_ca))
    except (OSError, ValueError) as e:
        names = ", ".join(filter(None, (config.cert, config.key, config.client_ca)))
        raise ConfigError(f"the TLS files are not usable ({names}): {e}") from None

    def make_credentials() -> grpc.ServerCredentials:
        current = files.read()

        def fetch_new_content() -> grpc.ServerCertificateConfiguration | None:
            """Called by gRPC for each handshake. None: nothing has changed."""
            nonlocal current
            previous, current = current, files.read()
            return None if current is previous else current

        return grpc.dynamic_ssl_server_credentials(
            current,
            fetch_new_content,  # type: ignore[arg-type]  # the stubs lack None
            require_client_authentication=client_ca is not None,
        )

    return make_credentials
