"""Which clients may connect at all: by what their verified certificates say."""

from collections.abc import Collection, Iterable, Mapping

from jobs_grpc.errors import PeerNotTrusted

_SPIFFE = "spiffe://"


class TrustedPeers:
    """The clients of a list. Entries are compared exactly.

    One that begins with spiffe:// is compared with the certificate's URIs only, any other
    with its DNS names and its common name: whoever may choose a name must not thereby be
    able to choose an id.
    """

    def __init__(self, entries: Collection[str]) -> None:
        self._ids = {entry for entry in entries if entry.startswith(_SPIFFE)}
        self._names = set(entries) - self._ids

    def check(self, auth_context: Mapping[str, Iterable[bytes]]) -> None:
        """Raise PeerNotTrusted unless the client is one of the list."""

        def said(key: str) -> set[str]:
            return {value.decode(errors="replace") for value in auth_context.get(key, ())}

        names = said("peer_dns") | said("x509_common_name")
        if not said("peer_uri") & self._ids and not names & self._names:
            raise PeerNotTrusted
