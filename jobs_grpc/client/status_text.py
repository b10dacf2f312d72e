"""Describes a failed call in one line for people."""

import re

import grpc

# What gRPC reports when only one end uses TLS. "failed to connect" excludes connections that
# were established and then lost.
_HINTS = (
    (
        r"failed to connect .*(Socket closed|Connection reset by peer)$",
        "(if the server requires TLS, add --tls or --ca;"
        " if it requires a client certificate, add --cert and --key)",
    ),
    (
        r"failed to connect .*WRONG_VERSION_NUMBER",
        "(if the server does not use TLS, remove --tls, --ca, --cert and --key)",
    ),
)


def status_text(code: grpc.StatusCode, details: str | None) -> str:
    """Return code and details in one line, with a hint if the cause may be a TLS mismatch."""
    text = f"{code.name}: {' '.join((details or '').split())}"
    hints = (hint for pattern, hint in _HINTS if re.search(pattern, text))
    return " ".join((text, *hints))
