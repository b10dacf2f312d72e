"""Restricts clients by the names in their verified certificates: JOBS_TRUSTED_PEERS."""

from collections.abc import Collection, Iterable, Mapping

from jobs_grpc.errors import PeerNotTrusted

_SPIFFE_SCHEME = "spiffe://"


class TrustedPeers:
    """The clients that may call. Entries match exactly.

    An entry that begins with spiffe:// matches a URI of the certificate only; any other entry
    matches a DNS name or the common name. So a client that can choose its common name cannot
    pass for a SPIFFE id.
    """

    def __init__(self, entries: Collection[str]) -> None:
        self._spiffe_ids = {entry for entry in entries if entry.startswith(_SPIFFE_SCHEME)}
        self._names = set(entries) - self._spiffe_ids

    def check(self, auth_context: Mapping[str, Iterable[bytes]]) -> None:
        """Raise PeerNotTrusted unless the certificate has one of the names."""

        def values(key: str) -> set[str]:
            return {value.decode(errors="replace") for value in auth_context.get(key, ())}

        names = values("peer_dns") | values("x509_common_name")
        if not values("peer_uri") & self._spiffe_ids and not names & self._names:
            raise PeerNotTrusted
