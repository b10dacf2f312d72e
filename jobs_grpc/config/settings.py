"""Every setting of `jobs-grpc serve`, by group.

Times are seconds unless the name has another unit; sizes are bytes.

`serve --help` and docs/reference/settings.md are generated from these declarations.
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

from jobs_grpc.config.declaration import ConfigError, required_setting, setting
from jobs_grpc.config.parsers import (
    Network,
    address,
    boolean,
    choice,
    claim,
    dsn,
    integer,
    keys_location,
    names,
    networks,
    path,
    ports,
    seconds,
    subset,
    tcp_address,
    text,
    trust_domain,
    worker_count,
)
from jobs_grpc.contract.methods import ROLES

# A number of two bytes as JSON has eleven bytes in a message. The rest is for other fields.
_REQUEST_BYTES_PER_DOCUMENT_BYTE = 6

DEFAULT_ADDRESS = "127.0.0.1:50051"

DEV_METRICS_ADDRESS = "127.0.0.1:9464"
"""Where `jobs-grpc dev` serves metrics unless JOBS_METRICS_LISTEN is set."""

DEV_POLL_AFTER = "5"
"""The default of JOBS_POLL_AFTER in `jobs-grpc dev`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where and how the server listens."""

    TITLE: ClassVar = "Server"

    listen: str = setting("JOBS_LISTEN", address, "Address to listen on.", default=DEFAULT_ADDRESS)
    workers: int = setting(
        "JOBS_WORKERS",
        worker_count,
        "Server processes on the port. More than 1 needs Linux. Each process has its own connection"
        " pool and its own limits of calls and streams.",
        default=1,
    )
    shutdown_grace: float = setting(
        "JOBS_SHUTDOWN_GRACE",
        seconds(0, 3600),
        "How many seconds calls in flight may still run after SIGTERM. Calls that take longer fail"
        " with UNAVAILABLE.",
        default=10.0,
    )
    reflection: bool = setting(
        "JOBS_REFLECTION",
        boolean,
        "Serve gRPC reflection, so that grpcurl works without the .proto files.",
        default=True,
    )
    poll_after: float = setting(
        "JOBS_POLL_AFTER",
        seconds(0.1, 86400),
        "Mean time in seconds that a polling device waits before its next poll: `poll_after` in"
        " responses. Each response has a random value between 0.5 and 1.5 times this one, and up"
        " to four times as much under load. A poll takes about 0.5 ms of CPU time."
        f" `jobs-grpc dev` uses {DEV_POLL_AFTER}.",
        default=60.0,
    )
    event_loop: str = setting(
        "JOBS_EVENT_LOOP",
        choice("auto", "asyncio"),
        "`auto`: uvloop, which takes less CPU time per call, if the extra `uvloop` is installed,"
        " otherwise asyncio. `asyncio`: always asyncio.",
        default="auto",
    )

    def __post_init__(self) -> None:
        """Raise ConfigError if the settings contradict each other."""
        if self.workers > 1 and self.listen.startswith("unix:"):
            raise ConfigError(
                f"JOBS_WORKERS={self.workers} can't share JOBS_LISTEN={self.listen}: only one"
                " process can listen on a unix: path; set HOST:PORT"
            )
        if self.workers > 1 and sys.platform != "linux":
            raise ConfigError(
                f"JOBS_WORKERS={self.workers} needs Linux, which spreads connections over"
                " processes; elsewhere it must be 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseConfig:
    """The PostgreSQL database that serves calls."""

    TITLE: ClassVar = "Database"

    url: str = required_setting(
        "JOBS_DATABASE_URL", dsn, "PostgreSQL database, as the request role.", secret=True
    )
    query_timeout: float = setting(
        "JOBS_QUERY_TIMEOUT",
        seconds(0.01, 3600),
        "Seconds that one SQL statement may take. Beyond that the call fails with UNAVAILABLE and"
        " the reason `QUERY_TIMEOUT`. Creating or retrying a job of"
        " `JOBS_MAX_TARGETS` devices takes the longest.",
        default=60.0,
    )
    statement_cache_size: int = setting(
        "JOBS_STATEMENT_CACHE_SIZE",
        integer(0, 10000),
        "Prepared statements that each connection caches. Set 0 behind a pooler that does not"
        " track prepared statements.",
        default=100,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """The connection pool of each process."""

    TITLE: ClassVar = "Connection pool"

    min_size: int = setting(
        "JOBS_POOL_MIN_SIZE",
        integer(0, 1000),
        "Connections that stay open when they are idle.",
        default=1,
    )
    max_size: int = setting(
        "JOBS_POOL_MAX_SIZE",
        integer(1, 1000),
        "Maximum number of connections. Further calls wait; tenants take turns.",
        default=10,
    )
    timeout: float = setting(
        "JOBS_POOL_TIMEOUT",
        seconds(0.01, 300),
        "Seconds that a call waits for a free connection. Then it fails with RESOURCE_EXHAUSTED.",
        default=5.0,
    )

    def __post_init__(self) -> None:
        """Raise ConfigError if the settings contradict each other."""
        if self.min_size > self.max_size:
            raise ConfigError(
                f"JOBS_POOL_MIN_SIZE ({self.min_size}) exceeds JOBS_POOL_MAX_SIZE ({self.max_size})"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceConfig:
    """Background work on the database."""

    TITLE: ClassVar = "Maintenance"

    owner_database_url: str | None = setting(
        "JOBS_OWNER_DATABASE_URL",
        dsn,
        "The same database, as the owner of the tables. Unset: this server runs no maintenance.",
        default=None,
        secret=True,
    )
    retention_days: int | None = setting(
        "JOBS_RETENTION_DAYS",
        integer(1, 36500),
        "Days after which a finished job is deleted. Unset: never.",
        default=None,
    )
    last_seen_interval: float = setting(
        "JOBS_LAST_SEEN_INTERVAL",
        seconds(0, 86400),
        "Seconds between two writes of the times at which devices were last seen. Each process"
        " writes what it has seen, with one more connection to `JOBS_DATABASE_URL`. 0: the times"
        " are not stored.",
        default=30.0,
    )
    join_scan_interval: float = setting(
        "JOBS_JOIN_SCAN_INTERVAL",
        seconds(1, 86400),
        "Seconds between two full scans of the devices of a tenant for a continuous job. Changes"
        " made through the service need none: their devices join within seconds. If the platform"
        " manages the device tables, only these scans find its changes.",
        default=900.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """How callers are authenticated."""

    TITLE: ClassVar = "Authentication"

    mode: str = setting(
        "JOBS_AUTH",
        choice("metadata", "jwt"),
        "`metadata` trusts the tenant, user, device and roles that a caller sends as `x-…`"
        " metadata; `jwt` verifies a bearer token.",
        default="metadata",
    )
    default_roles: tuple[str, ...] = setting(
        "JOBS_DEFAULT_ROLES",
        subset(*ROLES, allow_none=True),
        "With `JOBS_AUTH=metadata`: roles of a caller that sends neither `x-roles` nor"
        " `x-device-id`.",
        default=("admin", "bridge"),
    )
    insecure_metadata: bool = setting(
        "JOBS_INSECURE_METADATA",
        boolean,
        "Allow `JOBS_AUTH=metadata` beyond loopback without `JOBS_TRUSTED_PEERS`. Any client that"
        " reaches the server can then act for any tenant.",
        default=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """The server certificate and the client certificates that the server accepts."""

    TITLE: ClassVar = "TLS"

    cert: str | None = setting(
        "JOBS_TLS_CERT",
        path,
        "PEM file with the server's certificate chain; turns TLS on. Reloaded when it changes.",
        default=None,
    )
    key: str | None = setting(
        "JOBS_TLS_KEY",
        path,
        "PEM file with the private key of the certificate. Reloaded when it changes.",
        default=None,
    )
    client_ca: str | None = setting(
        "JOBS_TLS_CLIENT_CA",
        path,
        "PEM file with certificate authorities; clients must present a certificate that one of"
        " them issued. Reloaded when it changes.",
        default=None,
    )
    trusted_peers: tuple[str, ...] = setting(
        "JOBS_TRUSTED_PEERS",
        names,
        "SPIFFE IDs, DNS names or common names; a client certificate must have one of them."
        " Calls of other clients fail with PERMISSION_DENIED. Needs `JOBS_TLS_CLIENT_CA` and the"
        " extra `mtls`.",
        default=(),
    )
    terminated_by_proxy: bool = setting(
        "JOBS_TLS_TERMINATED_BY_PROXY",
        boolean,
        "Allow `JOBS_AUTH=jwt` beyond loopback without `JOBS_TLS_CERT`, because a proxy in front"
        " of the server terminates TLS.",
        default=False,
    )

    def __post_init__(self) -> None:
        """Raise ConfigError if a setting lacks one that it needs."""
        if bool(self.cert) != bool(self.key):
            raise ConfigError("JOBS_TLS_CERT and JOBS_TLS_KEY must be set together")
        if self.client_ca and not self.cert:
            raise ConfigError("JOBS_TLS_CLIENT_CA needs JOBS_TLS_CERT and JOBS_TLS_KEY")
        if self.trusted_peers and not self.client_ca:
            raise ConfigError("JOBS_TRUSTED_PEERS needs JOBS_TLS_CLIENT_CA")


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesConfig:
    """A second address, where client certificates identify devices."""

    TITLE: ClassVar = "Devices with certificates"

    listen: str | None = setting(
        "JOBS_DEVICE_LISTEN",
        tcp_address,
        "Address for devices that client certificates identify. They have the role `device` and"
        " must be registered. Needs `JOBS_DEVICE_CA` or `JOBS_DEVICE_CA_DIR`, and the extra"
        " `mtls`. Unset: there is none.",
        default=None,
    )
    ca: str | None = setting(
        "JOBS_DEVICE_CA",
        path,
        "PEM file with the authorities that issue the certificates of all tenants. A certificate"
        " has the SPIFFE ID `spiffe://TRUST_DOMAIN/tenant/TENANT/device/DEVICE`. Reloaded when it"
        " changes.",
        default=None,
    )
    trust_domain: str | None = setting(
        "JOBS_DEVICE_TRUST_DOMAIN",
        trust_domain,
        "The trust domain of these SPIFFE IDs. Must be set with `JOBS_DEVICE_CA`.",
        default=None,
    )
    ca_dir: str | None = setting(
        "JOBS_DEVICE_CA_DIR",
        path,
        "Folder with a file `TENANT.pem` for each tenant: the authorities that issue its"
        " certificates. The name of the tenant is percent-encoded. The device is the DNS name, or"
        " else the common name. Reloaded when it changes.",
        default=None,
    )
    cert: str | None = setting(
        "JOBS_DEVICE_TLS_CERT",
        path,
        "PEM file with the certificate chain that the server presents there. Unset:"
        " `JOBS_TLS_CERT`. Reloaded when it changes.",
        default=None,
    )
    key: str | None = setting(
        "JOBS_DEVICE_TLS_KEY",
        path,
        "PEM file with the private key of that certificate. Unset: `JOBS_TLS_KEY`. Reloaded when"
        " it changes.",
        default=None,
    )
    gateways: tuple[str, ...] = setting(
        "JOBS_DEVICE_GATEWAYS",
        names,
        "Those of `JOBS_TRUSTED_PEERS` that forward the client certificates of devices: gateways"
        " with `JOBS_GATEWAY_DEVICE_LISTEN`. They can act as any device whose certificate they"
        " know, so a proxy that forwards metadata of its clients must not be listed.",
        default=(),
    )

    def __post_init__(self) -> None:
        """Raise ConfigError if a setting lacks one that it needs, or contradicts another."""
        settings = {
            "JOBS_DEVICE_CA": self.ca,
            "JOBS_DEVICE_TRUST_DOMAIN": self.trust_domain,
            "JOBS_DEVICE_CA_DIR": self.ca_dir,
            "JOBS_DEVICE_TLS_CERT": self.cert,
            "JOBS_DEVICE_TLS_KEY": self.key,
            "JOBS_DEVICE_GATEWAYS": self.gateways,
        }
        if self.listen is None:
            for variable, value in settings.items():
                if value:
                    raise ConfigError(f"{variable} is set, but JOBS_DEVICE_LISTEN is not")
            return
        if bool(self.ca) == bool(self.ca_dir):
            raise ConfigError(
                "JOBS_DEVICE_LISTEN needs JOBS_DEVICE_CA or JOBS_DEVICE_CA_DIR, and not both"
            )
        if bool(self.ca) != bool(self.trust_domain):
            raise ConfigError("JOBS_DEVICE_CA and JOBS_DEVICE_TRUST_DOMAIN must be set together")
        if bool(self.cert) != bool(self.key):
            raise ConfigError("JOBS_DEVICE_TLS_CERT and JOBS_DEVICE_TLS_KEY must be set together")


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtConfig:
    """How tokens are verified with JOBS_AUTH=jwt."""

    TITLE: ClassVar = "JSON Web Tokens"

    keys: str | None = setting(
        "JOBS_JWT_KEYS",
        keys_location,
        "Public keys that verify tokens: a JWKS file, a PEM file or the URL of a JWKS. Must be"
        " set with `JOBS_AUTH=jwt`.",
        default=None,
        secret=True,  # A rejected URL can contain a password.
    )
    issuer: str | None = setting(
        "JOBS_JWT_ISSUER",
        text,
        "The value that the `iss` claim must have. Must be set with `JOBS_AUTH=jwt`.",
        default=None,
    )
    audience: str | None = setting(
        "JOBS_JWT_AUDIENCE",
        text,
        "The value that the `aud` claim must contain. Must be set with `JOBS_AUTH=jwt`.",
        default=None,
    )
    algorithms: tuple[str, ...] = setting(
        "JOBS_JWT_ALGORITHMS",
        subset("RS256", "ES256", "EdDSA"),
        "Signature algorithms that are accepted.",
        default=("RS256",),
    )
    leeway: int = setting(
        "JOBS_JWT_LEEWAY",
        integer(0, 300),
        "Seconds by which the clocks of issuer and server may differ.",
        default=30,
    )
    refresh_interval: float = setting(
        "JOBS_JWT_REFRESH_INTERVAL",
        seconds(1, 86400),
        "Seconds between two refreshes of the keys.",
        default=300.0,
    )
    tenant_claim: str = setting(
        "JOBS_JWT_TENANT_CLAIM", claim, "Claim that names the tenant.", default="tenant_id"
    )
    subject_claim: str = setting(
        "JOBS_JWT_SUBJECT_CLAIM", claim, "Claim that names the user.", default="sub"
    )
    roles_claim: str = setting(
        "JOBS_JWT_ROLES_CLAIM",
        claim,
        "Claim that lists the roles; roles of other services are ignored.",
        default="roles",
    )
    device_claim: str = setting(
        "JOBS_JWT_DEVICE_CLAIM", claim, "Claim that names the device.", default="device_id"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Limits that each process enforces on its own.

    The database enforces JOBS_MAX_TARGETS, JOBS_MAX_ACTIVE_JOBS (approximately: see its
    description) and JOBS_MAX_TENANT_DEVICES for all processes.
    """

    TITLE: ClassVar = "Limits"

    max_calls: int = setting(
        "JOBS_MAX_CALLS",
        integer(1, 1000000),
        "Maximum number of unary calls in flight, all tenants together. Further calls fail with"
        " RESOURCE_EXHAUSTED. Open streams of health and reflection have the same limit and are"
        " counted separately; at most 16 of them, with the other defaults, may be of reflection.",
        default=1000,
    )
    max_tenant_calls: int = setting(
        "JOBS_MAX_TENANT_CALLS",
        integer(1, 1000000),
        "Maximum number of unary calls in flight per tenant. Further calls fail with"
        " RESOURCE_EXHAUSTED.",
        default=100,
    )
    max_tenant_rate: int = setting(
        "JOBS_MAX_TENANT_RATE",
        integer(0, 1000000),
        "Maximum number of unary calls per second of a tenant, in each server process, whether or"
        " not other tenants call. Further calls wait up to one second, then fail with"
        " RESOURCE_EXHAUSTED. 0: no limit.",
        default=0,
    )
    max_streams: int = setting(
        "JOBS_MAX_STREAMS",
        integer(1, 1000000),
        "Maximum number of open streams, all tenants together. Further streams fail with"
        " RESOURCE_EXHAUSTED.",
        default=20000,
    )
    max_tenant_streams: int = setting(
        "JOBS_MAX_TENANT_STREAMS",
        integer(1, 1000000),
        "Maximum number of open streams per tenant. Further streams fail with RESOURCE_EXHAUSTED.",
        default=10000,
    )
    max_report_streams: int | None = setting(
        "JOBS_MAX_REPORT_STREAMS",
        integer(1, 1000000),
        "Maximum number of open ReportExecutions streams, all tenants together. Further streams"
        " fail with RESOURCE_EXHAUSTED. gRPC can hold twice `JOBS_MAX_REQUEST_BYTES` for each, in"
        " addition to `JOBS_MAX_BUFFERED_BYTES`. Unset: `JOBS_MAX_BUFFERED_BYTES` divided by that"
        " size, which is 256 with the other defaults.",
        default=None,
    )
    max_tenant_report_streams: int | None = setting(
        "JOBS_MAX_TENANT_REPORT_STREAMS",
        integer(1, 1000000),
        "The same per tenant. Unset: `JOBS_MAX_TENANT_BUFFERED_BYTES` divided by that size, which"
        " is 128 with the other defaults.",
        default=None,
    )
    max_device_streams: int = setting(
        "JOBS_MAX_DEVICE_STREAMS",
        integer(1, 1000000),
        "Maximum number of open streams that act for one device. Further streams fail with"
        " RESOURCE_EXHAUSTED.",
        default=4,
    )
    max_connection_streams: int = setting(
        "JOBS_MAX_CONNECTION_STREAMS",
        integer(1, 1000000),
        "Maximum number of calls and streams in flight on one connection. Further calls wait in the"
        " client. gRPC also counts calls that have just ended, and refuses calls above the limit"
        " with UNAVAILABLE. So use at most half of the limit on one channel, and further channels"
        " for more.",
        default=400,
    )
    max_request_bytes: int = setting(
        "JOBS_MAX_REQUEST_BYTES",
        integer(65536, 67108864),
        "Maximum size of a request message in bytes, at least six times `JOBS_MAX_DOCUMENT_BYTES`."
        " A call with a larger one fails with RESOURCE_EXHAUSTED. Calls whose request can't have a"
        " document, reports, stages or many devices accept at most 16 KiB; larger requests fail"
        " with INVALID_ARGUMENT.",
        default=262144,
    )
    max_document_bytes: int = setting(
        "JOBS_MAX_DOCUMENT_BYTES",
        integer(1024, 262144),
        "Maximum size of `document_params` and of `status_details`, in bytes of compact JSON. A"
        " larger value fails with INVALID_ARGUMENT.",
        default=32768,
    )
    max_buffered_bytes: int = setting(
        "JOBS_MAX_BUFFERED_BYTES",
        integer(1048576, 1099511627776),
        "Maximum memory of the requests and unread responses of all tenants, in bytes."
        " Further calls wait up to five seconds, then fail with RESOURCE_EXHAUSTED; streams wait"
        " as long as needed.",
        default=134217728,
    )
    max_tenant_buffered_bytes: int = setting(
        "JOBS_MAX_TENANT_BUFFERED_BYTES",
        integer(1048576, 1099511627776),
        "The same per tenant: at least twice `JOBS_MAX_REQUEST_BYTES`, and at most"
        " `JOBS_MAX_BUFFERED_BYTES`.",
        default=67108864,
    )
    request_read_timeout: float = setting(
        "JOBS_REQUEST_READ_TIMEOUT",
        seconds(0.1, 3600),
        "Seconds within which the request message of a call must arrive. Otherwise the call"
        " fails with INVALID_ARGUMENT.",
        default=30.0,
    )
    max_targets: int = setting(
        "JOBS_MAX_TARGETS",
        integer(1, 100000000),
        "Maximum number of devices of a job. A CreateJob for more fails with"
        " RESOURCE_EXHAUSTED. Set it to the same value on all servers.",
        default=1000000,
    )
    max_active_jobs: int | None = setting(
        "JOBS_MAX_ACTIVE_JOBS",
        integer(1, 100000000),
        "Maximum number of jobs IN_PROGRESS, PAUSED or SCHEDULED per tenant. A CreateJob or"
        " RetryExecutions beyond that fails with RESOURCE_EXHAUSTED. CreateJob relies on a count of"
        " the last second while that and the jobs that its process has created since are below 90 %"
        " of the limit; otherwise it counts again, after the calls that rely on one have ended."
        " So a tenant can exceed the limit only with calls to several processes, by what the others"
        " create within that second; a process alone is exact. Unset: no limit. Set it to the same"
        " value on all servers.",
        default=None,
    )

    max_tenant_devices: int = setting(
        "JOBS_MAX_TENANT_DEVICES",
        integer(1, 100000000),
        "Maximum number of registered devices per tenant, unless the platform manages the device"
        " tables. An UpdateDevices that would register more fails with RESOURCE_EXHAUSTED, and so"
        " does `jobs-grpc devices import`. It also bounds what devices store: UpdateDevices accepts"
        " 32 labels and 1,000 groups per device. Set it to the same value on all servers.",
        default=1000000,
    )

    def __post_init__(self) -> None:
        """Raise ConfigError if the limits on bytes contradict each other."""
        needed = _REQUEST_BYTES_PER_DOCUMENT_BYTE * self.max_document_bytes
        if self.max_request_bytes < needed:
            raise ConfigError(
                f"JOBS_MAX_REQUEST_BYTES ({self.max_request_bytes}) is too small for documents of"
                f" JOBS_MAX_DOCUMENT_BYTES ({self.max_document_bytes}); set at least {needed}"
            )
        if self.max_tenant_buffered_bytes < 2 * self.max_request_bytes:
            raise ConfigError(
                f"JOBS_MAX_TENANT_BUFFERED_BYTES ({self.max_tenant_buffered_bytes}) is too small"
                f" for requests of JOBS_MAX_REQUEST_BYTES ({self.max_request_bytes}); set at least"
                f" {2 * self.max_request_bytes}"
            )
        if self.max_tenant_buffered_bytes > self.max_buffered_bytes:
            raise ConfigError(
                f"JOBS_MAX_TENANT_BUFFERED_BYTES ({self.max_tenant_buffered_bytes}) exceeds"
                f" JOBS_MAX_BUFFERED_BYTES ({self.max_buffered_bytes})"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsConfig:
    """The log of events, and the webhooks that deliver it."""

    TITLE: ClassVar = "Events and webhooks"

    event_retention_days: int = setting(
        "JOBS_EVENT_RETENTION_DAYS",
        integer(1, 3650),
        "Days after which events are removed from the stream. A reader or a webhook that falls"
        " behind by more than this misses events. The history of a job stays until the job is"
        " purged.",
        default=7,
    )
    max_tenant_events: int = setting(
        "JOBS_MAX_TENANT_EVENTS",
        integer(1000, 1_000_000_000),
        "Maximum number of stored events of a tenant. Beyond it, the oldest are removed, also from"
        " the histories of jobs, but those of executions first. A million events of jobs take about"
        " 300 MB; an event of executions can take up to 16 KiB.",
        default=1_000_000,
    )
    webhook_keys_file: str | None = setting(
        "JOBS_WEBHOOK_KEYS_FILE",
        path,
        "File with the master keys from which the secrets of webhooks are derived. Each line has an"
        " ID, a space, and 32 or more random bytes in base64. New secrets use the first key. Read"
        " again when it changes. Needs the extra `webhooks`. A server with JOBS_OWNER_DATABASE_URL"
        " also delivers. Unset: this server creates and sends no webhooks.",
        default=None,
    )
    webhook_allowed_networks: tuple[Network, ...] = setting(
        "JOBS_WEBHOOK_ALLOWED_NETWORKS",
        networks,
        "Private networks to which webhooks may be sent, in addition to public addresses. Any"
        " tenant can then reach the allowed ports of their hosts.",
        default=(),
    )
    webhook_allowed_ports: tuple[int, ...] = setting(
        "JOBS_WEBHOOK_ALLOWED_PORTS",
        ports,
        "Ports to which webhooks may be sent.",
        default=(443,),
    )
    webhook_allow_http: bool = setting(
        "JOBS_WEBHOOK_ALLOW_HTTP",
        boolean,
        "Allow URLs of webhooks without TLS. Events then cross the network unencrypted.",
        default=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Metrics for Prometheus."""

    TITLE: ClassVar = "Metrics"

    listen: str | None = setting(
        "JOBS_METRICS_LISTEN",
        tcp_address,
        "Address to serve Prometheus metrics on, over HTTP at `/metrics`; one response has the"
        " metrics of all workers. Anyone who reaches it can read them; they name no tenant, device"
        " or job. Needs the extra `metrics`. Unset: no metrics, except that `jobs-grpc dev` serves"
        f" them on `{DEV_METRICS_ADDRESS}`; an empty value turns them off there.",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The log on stderr."""

    TITLE: ClassVar = "Log"

    level: str = setting(
        "JOBS_LOG_LEVEL",
        choice("DEBUG", "INFO", "WARNING", "ERROR"),
        "Lowest level that is logged. The audit log ignores it.",
        default="INFO",
    )
    format: str = setting(
        "JOBS_LOG_FORMAT", choice("text", "json"), "Format of each line.", default="text"
    )
