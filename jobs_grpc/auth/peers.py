"""Restricts clients by the names in their verified certificates: JOBS_TRUSTED_PEERS."""

import functools
from collections.abc import Collection, Iterable, Mapping

from jobs_grpc.config import ConfigError
from jobs_grpc.errors import PeerNotTrusted

_SPIFFE_SCHEME = "spiffe://"

# Certificates for which the result of the check is cached, so that most calls parse none.
_CACHE_SIZE = 256


class TrustedPeers:
    """The clients that may call. Entries match exactly, character by character.

    An entry that begins with spiffe:// matches a URI of the certificate only. Any other entry
    matches a DNS name, or the common name of a certificate that has one common name and neither
    URIs nor DNS names. The gateway has the same rule.
    """

    def __init__(self, entries: Collection[str]) -> None:
        """Raise ConfigError if the extra `mtls` is not installed."""
        # Imported here because only JOBS_TRUSTED_PEERS needs the package.
        try:
            from jobs_grpc.auth import certificates
        except ImportError as e:
            package = (e.name or "").partition(".")[0]
            raise ConfigError(
                f"JOBS_TRUSTED_PEERS needs the extra mtls ({package} can't be imported): "
                'pip install "jobs-grpc[mtls]"'
            ) from None
        self._certificates = certificates
        self._spiffe_ids = {entry for entry in entries if entry.startswith(_SPIFFE_SCHEME)}
        self._names = set(entries) - self._spiffe_ids
        self._is_trusted = functools.lru_cache(_CACHE_SIZE)(self._matches)

    def check(self, auth_context: Mapping[str, Iterable[bytes]]) -> None:
        """Raise PeerNotTrusted unless the certificate has one of the names."""
        # Reads the certificate, because gRPC cuts the names in the auth context at NUL.
        pems = list(auth_context.get("x509_pem_cert", ()))
        if len(pems) != 1 or not self._is_trusted(pems[0]):
            raise PeerNotTrusted

    def _matches(self, pem: bytes) -> bool:
        try:
            certificate = self._certificates.read_certificate(pem)
            names = self._certificates.read_names(certificate)
        except self._certificates.CertificateError:
            return False
        return not (
            self._spiffe_ids.isdisjoint(names.uris)
            and self._names.isdisjoint(names.dns_names)
            and names.common_name not in self._names
        )
