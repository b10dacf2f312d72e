"""What settings and arguments are written like; a ValueError says what one must be."""

import ipaddress
import re
import unicodedata
from collections.abc import Callable
from urllib.parse import parse_qs, unquote, urlsplit


def dsn(value: str) -> str:
    """The address of a PostgreSQL; the ValueError does not repeat it."""
    # Said without the value, nor what urlsplit makes of it: either may hold a password.
    try:
        parts = urlsplit(value)
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
        hosts = [unquote(parts.netloc.rpartition("@")[2]), *query.get("host", [])]
        ports = ",".join(query.get("port", [])).split(",")
        value.encode()  # no lone surrogates
        well_formed = (
            parts.scheme in {"postgresql", "postgres"}
            and parts.port != 0
            and all(_is_host(host) for listed in hosts for host in listed.split(","))
            and all(_is_port(port) for port in ports if port)
            and "\0" not in unquote(value)
        )
    except ValueError:
        well_formed = False
    if not well_formed:
        raise ValueError(
            "must look like postgresql://user:password@host/database,"
            " with special characters of the password percent-encoded"
        )
    return value


def _is_host(text: str) -> bool:
    """A host, with or without a port, or the path of a socket. ValueError if DNS can't have it."""
    if not text.startswith(("/", "[")):
        text.partition(":")[0].encode("idna")
    return not any(unicodedata.category(character) == "Cc" for character in text)


def address(value: str) -> str:
    """Where to listen or to connect; ValueError says what it must be."""
    if re.fullmatch("unix:.+", value):
        return value
    host, _, port = value.rpartition(":")
    bare = host[1:-1] if re.fullmatch(r"\[.+\]", host) else host
    if not bare or (":" in host and bare == host) or not _is_port(port):
        raise ValueError("must be HOST:PORT, [IPV6]:PORT or unix:PATH")
    return value


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) <= 65535


def integer(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers; its ValueError says what they must be."""

    def parse(value: str) -> int:
        digits = value.strip()
        if not digits.isascii() or not digits.isdecimal() or not low <= int(digits) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(digits)

    return parse


worker_count = integer(1, 256)


def seconds(low: float, high: float) -> Callable[[str], float]:
    """A parser of seconds; its ValueError says what they must be."""

    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            raise ValueError(f"must be seconds from {low:g} to {high:g}")
        return number

    return parse


def choice(*choices: str) -> Callable[[str], str]:
    """A parser of one of a few words, in any case."""

    def parse(value: str) -> str:
        for known in choices:
            if value.lower() == known.lower():
                return known
        raise ValueError(f"must be one of {', '.join(choices)}")

    return parse


def boolean(value: str) -> bool:
    """true or false."""
    return choice("true", "false")(value) == "true"


def listed(value: str) -> tuple[str, ...]:
    """What stands between commas."""
    items = tuple(item.strip() for item in value.split(","))
    if not all(items):
        raise ValueError("must be a comma-separated list without empty items")
    return items


def several(*choices: str) -> Callable[[str], tuple[str, ...]]:
    """A parser of some of a few words, comma-separated."""

    def parse(value: str) -> tuple[str, ...]:
        items = tuple(item.strip() for item in value.split(","))
        if not set(items) <= set(choices):
            raise ValueError(f"must be a comma-separated list of {', '.join(choices)}")
        return items

    return parse


def none_or(parse: Callable[[str], tuple[str, ...]]) -> Callable[[str], tuple[str, ...]]:
    """A parser that also takes the word none, for an empty list."""
    return lambda value: () if value.strip().lower() == "none" else parse(value)


def keys_at(value: str) -> str:
    """A file, or an address that keys may be fetched from, its scheme in small letters."""
    parts = urlsplit(value)
    if not parts.scheme or "://" not in value:
        return value
    local = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if not parts.hostname or parts.username or not (parts.scheme == "https" or local):
        raise ValueError(
            "must be the path of a file (without file://) or an https:// address"
            " (http:// on loopback only)"
        )
    return f"{parts.scheme}://{value.partition('://')[2]}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
