"""The configuration: read once from the environment, validated here and nowhere else."""

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

DEFAULT_ADDRESS = "127.0.0.1:50051"


class ConfigError(Exception):
    """A variable's value is wrong; the message is one line that says what to do."""


def _setting(variable: str, parse: Callable[[str], Any], text: str, default: Any = MISSING) -> Any:
    metadata = {"variable": variable, "parse": parse, "help": text}
    return field(default=default, metadata=metadata)


def _dsn(value: str) -> str:
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


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        for choice in choices:
            if value.lower() == choice.lower():
                return choice
        raise ValueError(f"must be one of {', '.join(choices)}")

    return parse


def _boolean(value: str) -> bool:
    return _choice("true", "false")(value) == "true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `jobs-grpc serve`. Times are seconds, sizes are bytes."""

    database_url: str = _setting(
        "JOBS_DATABASE_URL", _dsn, "PostgreSQL, as the request role (required)"
    )
    owner_database_url: str | None = _setting(
        "JOBS_OWNER_DATABASE_URL",
        _dsn,
        "PostgreSQL, as the tables' owner: to sweep; unset, this server does not",
        None,
    )
    retention_days: int | None = _setting(
        "JOBS_RETENTION_DAYS",
        integer(1, 36500),
        "delete jobs that have been over for so long; unset: never",
        None,
    )
    listen: str = _setting(
        "JOBS_LISTEN", address, "HOST:PORT, [IPV6]:PORT or unix:PATH", DEFAULT_ADDRESS
    )
    insecure_metadata: bool = _setting(
        "JOBS_INSECURE_METADATA",
        _boolean,
        "listen beyond loopback although callers are trusted to state their tenant",
        False,
    )
    pool_min_size: int = _setting(
        "JOBS_POOL_MIN_SIZE", integer(0, 1000), "connections kept open", 1
    )
    pool_max_size: int = _setting("JOBS_POOL_MAX_SIZE", integer(1, 1000), "connections at most", 10)
    pool_timeout: float = _setting(
        "JOBS_POOL_TIMEOUT",
        seconds(0.01, 300),
        "wait for a free connection, then RESOURCE_EXHAUSTED",
        5.0,
    )
    query_timeout: float = _setting(
        "JOBS_QUERY_TIMEOUT", seconds(0.01, 3600), "a statement at most, then UNAVAILABLE", 30.0
    )
    statement_cache_size: int = _setting(
        "JOBS_STATEMENT_CACHE_SIZE",
        integer(0, 10000),
        "prepared statements a connection; 0 behind a pooler that does not track them",
        100,
    )
    max_document_bytes: int = _setting(
        "JOBS_MAX_DOCUMENT_BYTES",
        integer(1024, 262144),
        "document_params at most, as compact JSON",
        32768,
    )
    max_request_bytes: int = _setting(
        "JOBS_MAX_REQUEST_BYTES",
        integer(65536, 67108864),
        "a request message at most",
        4194304,
    )
    max_calls: int = _setting(
        "JOBS_MAX_CALLS",
        integer(1, 1000000),
        "unary calls in flight at most, of all tenants",
        1000,
    )
    max_tenant_calls: int = _setting(
        "JOBS_MAX_TENANT_CALLS",
        integer(1, 1000000),
        "unary calls in flight at most, of a tenant",
        100,
    )
    max_streams: int = _setting(
        "JOBS_MAX_STREAMS", integer(1, 1000000), "open streams at most, of all tenants", 20000
    )
    max_tenant_streams: int = _setting(
        "JOBS_MAX_TENANT_STREAMS", integer(1, 1000000), "open streams at most, of a tenant", 10000
    )
    max_device_streams: int = _setting(
        "JOBS_MAX_DEVICE_STREAMS", integer(1, 1000000), "open streams at most, of a device", 4
    )
    max_targets: int = _setting(
        "JOBS_MAX_TARGETS", integer(1, 100000000), "devices of a job at most", 1000000
    )
    max_active_jobs: int | None = _setting(
        "JOBS_MAX_ACTIVE_JOBS",
        integer(1, 100000000),
        "jobs of a tenant in progress at most; unset: no limit",
        None,
    )
    shutdown_grace: float = _setting(
        "JOBS_SHUTDOWN_GRACE", seconds(0, 3600), "calls in flight may go on for, at a stop", 10.0
    )
    reflection: bool = _setting(
        "JOBS_REFLECTION", _boolean, "serve gRPC reflection (grpcurl without protos)", True
    )
    log_level: str = _setting(
        "JOBS_LOG_LEVEL",
        _choice("DEBUG", "INFO", "WARNING", "ERROR"),
        "DEBUG, INFO, WARNING or ERROR",
        "INFO",
    )
    log_format: str = _setting(
        "JOBS_LOG_FORMAT", _choice("text", "json"), "text or json, on stderr", "text"
    )

    def __post_init__(self) -> None:
        """Check what concerns two settings together."""
        if self.pool_min_size > self.pool_max_size:
            raise ConfigError(
                f"JOBS_POOL_MIN_SIZE ({self.pool_min_size}) exceeds "
                f"JOBS_POOL_MAX_SIZE ({self.pool_max_size})"
            )
        if not self.insecure_metadata and not _is_loopback(self.listen):
            raise ConfigError(
                f"JOBS_LISTEN={self.listen} is not loopback, and any caller could name any "
                "tenant; keep to loopback behind a proxy that authenticates, or set "
                "JOBS_INSECURE_METADATA=true"
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Config":
        """Read and validate the JOBS_* variables; ConfigError names the first that is wrong."""
        return cls(
            **{
                f.name: _read(f, environ)
                for f in fields(cls)
                if environ.get(f.metadata["variable"]) or f.default is MISSING
            }
        )


def read_dsn(environ: Mapping[str, str], variable: str) -> str:
    """A DSN that a command cannot do without, such as the owner's: validated in the same way."""
    value = environ.get(variable)
    if not value:
        raise ConfigError(f"{variable} is not set; it must look like postgresql://user@host/db")
    try:
        return _dsn(value)
    except ValueError as e:
        raise ConfigError(f"{variable} {e}") from None


def describe_settings() -> list[tuple[str, str, str]]:
    """Each variable of Config: name, default as text ("" if required), meaning."""
    return [
        (
            f.metadata["variable"],
            "" if f.default is MISSING else _as_text(f.default),
            f.metadata["help"],
        )
        for f in fields(Config)
    ]


def _as_text(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(setting: "Field[Any]", environ: Mapping[str, str]) -> Any:
    variable = setting.metadata["variable"]
    value = environ.get(variable)
    if not value:
        raise ConfigError(f"{variable} is not set: {setting.metadata['help']}")
    try:
        return setting.metadata["parse"](value)
    except ValueError as e:
        # A DSN may hold a password: its value stays out of the message.
        shown = variable if setting.metadata["parse"] is _dsn else f"{variable}={value}"
        raise ConfigError(f"{shown} {e}") from None


def _is_loopback(listen: str) -> bool:
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
