"""Parsers of settings and command-line arguments. Each states what it accepts."""

import ipaddress
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

T_co = TypeVar("T_co", covariant=True)

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Parser(Generic[T_co]):
    """Converts text to a value. Raises ValueError("must be …") for text that it does not accept."""

    accepts: str
    """What the text must be, as it follows "must be"."""

    convert: Callable[[str], T_co]
    """Raises ValueError. Its message is not shown, because it could contain a password."""

    def __call__(self, text: str) -> T_co:
        """Convert `text`."""
        try:
            return self.convert(text)
        except ValueError:
            raise ValueError(f"must be {self.accepts}") from None


path = Parser("a path", str)
claim = Parser("the name of a claim, or a path such as outer.inner", str)
text = Parser("any text", str)


def _parse_utf8(text: str) -> str:
    text.encode()  # An argument may be any bytes; a request contains only UTF-8.
    return text


utf8 = Parser("UTF-8", _parse_utf8)


def integer(low: int, high: int) -> Parser[int]:
    """Accepts whole numbers from `low` to `high`."""

    def convert(text: str) -> int:
        digits = text.strip()
        if not digits.isascii() or not digits.isdecimal() or not low <= int(digits) <= high:
            raise ValueError
        return int(digits)

    return Parser(f"a whole number from {low} to {high}", convert)


worker_count = integer(1, 256)


def seconds(low: float, high: float) -> Parser[float]:
    """Accepts durations in seconds, with fractions."""

    def convert(text: str) -> float:
        number = float(text)
        if not low <= number <= high:  # NaN fails this comparison too
            raise ValueError
        return number

    return Parser(f"a number of seconds from {low:g} to {high:g}", convert)


def choice(*choices: str) -> Parser[str]:
    """Accepts one of the words, ignoring case."""
    by_lower_case = {word.lower(): word for word in choices}

    def convert(text: str) -> str:
        if text.lower() not in by_lower_case:
            raise ValueError
        return by_lower_case[text.lower()]

    return Parser(f"one of {', '.join(choices)}", convert)


_true_or_false = choice("true", "false")
boolean = Parser("true or false", lambda text: _true_or_false(text) == "true")


def _split(text: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in text.split(","))
    if not all(items):
        raise ValueError
    return items


def _parse_trust_domain(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9._-]{1,255}", text):
        raise ValueError
    return text


trust_domain = Parser("a trust domain such as acme.example, without spiffe://", _parse_trust_domain)

names = Parser("a comma-separated list without empty items", _split)


def subset(*choices: str, allow_none: bool = False) -> Parser[tuple[str, ...]]:
    """Accepts a comma-separated list of the words; with `allow_none`, also "none" for ()."""

    def convert(text: str) -> tuple[str, ...]:
        if allow_none and text.strip().lower() == "none":
            return ()
        items = _split(text)
        if not set(items) <= set(choices):
            raise ValueError
        return items

    none = "none or " if allow_none else ""
    return Parser(f"{none}a comma-separated list of {', '.join(choices)}", convert)


def _parse_networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(item) for item in _split(text))


networks = Parser("networks such as 10.1.0.0/16,fd00:1::/64, separated by commas", _parse_networks)


def _parse_ports(text: str) -> tuple[int, ...]:
    items = _split(text)
    if not all(_is_port(item) and int(item) for item in items):
        raise ValueError
    return tuple(int(item) for item in items)


ports = Parser("ports from 1 to 65535, separated by commas", _parse_ports)


def _parse_address(text: str) -> str:
    if re.fullmatch("unix:.+", text):
        return text
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if re.fullmatch(r"\[.+\]", host) else host
    if not bare or (":" in host and bare == host) or not _is_port(port):
        raise ValueError
    return text


address = Parser("HOST:PORT, [IPV6]:PORT or unix:PATH", _parse_address)


def server_address(text: str) -> str:
    """Convert the address of a server to call. Raises ValueError("must be …")."""
    return address(utf8(text))


def _parse_tcp_address(text: str) -> str:
    if text.startswith("unix:"):
        raise ValueError
    return _parse_address(text)


tcp_address = Parser("HOST:PORT or [IPV6]:PORT", _parse_tcp_address)


def _parse_dsn(text: str) -> str:
    parts = urlsplit(text)
    query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    netloc = parts.netloc.rpartition("@")[2]
    hosts = ",".join([netloc, *query.get("host", [])]).split(",")
    # Without this, a standby that comes first would be taken, and refuse all writes.
    finds_primary = query.get("target_session_attrs") in (["primary"], ["read-write"])
    ports = [*",".join(query.get("port", [])).split(","), *map(_port_of, hosts)]
    text.encode()  # raises on lone surrogates
    if not (
        parts.scheme in {"postgresql", "postgres"}
        and all(_is_host_or_socket(unquote(host)) for host in hosts)
        and all(_is_port(port) and int(port) for port in ports if port)
        and "\0" not in unquote(text)
        and ("," not in (netloc or query.get("host", [""])[-1]) or finds_primary)
    ):
        raise ValueError
    return text


dsn = Parser(
    "a URL like postgresql://user:password@host/database, with special characters of the"
    " password percent-encoded, and with target_session_attrs=primary if it has several hosts",
    _parse_dsn,
)


def _parse_keys_location(text: str) -> str:
    parts = urlsplit(text)
    if not parts.scheme or "://" not in text:
        return text
    local = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if not parts.hostname or parts.username or not (parts.scheme == "https" or local):
        raise ValueError
    return f"{parts.scheme}://{text.partition('://')[2]}"  # the scheme in lower case


keys_location = Parser(
    "the path of a file (without file://) or an https:// address (http:// on loopback only)",
    _parse_keys_location,
)


def _is_host_or_socket(text: str) -> bool:
    """Whether `text` is a host, with or without a port, or the path of a socket.

    Raises ValueError if DNS does not allow the name.
    """
    if not text.startswith(("/", "[")):
        text.partition(":")[0].encode("idna")
    return not any(unicodedata.category(character) == "Cc" for character in text)


def _port_of(host: str) -> str:
    """Return the port of a host in a URL; empty without one, and for the path of a socket."""
    return "" if host.startswith("/") else host.rpartition("]")[2].partition(":")[2]


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) <= 65535


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_local(address: str) -> bool:
    """Whether only this machine can reach the address: a loopback host or a unix: path."""
    return address.startswith("unix:") or is_loopback(address.rpartition(":")[0].strip("[]"))
