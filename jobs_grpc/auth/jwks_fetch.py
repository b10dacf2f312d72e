"""Where public keys are read from: a file or an address. What is read may be anything."""

import time
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO

# Of a set of keys, in bytes.
_MAX_SIZE = 256 * 1024

# Seconds for each step of a fetch, and for all of it.
_STEP_TIMEOUT = 5.0
_FETCH_TIMEOUT = 10.0


def is_address(source: str) -> bool:
    """Whether a source is an address, not a file."""
    return source.startswith(("https://", "http://"))


def read(source: str) -> bytes:
    """What is there. OSError, ValueError, or what else urllib raises, if it can't be had."""
    return _fetch(source) if is_address(source) else Path(source).read_bytes()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        """Nowhere: the answer is then the error that its status is."""
        return


def _fetch(address: str) -> bytes:
    """What is at an address, certificates verified (SSL_CERT_FILE names other authorities)."""
    deadline = time.monotonic() + _FETCH_TIMEOUT
    # Only loopback is asked without TLS, and no proxy has a say in that.
    direct = [urllib.request.ProxyHandler({})] if address.startswith("http://") else []
    opener = urllib.request.build_opener(_NoRedirects(), *direct)
    request = urllib.request.Request(address, headers={"Accept": "application/json"})  # noqa: S310
    with opener.open(request, timeout=_STEP_TIMEOUT) as response:
        body = b""
        while chunk := response.read1(65536):
            body += chunk
            if len(body) > _MAX_SIZE:
                raise ValueError(f"more than {_MAX_SIZE} bytes")
            if time.monotonic() > deadline:
                raise ValueError("too slow")
    return body
