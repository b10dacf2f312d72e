"""The server's certificate, and whose certificates clients may show; read again when changed."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from jobs_grpc.config import Config, ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files: a certificate chain, its key, and the clients' authorities, if asked for."""

    certificate: Path
    key: Path
    client_ca: Path | None

    @classmethod
    def of(cls, config: Config) -> "Files | None":
        """What is configured; None without TLS."""
        if config.tls.cert is None or config.tls.key is None:
            return None
        client_ca = Path(config.tls.client_ca) if config.tls.client_ca else None
        return cls(Path(config.tls.cert), Path(config.tls.key), client_ca)

    def state(self) -> tuple[tuple[int, int, int], ...]:
        """What differs once a file is written or replaced. OSError if one is not there."""
        paths = filter(None, (self.certificate, self.key, self.client_ca))
        stats = (path.stat() for path in paths)
        return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)

    def read(self) -> grpc.ServerCertificateConfiguration:
        """The files' contents. OSError (ssl.SSLError is one) if they are not fit to serve with."""
        # Raises unless the key is the certificate's. A passphrase would be asked for at a
        # terminal; an empty one is refused.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key, password=lambda: "")
        if self.client_ca:
            context.load_verify_locations(self.client_ca)
        return grpc.ssl_server_certificate_configuration(
            [(self.key.read_bytes(), self.certificate.read_bytes())],
            root_certificates=self.client_ca.read_bytes() if self.client_ca else None,
        )


class _Latest:
    """The files' contents, read again when they have changed; the last good ones if broken."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._seen: object = files.state()
        self._read = files.read()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """The same object as before, unless they have changed."""
        try:
            state = self._files.state()
            if state != self._seen:
                read = self._files.read()
                # If it was written meanwhile, the next time tells.
                if self._files.state() == state:
                    self._seen, self._read = state, read
                    logger.info("the TLS files have changed and were read again")
        except (OSError, ValueError) as e:
            broken = str(e)
            if broken != self._seen:
                self._seen = broken
                logger.warning("the new TLS files are not usable, the old ones stay: %s", broken)
        return self._read


def server_credentials(files: Files) -> Callable[[], grpc.ServerCredentials]:
    """TLS with these files; clients must have a certificate if authorities are given.

    Makes credentials for a server at a time: they can't be shared. ConfigError if the files
    are not usable at the start.
    """
    try:
        latest = _Latest(files)
    except (OSError, ValueError) as e:
        names = ", ".join(str(p) for p in (files.certificate, files.key, files.client_ca) if p)
        raise ConfigError(f"the TLS files are not usable ({names}): {e}") from None

    def make() -> grpc.ServerCredentials:
        used = latest.read()

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            """Called by gRPC for each handshake; None: as before."""
            nonlocal used
            before, used = used, latest.read()
            return None if used is before else used

        return grpc.dynamic_ssl_server_credentials(
            used,
            renewed,  # type: ignore[arg-type]  # None is meant to say "as before"
            require_client_authentication=files.client_ca is not None,
        )

    return make
