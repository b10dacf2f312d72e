"""Reads public keys from a file, or from a URL within limits of size and time."""

import time
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO

_MAX_BYTES = 256 * 1024

# Seconds for one network operation, and for the whole download.
_SOCKET_TIMEOUT = 5.0
_DOWNLOAD_TIMEOUT = 10.0


def is_url(location: str) -> bool:
    """Whether a location is a URL, not a file."""
    return location.startswith(("https://", "http://"))


def fetch(location: str) -> bytes:
    """Return the content of the file or URL.

    Raises OSError, ValueError, or another exception of urllib. Blocks: call it in a thread.
    """
    return _download(location) if is_url(location) else Path(location).read_bytes()


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
        """Follow no redirect: urllib then raises HTTPError."""
        return


def _download(url: str) -> bytes:
    """Download with verified certificates. SSL_CERT_FILE overrides the system's CAs."""
    deadline = time.monotonic() + _DOWNLOAD_TIMEOUT
    # http:// is allowed on loopback only, and a proxy must not see it.
    no_proxy = [urllib.request.ProxyHandler({})] if url.startswith("http://") else []
    opener = urllib.request.build_opener(_NoRedirects(), *no_proxy)
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310
    with opener.open(request, timeout=_SOCKET_TIMEOUT) as response:
        body = b""
        while chunk := response.read1(65536):
            body += chunk
            if len(body) > _MAX_BYTES:
                raise ValueError(f"the response has more than {_MAX_BYTES} bytes")
            if time.monotonic() > deadline:
                raise ValueError(f"the download takes more than {_DOWNLOAD_TIMEOUT:g} s")
    return body
