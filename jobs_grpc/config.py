"""The configuration: read once from the environment, validated here and nowhere else."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from jobs_grpc.config_types import (
    address,
    boolean,
    choice,
    dsn,
    integer,
    is_loopback,
    keys_at,
    listed,
    none_or,
    seconds,
    several,
    worker_count,
)

DEFAULT_ADDRESS = "127.0.0.1:50051"


class ConfigError(Exception):
    """A variable's value is wrong; the message is one line that says what to do."""


def _setting(variable: str, parse: Callable[[str], Any], text: str, default: Any = MISSING) -> Any:
    metadata = {"variable": variable, "parse": parse, "help": text}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `jobs-grpc serve`. Times are seconds, sizes are bytes."""

    database_url: str = _setting(
        "JOBS_DATABASE_URL", dsn, "PostgreSQL, as the request role (required)"
    )
    owner_database_url: str | None = _setting(
        "JOBS_OWNER_DATABASE_URL",
        dsn,
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
    workers: int = _setting(
        "JOBS_WORKERS",
        worker_count,
        "processes that share the port; each has its own connections",
        1,
    )
    insecure_metadata: bool = _setting(
        "JOBS_INSECURE_METADATA",
        boolean,
        "listen beyond loopback although callers are trusted to state their tenant",
        False,
    )
    auth: str = _setting(
        "JOBS_AUTH",
        choice("metadata", "jwt"),
        "how callers are known: metadata (they state who they are) or jwt (by a token)",
        "metadata",
    )
    default_roles: tuple[str, ...] = _setting(
        "JOBS_DEFAULT_ROLES",
        none_or(several("viewer", "operator", "admin", "device", "bridge")),
        "metadata: of a caller who states neither x-roles nor x-device-id; or none",
        ("admin", "bridge"),
    )
    tls_cert: str | None = _setting(
        "JOBS_TLS_CERT",
        str,
        "certificate chain to serve TLS with, a PEM file; read again when it changes",
        None,
    )
    tls_key: str | None = _setting("JOBS_TLS_KEY", str, "its private key, a PEM file", None)
    tls_client_ca: str | None = _setting(
        "JOBS_TLS_CLIENT_CA",
        str,
        "clients must have a certificate of these authorities, a PEM file",
        None,
    )
    trusted_peers: tuple[str, ...] = _setting(
        "JOBS_TRUSTED_PEERS",
        listed,
        "only clients whose certificate has one of these: SPIFFE ids, DNS or common names",
        (),
    )
    tls_terminated_upstream: bool = _setting(
        "JOBS_TLS_TERMINATED_UPSTREAM",
        boolean,
        "jwt: listen beyond loopback without TLS, since a proxy in front has it",
        False,
    )
    jwt_keys: str | None = _setting(
        "JOBS_JWT_KEYS", keys_at, "jwt: a JWKS file, a PEM file, or the https:// of a JWKS", None
    )
    jwt_issuer: str | None = _setting("JOBS_JWT_ISSUER", str, "jwt: whose tokens are taken", None)
    jwt_audience: str | None = _setting(
        "JOBS_JWT_AUDIENCE", str, "jwt: whom tokens must be for", None
    )
    jwt_algorithms: tuple[str, ...] = _setting(
        "JOBS_JWT_ALGORITHMS",
        several("RS256", "ES256", "EdDSA"),
        "jwt: what tokens may be signed with: RS256, ES256, EdDSA",
        ("RS256",),
    )
    jwt_leeway: int = _setting(
        "JOBS_JWT_LEEWAY", integer(0, 300), "jwt: seconds that clocks may differ by", 30
    )
    jwt_refresh_interval: float = _setting(
        "JOBS_JWT_REFRESH_INTERVAL",
        seconds(1, 86400),
        "jwt: seconds after which the keys are read again",
        300.0,
    )
    jwt_tenant_claim: str = _setting(
        "JOBS_JWT_TENANT_CLAIM", str, "jwt: the claim with the tenant", "tenant_id"
    )
    jwt_subject_claim: str = _setting(
        "JOBS_JWT_SUBJECT_CLAIM", str, "jwt: the claim with the user", "sub"
    )
    jwt_roles_claim: str = _setting(
        "JOBS_JWT_ROLES_CLAIM", str, "jwt: the claim with the roles", "roles"
    )
    jwt_device_claim: str = _setting(
        "JOBS_JWT_DEVICE_CLAIM", str, "jwt: the claim with the device", "device_id"
    )
    pool_min_size: int = _setting(
        "JOBS_POOL_MIN_SIZE", integer(0, 1000), "connections kept open", 1
    )
    pool_max_size: int = _setting("JOBS_POOL_MAX_SIZE", integer(1, 1000), "connections at most", 10)
    pool_timeout: float = _setting(
        "JOBS_POOL_TIMEOUT",
        seconds(0.01, 300),
        "seconds to wait for a free connection, then RESOURCE_EXHAUSTED",
        5.0,
    )
    query_timeout: float = _setting(
        "JOBS_QUERY_TIMEOUT",
        seconds(0.01, 3600),
        "seconds for a statement at most, then UNAVAILABLE",
        30.0,
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
        "document_params at most, in bytes as compact JSON",
        32768,
    )
    max_request_bytes: int = _setting(
        "JOBS_MAX_REQUEST_BYTES",
        integer(65536, 67108864),
        "a request message at most",
        4194304,
    )
    request_read_timeout: float = _setting(
        "JOBS_REQUEST_READ_TIMEOUT",
        seconds(0.1, 3600),
        "seconds within which the message of a call must have come",
        30.0,
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
    max_tenant_rate: int = _setting(
        "JOBS_MAX_TENANT_RATE",
        integer(0, 1000000),
        "unary calls of a tenant a second, while others call too; more wait; 0: any number",
        200,
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
        "JOBS_SHUTDOWN_GRACE",
        seconds(0, 3600),
        "seconds that calls in flight may go on for, at a stop",
        10.0,
    )
    reflection: bool = _setting(
        "JOBS_REFLECTION", boolean, "serve gRPC reflection (grpcurl without protos)", True
    )
    log_level: str = _setting(
        "JOBS_LOG_LEVEL",
        choice("DEBUG", "INFO", "WARNING", "ERROR"),
        "DEBUG, INFO, WARNING or ERROR",
        "INFO",
    )
    log_format: str = _setting(
        "JOBS_LOG_FORMAT", choice("text", "json"), "text or json, on stderr", "text"
    )

    def __post_init__(self) -> None:
        """Check what concerns two settings together."""
        if self.workers > 1 and self.listen.startswith("unix:"):
            raise ConfigError(
                f"JOBS_WORKERS={self.workers} can't share JOBS_LISTEN={self.listen}: a socket in a"
                " folder has one server; set HOST:PORT"
            )
        if self.workers > 1 and sys.platform != "linux":
            raise ConfigError(
                f"JOBS_WORKERS={self.workers} needs Linux, which spreads connections over"
                " processes; elsewhere it must be 1"
            )
        if self.pool_min_size > self.pool_max_size:
            raise ConfigError(
                f"JOBS_POOL_MIN_SIZE ({self.pool_min_size}) exceeds "
                f"JOBS_POOL_MAX_SIZE ({self.pool_max_size})"
            )
        _check_tls(self)
        _check_auth(self)

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


def _check_tls(config: Config) -> None:
    if bool(config.tls_cert) != bool(config.tls_key):
        raise ConfigError("JOBS_TLS_CERT and JOBS_TLS_KEY must be set together")
    if config.tls_client_ca and not config.tls_cert:
        raise ConfigError("JOBS_TLS_CLIENT_CA needs JOBS_TLS_CERT and JOBS_TLS_KEY")
    if config.trusted_peers and not config.tls_client_ca:
        raise ConfigError("JOBS_TRUSTED_PEERS needs JOBS_TLS_CLIENT_CA")


def _check_auth(config: Config) -> None:
    required = {
        "JOBS_JWT_KEYS": config.jwt_keys,
        "JOBS_JWT_ISSUER": config.jwt_issuer,
        "JOBS_JWT_AUDIENCE": config.jwt_audience,
    }
    beyond = not is_local(config.listen)
    if config.auth == "metadata":
        for variable, value in required.items():
            if value:
                # Else whoever forgot JOBS_AUTH would believe every caller.
                raise ConfigError(f"{variable} is set, but JOBS_AUTH is not jwt")
        if beyond and not config.insecure_metadata and not config.trusted_peers:
            raise ConfigError(
                f"JOBS_LISTEN={config.listen} is not loopback, and any caller could name any "
                "tenant; set JOBS_AUTH=jwt, or JOBS_TLS_CLIENT_CA and JOBS_TRUSTED_PEERS, or "
                "JOBS_INSECURE_METADATA=true behind a proxy that authenticates"
            )
        return
    for variable, value in required.items():
        if not value:
            raise ConfigError(f"{variable} is not set, and JOBS_AUTH=jwt needs it")
    if beyond and not config.tls_cert and not config.tls_terminated_upstream:
        raise ConfigError(
            f"JOBS_LISTEN={config.listen} is not loopback, and tokens would be readable on the "
            "way; set JOBS_TLS_CERT and JOBS_TLS_KEY, or JOBS_TLS_TERMINATED_UPSTREAM=true behind "
            "a proxy with TLS"
        )


def read_dsn(environ: Mapping[str, str], variable: str) -> str:
    """A DSN that a command cannot do without, such as the owner's: validated in the same way."""
    value = environ.get(variable)
    if not value:
        raise ConfigError(f"{variable} is not set; it must look like postgresql://user@host/db")
    try:
        return dsn(value)
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
    if value is None or value == ():
        return "unset"
    if isinstance(value, tuple):
        return ",".join(value)
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
        secret = setting.metadata["parse"] in (dsn, keys_at)
        shown = variable if secret else f"{variable}={value}"
        raise ConfigError(f"{shown} {e}") from None


def is_local(listen: str) -> bool:
    """Whether an address is this machine's alone."""
    return listen.startswith("unix:") or is_loopback(listen.rpartition(":")[0].strip("[]"))
