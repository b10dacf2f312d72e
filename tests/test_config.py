"""The configuration: defaults, every variable, and one clear line for a wrong value."""

import pytest

from jobs_grpc.config import Config, ConfigError, describe_settings, read_dsn

DSN = "postgresql://jobs_request:secret@db.example/jobs"

DEFAULTS = {
    "owner_database_url": None,
    "retention_days": None,
    "listen": "127.0.0.1:50051",
    "workers": 1,
    "insecure_metadata": False,
    "auth": "metadata",
    "default_roles": ("admin", "bridge"),
    "tls_cert": None,
    "tls_key": None,
    "tls_client_ca": None,
    "trusted_peers": (),
    "tls_terminated_upstream": False,
    "jwt_keys": None,
    "jwt_issuer": None,
    "jwt_audience": None,
    "jwt_algorithms": ("RS256",),
    "jwt_leeway": 30,
    "jwt_refresh_interval": 300.0,
    "jwt_tenant_claim": "tenant_id",
    "jwt_subject_claim": "sub",
    "jwt_roles_claim": "roles",
    "jwt_device_claim": "device_id",
    "pool_min_size": 1,
    "pool_max_size": 10,
    "pool_timeout": 5.0,
    "query_timeout": 30.0,
    "statement_cache_size": 100,
    "max_document_bytes": 32768,
    "max_request_bytes": 4194304,
    "max_calls": 1000,
    "max_tenant_calls": 100,
    "max_streams": 20000,
    "max_tenant_streams": 10000,
    "max_device_streams": 4,
    "max_targets": 1000000,
    "max_active_jobs": None,
    "shutdown_grace": 10.0,
    "reflection": True,
    "log_level": "INFO",
    "log_format": "text",
}

# Variable, what it says, the field, what that becomes.
VARIABLES = [
    ("JOBS_DATABASE_URL", "postgres://u@h/d", "database_url", "postgres://u@h/d"),
    ("JOBS_OWNER_DATABASE_URL", "postgres://o@h/d", "owner_database_url", "postgres://o@h/d"),
    ("JOBS_RETENTION_DAYS", "36500", "retention_days", 36500),
    ("JOBS_LISTEN", "localhost:0", "listen", "localhost:0"),
    ("JOBS_WORKERS", "4", "workers", 4),
    ("JOBS_INSECURE_METADATA", "true", "insecure_metadata", True),
    ("JOBS_AUTH", "JWT", "auth", "jwt"),
    ("JOBS_DEFAULT_ROLES", "viewer, operator", "default_roles", ("viewer", "operator")),
    ("JOBS_TLS_CERT", "server.crt", "tls_cert", "server.crt"),
    ("JOBS_TLS_KEY", "server.key", "tls_key", "server.key"),
    ("JOBS_TLS_CLIENT_CA", "ca.crt", "tls_client_ca", "ca.crt"),
    ("JOBS_TRUSTED_PEERS", "spiffe://a/b, c", "trusted_peers", ("spiffe://a/b", "c")),
    ("JOBS_TLS_TERMINATED_UPSTREAM", "true", "tls_terminated_upstream", True),
    ("JOBS_JWT_KEYS", "https://login.example/keys", "jwt_keys", "https://login.example/keys"),
    ("JOBS_JWT_ISSUER", "https://login.example", "jwt_issuer", "https://login.example"),
    ("JOBS_JWT_AUDIENCE", "jobs", "jwt_audience", "jobs"),
    ("JOBS_JWT_ALGORITHMS", "ES256,EdDSA", "jwt_algorithms", ("ES256", "EdDSA")),
    ("JOBS_JWT_LEEWAY", "0", "jwt_leeway", 0),
    ("JOBS_JWT_REFRESH_INTERVAL", "60", "jwt_refresh_interval", 60.0),
    ("JOBS_JWT_TENANT_CLAIM", "org", "jwt_tenant_claim", "org"),
    ("JOBS_JWT_SUBJECT_CLAIM", "email", "jwt_subject_claim", "email"),
    ("JOBS_JWT_ROLES_CLAIM", "realm_access.roles", "jwt_roles_claim", "realm_access.roles"),
    ("JOBS_JWT_DEVICE_CLAIM", "serial", "jwt_device_claim", "serial"),
    ("JOBS_POOL_MIN_SIZE", "0", "pool_min_size", 0),
    ("JOBS_POOL_MAX_SIZE", "1000", "pool_max_size", 1000),
    ("JOBS_POOL_TIMEOUT", "0.5", "pool_timeout", 0.5),
    ("JOBS_QUERY_TIMEOUT", "3600", "query_timeout", 3600.0),
    ("JOBS_STATEMENT_CACHE_SIZE", "0", "statement_cache_size", 0),
    ("JOBS_MAX_DOCUMENT_BYTES", "1024", "max_document_bytes", 1024),
    ("JOBS_MAX_REQUEST_BYTES", "65536", "max_request_bytes", 65536),
    ("JOBS_REQUEST_READ_TIMEOUT", "2.5", "request_read_timeout", 2.5),
    ("JOBS_MAX_CALLS", "1", "max_calls", 1),
    ("JOBS_MAX_TENANT_CALLS", "1", "max_tenant_calls", 1),
    ("JOBS_MAX_TENANT_RATE", "0", "max_tenant_rate", 0),
    ("JOBS_MAX_STREAMS", "1", "max_streams", 1),
    ("JOBS_MAX_TENANT_STREAMS", "1", "max_tenant_streams", 1),
    ("JOBS_MAX_DEVICE_STREAMS", "1", "max_device_streams", 1),
    ("JOBS_MAX_TARGETS", "1", "max_targets", 1),
    ("JOBS_MAX_ACTIVE_JOBS", "1", "max_active_jobs", 1),
    ("JOBS_SHUTDOWN_GRACE", "0", "shutdown_grace", 0.0),
    ("JOBS_REFLECTION", "False", "reflection", False),
    ("JOBS_LOG_LEVEL", "debug", "log_level", "DEBUG"),
    ("JOBS_LOG_FORMAT", "json", "log_format", "json"),
]

# What some of them can't be set without.
COMPANIONS = {
    "JOBS_AUTH": ("JOBS_JWT_KEYS", "JOBS_JWT_ISSUER", "JOBS_JWT_AUDIENCE"),
    "JOBS_TLS_CERT": ("JOBS_TLS_KEY",),
    "JOBS_TLS_KEY": ("JOBS_TLS_CERT",),
    "JOBS_TLS_CLIENT_CA": ("JOBS_TLS_CERT", "JOBS_TLS_KEY"),
    "JOBS_TRUSTED_PEERS": ("JOBS_TLS_CERT", "JOBS_TLS_KEY", "JOBS_TLS_CLIENT_CA"),
    "JOBS_JWT_KEYS": ("JOBS_AUTH", "JOBS_JWT_ISSUER", "JOBS_JWT_AUDIENCE"),
    "JOBS_JWT_ISSUER": ("JOBS_AUTH", "JOBS_JWT_KEYS", "JOBS_JWT_AUDIENCE"),
    "JOBS_JWT_AUDIENCE": ("JOBS_AUTH", "JOBS_JWT_KEYS", "JOBS_JWT_ISSUER"),
}

WRONG = [
    ("JOBS_AUTH", "none"),
    ("JOBS_DEFAULT_ROLES", "root"),
    ("JOBS_DEFAULT_ROLES", "viewer,"),
    ("JOBS_TRUSTED_PEERS", "a,,b"),
    ("JOBS_TLS_TERMINATED_UPSTREAM", "1"),
    ("JOBS_JWT_KEYS", "http://login.example/keys"),
    ("JOBS_JWT_KEYS", "https://"),
    ("JOBS_JWT_KEYS", "https://user@login.example/keys"),
    ("JOBS_JWT_KEYS", "ftp://login.example/keys"),
    ("JOBS_JWT_ALGORITHMS", "none"),
    ("JOBS_JWT_ALGORITHMS", "HS256"),
    ("JOBS_JWT_ALGORITHMS", "RS256,HS256"),
    ("JOBS_JWT_LEEWAY", "301"),
    ("JOBS_JWT_REFRESH_INTERVAL", "0"),
    ("JOBS_DATABASE_URL", "mysql://u@h/d"),
    ("JOBS_DATABASE_URL", "host=localhost dbname=jobs"),
    ("JOBS_DATABASE_URL", "postgresql://u@h:port/d"),
    ("JOBS_DATABASE_URL", "postgresql://u@[::1/d"),
    ("JOBS_OWNER_DATABASE_URL", "mysql://u@h/d"),
    ("JOBS_RETENTION_DAYS", "0"),
    ("JOBS_RETENTION_DAYS", "36501"),
    ("JOBS_RETENTION_DAYS", "off"),
    ("JOBS_DATABASE_URL", "postgresql://ho..st/d"),
    ("JOBS_DATABASE_URL", "postgresql://h%00/d"),
    ("JOBS_DATABASE_URL", "postgresql://h%0a/d"),
    ("JOBS_DATABASE_URL", f"postgresql://{'h' * 64}/d"),
    ("JOBS_DATABASE_URL", "postgresql:///d?host=ho..st"),
    ("JOBS_DATABASE_URL", "postgresql:///d?host=/run%00"),
    ("JOBS_DATABASE_URL", "postgresql:///d?host=h&port=x"),
    ("JOBS_DATABASE_URL", "postgresql:///d?host"),
    ("JOBS_DATABASE_URL", "postgresql://h/d%00"),
    ("JOBS_DATABASE_URL", "postgresql://\udcff@h/d"),
    ("JOBS_WORKERS", "0"),
    ("JOBS_WORKERS", "257"),
    ("JOBS_LISTEN", "50051"),
    ("JOBS_LISTEN", ":50051"),
    ("JOBS_LISTEN", "localhost"),
    ("JOBS_LISTEN", "localhost:"),
    ("JOBS_LISTEN", "localhost:http"),
    ("JOBS_LISTEN", "127.0.0.1:65536"),
    ("JOBS_LISTEN", "[::1]"),
    ("JOBS_LISTEN", "::1:50051"),
    ("JOBS_LISTEN", "unix:"),
    ("JOBS_INSECURE_METADATA", "yes"),
    ("JOBS_POOL_MIN_SIZE", "-1"),
    ("JOBS_POOL_MIN_SIZE", "two"),
    ("JOBS_POOL_MAX_SIZE", "0"),
    ("JOBS_POOL_MAX_SIZE", "1001"),
    ("JOBS_POOL_TIMEOUT", "0"),
    ("JOBS_POOL_TIMEOUT", "nan"),
    ("JOBS_POOL_TIMEOUT", "5s"),
    ("JOBS_QUERY_TIMEOUT", "inf"),
    ("JOBS_STATEMENT_CACHE_SIZE", "1.5"),
    ("JOBS_MAX_DOCUMENT_BYTES", "1023"),
    ("JOBS_MAX_DOCUMENT_BYTES", "32 KiB"),
    ("JOBS_MAX_REQUEST_BYTES", "65535"),
    ("JOBS_REQUEST_READ_TIMEOUT", "0"),
    ("JOBS_MAX_TENANT_RATE", "-1"),
    ("JOBS_MAX_CALLS", "0"),
    ("JOBS_MAX_TENANT_CALLS", "0"),
    ("JOBS_MAX_STREAMS", "0"),
    ("JOBS_MAX_TENANT_STREAMS", "0"),
    ("JOBS_MAX_DEVICE_STREAMS", "0"),
    ("JOBS_MAX_TARGETS", "0"),
    ("JOBS_MAX_ACTIVE_JOBS", "unset"),
    ("JOBS_SHUTDOWN_GRACE", "-1"),
    ("JOBS_REFLECTION", "on"),
    ("JOBS_LOG_LEVEL", "TRACE"),
    ("JOBS_LOG_FORMAT", "xml"),
]

DSNS = [
    "postgresql://",
    "postgresql://u@h1,h2/d",
    f"postgresql://u@{'h' * 63}:5432/d",
    "postgresql://u@[::1]:5432/d",
    "postgresql://u@münchen.example/d",
    "postgresql://u@%2Frun%2Fpostgresql/d",
    "postgresql:///d?host=/run/postgresql&port=5433",
    "postgresql:///d?host=h1,h2&port=1,2&application_name=x",
]

DSNS_WITH_A_PASSWORD = [
    "mysql://u:hunter2@h/d",
    "postgresql://u:hunter2@h:port/d",
    "postgresql://u:hunter2/@h/d",
    "postgresql://u:hunter2?@h/d",
    "postgresql://u:hunter2#@h/d",
    "postgresql://u:[hunter2@h/d",
    "postgresql://u:hunter2\u2100@h/d",
]


def test_the_defaults_are_what_the_documentation_says() -> None:
    config = Config.from_env({"JOBS_DATABASE_URL": DSN})

    assert config == Config(database_url=DSN, **DEFAULTS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"), VARIABLES, ids=[case[0] for case in VARIABLES]
)
def test_each_variable_sets_its_field(variable: str, text: str, field: str, value: object) -> None:
    values = {name: "jwt" if name == "JOBS_AUTH" else "x" for name in COMPANIONS.get(variable, ())}

    config = Config.from_env({"JOBS_DATABASE_URL": DSN, variable: text} | values)

    assert getattr(config, field) == value


def test_all_variables_are_described() -> None:
    assert [name for name, _, _ in describe_settings()] == [case[0] for case in VARIABLES]
    assert all(meaning for _, _, meaning in describe_settings())


@pytest.mark.parametrize(("variable", "text"), WRONG)
def test_a_wrong_value_is_one_line_that_names_the_variable(variable: str, text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Config.from_env({"JOBS_DATABASE_URL": DSN, variable: text})

    message = str(raised.value)
    assert message.startswith(variable)
    assert "must" in message or "is not" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("dsn", DSNS)
def test_a_dsn_may_be_anything_that_the_driver_takes(dsn: str) -> None:
    assert Config.from_env({"JOBS_DATABASE_URL": dsn}).database_url == dsn


@pytest.mark.parametrize("value", [None, ""])
def test_the_database_is_required(value: str | None) -> None:
    environ = {} if value is None else {"JOBS_DATABASE_URL": value}

    with pytest.raises(ConfigError, match=r"^JOBS_DATABASE_URL is not set"):
        Config.from_env(environ)


def test_an_empty_value_is_none() -> None:
    assert Config.from_env({"JOBS_DATABASE_URL": DSN, "JOBS_POOL_MAX_SIZE": ""}).pool_max_size == 10


def test_other_variables_do_not_matter() -> None:
    assert Config.from_env({"JOBS_DATABASE_URL": DSN, "PATH": "/bin"}) == Config(database_url=DSN)


@pytest.mark.parametrize("dsn", DSNS_WITH_A_PASSWORD)
def test_a_password_is_never_shown(dsn: str) -> None:
    for variable, read in (
        ("JOBS_DATABASE_URL", Config.from_env),
        ("JOBS_OWNER_DATABASE_URL", Config.from_env),
        ("JOBS_OWNER_DATABASE_URL", lambda environ: read_dsn(environ, "JOBS_OWNER_DATABASE_URL")),
    ):
        with pytest.raises(ConfigError) as raised:
            read({"JOBS_DATABASE_URL": DSN, variable: dsn})
        assert "hunter2" not in str(raised.value)
        assert raised.value.__suppress_context__


def test_the_pool_is_not_smaller_than_what_it_keeps() -> None:
    environ = {
        "JOBS_DATABASE_URL": DSN,
        "JOBS_POOL_MIN_SIZE": "5",
        "JOBS_POOL_MAX_SIZE": "4",
    }
    message = r"^JOBS_POOL_MIN_SIZE \(5\) exceeds JOBS_POOL_MAX_SIZE \(4\)$"

    with pytest.raises(ConfigError, match=message):
        Config.from_env(environ)


BEYOND_LOOPBACK = ["0.0.0.0:50051", "[::]:50051", "10.1.2.3:50051", "jobs.example:50051"]


@pytest.mark.parametrize("listen", BEYOND_LOOPBACK)
def test_beyond_loopback_callers_must_be_trusted_explicitly(listen: str) -> None:
    environ = {"JOBS_DATABASE_URL": DSN, "JOBS_LISTEN": listen}

    with pytest.raises(ConfigError, match="JOBS_INSECURE_METADATA=true"):
        Config.from_env(environ)

    environ["JOBS_INSECURE_METADATA"] = "true"
    assert Config.from_env(environ).listen == listen


@pytest.mark.parametrize(
    "listen",
    ["127.0.0.1:0", "127.9.9.9:1", "localhost:1", "[::1]:65535", "unix:/run/jobs.sock"],
)
def test_loopback_needs_no_such_trust(listen: str) -> None:
    assert Config.from_env({"JOBS_DATABASE_URL": DSN, "JOBS_LISTEN": listen}).listen == listen


def test_the_owners_dsn_is_read_in_the_same_way() -> None:
    assert read_dsn({"JOBS_OWNER_DATABASE_URL": DSN}, "JOBS_OWNER_DATABASE_URL") == DSN
    with pytest.raises(ConfigError, match=r"^JOBS_OWNER_DATABASE_URL is not set"):
        read_dsn({}, "JOBS_OWNER_DATABASE_URL")


TLS = {"JOBS_TLS_CERT": "c", "JOBS_TLS_KEY": "k"}
MUTUAL = TLS | {"JOBS_TLS_CLIENT_CA": "ca", "JOBS_TRUSTED_PEERS": "spiffe://a/b"}
TOKENS = {
    "JOBS_AUTH": "jwt",
    "JOBS_JWT_KEYS": "k",
    "JOBS_JWT_ISSUER": "i",
    "JOBS_JWT_AUDIENCE": "a",
}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JOBS_TLS_CERT": "c"}, "JOBS_TLS_CERT and JOBS_TLS_KEY must be set together"),
        ({"JOBS_TLS_KEY": "k"}, "JOBS_TLS_CERT and JOBS_TLS_KEY must be set together"),
        ({"JOBS_TLS_CLIENT_CA": "ca"}, "JOBS_TLS_CLIENT_CA needs JOBS_TLS_CERT and JOBS_TLS_KEY"),
        (TLS | {"JOBS_TRUSTED_PEERS": "a"}, "JOBS_TRUSTED_PEERS needs JOBS_TLS_CLIENT_CA"),
        ({"JOBS_AUTH": "jwt"}, "JOBS_JWT_KEYS is not set, and JOBS_AUTH=jwt needs it"),
        (TOKENS | {"JOBS_JWT_ISSUER": ""}, "JOBS_JWT_ISSUER is not set, and JOBS_AUTH=jwt needs"),
        (TOKENS | {"JOBS_JWT_AUDIENCE": ""}, "JOBS_JWT_AUDIENCE is not set, and JOBS_AUTH=jwt"),
        # Whoever forgot it would believe every caller.
        (TOKENS | {"JOBS_AUTH": ""}, "JOBS_JWT_KEYS is set, but JOBS_AUTH is not jwt"),
        ({"JOBS_JWT_ISSUER": "i"}, "JOBS_JWT_ISSUER is set, but JOBS_AUTH is not jwt"),
    ],
)
def test_what_belongs_together_is_set_together(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Config.from_env({"JOBS_DATABASE_URL": DSN} | variables)

    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "text", ["file:///etc/jobs/keys.pem", "File://keys.pem", "HTTP://login.example/keys"]
)
def test_keys_are_not_at_just_any_address(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Config.from_env(TOKENS | {"JOBS_DATABASE_URL": DSN, "JOBS_JWT_KEYS": text})

    assert str(raised.value) == (
        "JOBS_JWT_KEYS must be the path of a file (without file://) or an https:// address"
        " (http:// on loopback only)"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("HTTPS://Login.example/Keys", "https://Login.example/Keys"),
        ("Http://127.0.0.1:1/keys", "http://127.0.0.1:1/keys"),
        ("/etc/jobs/Keys.pem", "/etc/jobs/Keys.pem"),
    ],
)
def test_the_scheme_of_an_address_may_be_in_capitals(text: str, value: str) -> None:
    variables = TOKENS | {"JOBS_DATABASE_URL": DSN, "JOBS_JWT_KEYS": text}

    assert Config.from_env(variables).jwt_keys == value


@pytest.mark.parametrize(
    ("variables", "may"),
    [
        (TLS, False),
        (TLS | {"JOBS_TLS_CLIENT_CA": "ca"}, False),
        (MUTUAL, True),
        ({"JOBS_INSECURE_METADATA": "true"}, True),
        ({"JOBS_TLS_TERMINATED_UPSTREAM": "true"}, False),
        (TOKENS, False),
        (TOKENS | {"JOBS_INSECURE_METADATA": "true"}, False),
        (TOKENS | {"JOBS_TLS_TERMINATED_UPSTREAM": "true"}, True),
        (TOKENS | TLS, True),
    ],
)
def test_what_may_listen_beyond_loopback(variables: dict[str, str], may: bool) -> None:
    environ = {"JOBS_DATABASE_URL": DSN, "JOBS_LISTEN": "10.1.2.3:50051"} | variables

    if may:
        assert Config.from_env(environ).listen == "10.1.2.3:50051"
    else:
        with pytest.raises(ConfigError, match=r"^JOBS_LISTEN=10\.1\.2\.3:50051 is not loopback"):
            Config.from_env(environ)


def test_no_default_roles_can_be_said() -> None:
    environ = {"JOBS_DATABASE_URL": DSN, "JOBS_DEFAULT_ROLES": "none"}

    assert Config.from_env(environ).default_roles == ()
