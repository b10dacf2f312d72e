"""The configuration of `jobs-grpc serve`: read from the environment once and validated here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_type_hints

from jobs_grpc.config import settings
from jobs_grpc.config.declaration import ConfigError, read_group
from jobs_grpc.config.parsers import dsn, is_local
from jobs_grpc.config.settings import (
    DEFAULT_ADDRESS,
    DEV_METRICS_ADDRESS,
    DEV_POLL_AFTER,
    DevicesConfig,
    EventsConfig,
    JwtConfig,
    LimitsConfig,
    TlsConfig,
)

__all__ = [
    "DEFAULT_ADDRESS",
    "DEV_METRICS_ADDRESS",
    "DEV_POLL_AFTER",
    "Config",
    "ConfigError",
    "DevicesConfig",
    "EventsConfig",
    "JwtConfig",
    "LimitsConfig",
    "TlsConfig",
    "is_local",
    "read_dsn",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of a server, by group. `from_env` reads them."""

    server: settings.ServerConfig
    database: settings.DatabaseConfig
    pool: settings.PoolConfig
    maintenance: settings.MaintenanceConfig
    auth: settings.AuthConfig
    tls: TlsConfig
    devices: DevicesConfig
    jwt: JwtConfig
    limits: LimitsConfig
    events: EventsConfig
    metrics: settings.MetricsConfig
    log: settings.LogConfig

    def __post_init__(self) -> None:
        """Raise ConfigError if the groups contradict each other."""
        if self.auth.mode == "jwt":
            _check_jwt(self)
        else:
            _check_metadata(self)
        _check_devices(self)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Config":
        """Read and validate the JOBS_* variables. Raises ConfigError for the first problem."""
        groups = get_type_hints(cls)
        return cls(**{name: read_group(group, environ) for name, group in groups.items()})


def _required_for_jwt(config: Config) -> dict[str, str | None]:
    return {
        "JOBS_JWT_KEYS": config.jwt.keys,
        "JOBS_JWT_ISSUER": config.jwt.issuer,
        "JOBS_JWT_AUDIENCE": config.jwt.audience,
    }


def _check_metadata(config: Config) -> None:
    for variable, value in _required_for_jwt(config).items():
        if value:
            # Without this check, a server whose JOBS_AUTH=jwt was forgotten would trust every
            # caller.
            raise ConfigError(f"{variable} is set, but JOBS_AUTH is not jwt")
    trusted = config.auth.insecure_metadata or config.tls.trusted_peers
    if not trusted and not is_local(config.server.listen):
        raise ConfigError(
            f"JOBS_LISTEN={config.server.listen} is not loopback, and any caller could name any "
            "tenant; set JOBS_AUTH=jwt, or JOBS_TLS_CLIENT_CA and JOBS_TRUSTED_PEERS, or "
            "JOBS_INSECURE_METADATA=true behind a proxy that authenticates"
        )


def _check_jwt(config: Config) -> None:
    for variable, value in _required_for_jwt(config).items():
        if not value:
            raise ConfigError(f"{variable} is not set, and JOBS_AUTH=jwt needs it")
    encrypted = config.tls.cert or config.tls.terminated_by_proxy
    if not encrypted and not is_local(config.server.listen):
        raise ConfigError(
            f"JOBS_LISTEN={config.server.listen} is not loopback, and tokens would cross the "
            "network unencrypted; set JOBS_TLS_CERT and JOBS_TLS_KEY, or "
            "JOBS_TLS_TERMINATED_BY_PROXY=true behind a proxy with TLS"
        )


def _check_devices(config: Config) -> None:
    listen = config.devices.listen
    if listen is None:
        return
    if not config.devices.cert and not config.tls.cert:
        raise ConfigError(
            "JOBS_DEVICE_LISTEN needs JOBS_DEVICE_TLS_CERT and JOBS_DEVICE_TLS_KEY, or"
            " JOBS_TLS_CERT and JOBS_TLS_KEY"
        )
    if listen == config.server.listen and not listen.endswith(":0"):
        raise ConfigError(f"JOBS_DEVICE_LISTEN and JOBS_LISTEN are both {listen}")
    for gateway in config.devices.gateways:
        if gateway not in config.tls.trusted_peers:
            raise ConfigError(f"JOBS_DEVICE_GATEWAYS: JOBS_TRUSTED_PEERS does not list {gateway}")


def read_dsn(environ: Mapping[str, str], variable: str) -> str:
    """Read the DSN that a command requires. Raises ConfigError, whose message omits the DSN."""
    value = environ.get(variable)
    if not value:
        raise ConfigError(f"{variable} is not set; it must be {dsn.accepts}")
    try:
        return dsn(value)
    except ValueError as e:
        raise ConfigError(f"{variable} {e}") from None
