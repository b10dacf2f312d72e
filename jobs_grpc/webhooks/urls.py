"""Checks the URL of a webhook, before any name is resolved."""

import ipaddress
import re
from collections.abc import Callable, Collection
from urllib.parse import SplitResult, urlsplit

from jobs_grpc.webhooks.addresses import IPAddress

_VISIBLE_ASCII = re.compile(r"[!-\[\]-~]+")  # without the backslash, which browsers read as a slash
_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\.?$){_LABEL}(?:\.{_LABEL})*\.?")
# Some resolvers read such names as IPv4 addresses: 127.1, 2130706433, 0x7f.0.0.1.
_NUMERIC = re.compile(r"(.*\.)?(\d+|0[xX][0-9A-Fa-f]*)\.?")


def check_url(
    url: str,
    *,
    ports: Collection[int],
    allow_http: bool,
    is_allowed: Callable[[IPAddress], bool],
) -> None:
    """Raise ValueError("is required") or ValueError("must …") if a webhook may not have the URL.

    The addresses of a host name are checked later, at each connection. The message does not contain
    the URL, which can be a secret.
    """
    schemes = ("https", "http") if allow_http else ("https",)
    if not url:
        raise ValueError("is required")
    if not _VISIBLE_ASCII.fullmatch(url):
        raise ValueError(
            "must be a URL of visible ASCII characters: percent-encode others, and write other"
            " host names in Punycode"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("must be a valid URL") from None
    if parts.scheme not in schemes or not url[len(parts.scheme) :].startswith("://"):
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or password")
    if "#" in url:
        raise ValueError("must not contain a fragment")
    _check_host(parts, is_allowed)
    if port is None and parts.netloc.endswith(":"):
        raise ValueError("must be a valid URL")
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    if port not in ports:
        raise ValueError(f"must have an allowed port: {', '.join(map(str, sorted(ports)))}")


def _check_host(parts: SplitResult, is_allowed: Callable[[IPAddress], bool]) -> None:
    host = parts.hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if "[" in parts.netloc or not _NAME.fullmatch(host) or _NUMERIC.fullmatch(host):
            raise ValueError("must contain a host name or an IP address") from None
        return
    if not is_allowed(address):
        raise ValueError("must not contain an address that is not public")
