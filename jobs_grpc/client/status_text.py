"""A failed call in one line for people."""

import re

import grpc

# How gRPC says that a connection was not made since one end speaks TLS and the other does not.
# (A connection that was made and is lost has no "failed to connect".)
_HINTS = (
    (
        r"failed to connect .*(Socket closed|Connection reset by peer)$",
        "(the server may want TLS: --tls or --ca; or a client certificate: --cert and --key)",
    ),
    (
        r"failed to connect .*WRONG_VERSION_NUMBER",
        "(the server may not speak TLS: leave out --tls, --ca, --cert and --key)",
    ),
)


def call_text(code: grpc.StatusCode, details: str | None) -> str:
    """A call's failure in one line, with a hint where one end speaks TLS and the other does not."""
    text = f"{code.name}: {' '.join((details or '').split())}"
    hints = (hint for pattern, hint in _HINTS if re.search(pattern, text))
    return " ".join((text, *hints))
