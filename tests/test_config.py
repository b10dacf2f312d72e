"""The configuration: defaults, every variable, and a one-line error for a wrong value."""

import re
from dataclasses import replace
from typing import get_type_hints

import pytest

from jobs_grpc.config import Config, ConfigError, read_dsn
from jobs_grpc.config.declaration import Setting, settings_of
from jobs_grpc.config.reference import all_settings

DSN = "postgresql://jobs_request:secret@db.example/jobs"

# Texts for settings that are no numbers and no choices of a word.
TEXTS = {
    "JOBS_LISTEN": "localhost:0",
    "JOBS_METRICS_LISTEN": "[::1]:9464",
    "JOBS_DEVICE_LISTEN": "localhost:50052",
    "JOBS_DEVICE_TRUST_DOMAIN": "acme.example",
    "JOBS_DEVICE_GATEWAYS": "a-JOBS_TRUSTED_PEERS",
    "JOBS_DATABASE_URL": "postgres://u@h/d",
    "JOBS_OWNER_DATABASE_URL": "postgres://o@h/d",
    "JOBS_JWT_KEYS": "https://login.example/keys",
    "JOBS_WEBHOOK_ALLOWED_NETWORKS": "10.0.0.0/8,fd00:1::/64",
    "JOBS_WEBHOOK_ALLOWED_PORTS": "443,8443",
}

WRONG_VALUES = [
    ("JOBS_AUTH", "none"),
    ("JOBS_DEFAULT_ROLES", "root"),
    ("JOBS_DEFAULT_ROLES", "viewer,"),
    ("JOBS_TRUSTED_PEERS", "a,,b"),
    ("JOBS_DEVICE_LISTEN", "unix:/run/devices"),
    ("JOBS_DEVICE_TRUST_DOMAIN", "spiffe://acme.example"),
    ("JOBS_DEVICE_TRUST_DOMAIN", "ACME.example"),
    ("JOBS_TLS_TERMINATED_BY_PROXY", "1"),
    ("JOBS_JWT_KEYS", "http://login.example/keys"),
    ("JOBS_JWT_KEYS", "https://"),
    ("JOBS_JWT_KEYS", "https:///keys"),
    ("JOBS_JWT_KEYS", "https://user@login.example/keys"),
    ("JOBS_JWT_KEYS", "ftp://login.example/keys"),
    ("JOBS_JWT_ALGORITHMS", "none"),
    ("JOBS_JWT_ALGORITHMS", "HS256"),
    ("JOBS_JWT_ALGORITHMS", "RS256,HS256"),
    ("JOBS_DATABASE_URL", "mysql://u@h/d"),
    ("JOBS_DATABASE_URL", "host=localhost dbname=jobs"),
    ("JOBS_DATABASE_URL", "postgresql://u@h:port/d"),
    ("JOBS_DATABASE_URL", "postgresql://u@h:0/d"),
    ("JOBS_DATABASE_URL", "postgresql://u@[::1/d"),
    ("JOBS_OWNER_DATABASE_URL", "mysql://u@h/d"),
    ("JOBS_DATABASE_URL", "postgresql://ho..st/d"),
    ("JOBS_DATABASE_URL", "postgresql://h%00/d"),
    ("JOBS_DATABASE_URL", "postgresql://h%0a/d"),
    ("JOBS_DATABASE_URL", f"postgresql://{'h' * 64}/d"),
    ("JOBS_DATABASE_URL", "postgresql:///d?host=ho..st"),
    ("JOBS_DATABASE_URL", "postgresql:///d?host=/run%00"),
    ("JOBS_DATABASE_URL", "postgresql:///d?host=h&port=x"),
    ("JOBS_DATABASE_URL", "postgresql:///d?host"),
    ("JOBS_DATABASE_URL", "postgresql://h/d%00"),
    ("JOBS_DATABASE_URL", "postgresql://h1,h2/d"),
    ("JOBS_DATABASE_URL", "postgresql:///d?host=h1,h2&target_session_attrs=any"),
    ("JOBS_DATABASE_URL", "postgresql://\udcff@h/d"),
    ("JOBS_WORKERS", "\N{ARABIC-INDIC DIGIT THREE}"),
    ("JOBS_LISTEN", "50051"),
    ("JOBS_LISTEN", ":50051"),
    ("JOBS_LISTEN", "localhost"),
    ("JOBS_LISTEN", "localhost:"),
    ("JOBS_LISTEN", "localhost:http"),
    ("JOBS_LISTEN", "127.0.0.1:65536"),
    ("JOBS_LISTEN", "[::1]"),
    ("JOBS_LISTEN", "::1:50051"),
    ("JOBS_LISTEN", "unix:"),
    ("JOBS_METRICS_LISTEN", "9464"),
    ("JOBS_METRICS_LISTEN", "unix:/run/metrics"),
    ("JOBS_INSECURE_METADATA", "yes"),
    ("JOBS_POOL_TIMEOUT", "5s"),
    ("JOBS_STATEMENT_CACHE_SIZE", "1.5"),
    ("JOBS_MAX_DOCUMENT_BYTES", "32 KiB"),
    ("JOBS_REFLECTION", "on"),
    ("JOBS_EVENT_LOOP", "uvloop"),
    ("JOBS_LOG_LEVEL", "TRACE"),
    ("JOBS_LOG_FORMAT", "xml"),
    ("JOBS_WEBHOOK_ALLOWED_NETWORKS", "10.0.0.1/8"),
    ("JOBS_WEBHOOK_ALLOWED_NETWORKS", "10.0.0.0/8,"),
    ("JOBS_WEBHOOK_ALLOWED_NETWORKS", "hooks.example"),
    ("JOBS_WEBHOOK_ALLOWED_PORTS", "0"),
    ("JOBS_WEBHOOK_ALLOWED_PORTS", "443,https"),
    ("JOBS_WEBHOOK_ALLOWED_PORTS", "65536"),
    ("JOBS_WEBHOOK_ALLOW_HTTP", "1"),
]

VALID_DSNS = [
    "postgresql://",
    "postgresql://u@h1/d?host=h2",
    "postgresql://u@h1,h2/d?target_session_attrs=read-write",
    "postgresql://u@h1:5432,h2:5433/d?target_session_attrs=primary",
    f"postgresql://u@{'h' * 63}:5432/d",
    "postgresql://u@[::1]:5432/d",
    "postgresql://u@münchen.example/d",
    "postgresql://u@%2Frun%2Fpostgresql/d",
    "postgresql:///d?host=/run/postgresql&port=5433",
    "postgresql:///d?host=h1,h2&port=1,2&target_session_attrs=primary",
]

DSNS_WITH_PASSWORD = [
    "mysql://u:hunter2@h/d",
    "postgresql://u:hunter2@h:port/d",
    "postgresql://u:hunter2@h1:5432,h2:port/d",
    "postgresql://u:hunter2@h:0/d",
    "postgresql://u:hunter2/@h/d",
    "postgresql://u:hunter2?@h/d",
    "postgresql://u:hunter2#@h/d",
    "postgresql://u:[hunter2@h/d",
    "postgresql://u:hunter2\u2100@h/d",
]


def limits_of(setting: Setting) -> list[str]:
    match = re.fullmatch(r"a (whole )?number.* from (\S+) to (\S+)", setting.parser.accepts)
    return [match[2], match[3]] if match else []


def other_text(setting: Setting, limit: int) -> str:
    """The lowest or the highest of its values, or another text that is not its default."""
    if limits := limits_of(setting):
        return limits[limit]
    if isinstance(setting.default, bool):
        return str(not setting.default).lower()
    if words := re.fullmatch(r"(one of|.*list of) (.+)", setting.parser.accepts):
        return words[2].split(", ")[-1]
    return TEXTS.get(setting.variable, f"a-{setting.variable}")


def values_of(config: Config) -> list[object]:
    return [
        getattr(getattr(config, group), name)
        for group, declared in get_type_hints(Config).items()
        for name, _ in settings_of(declared)
    ]


def test_config_has_documented_defaults_when_only_the_database_is_set() -> None:
    config = Config.from_env({"JOBS_DATABASE_URL": DSN})

    assert values_of(config) == [DSN if s.required else s.default for s in all_settings()]


@pytest.mark.parametrize("limit", [0, 1], ids=["lowest", "highest"])
def test_config_fields_are_set_by_their_variables(limit: int) -> None:
    texts = {setting.variable: other_text(setting, limit) for setting in all_settings()}
    # These can't be set together.
    left_out = {"JOBS_DEVICE_CA", "JOBS_DEVICE_TRUST_DOMAIN"} if limit else {"JOBS_DEVICE_CA_DIR"}
    for variable in left_out:
        del texts[variable]

    values = values_of(Config.from_env(texts))

    for setting, value in zip(all_settings(), values, strict=True):
        if setting.variable in left_out:
            continue
        assert replace(setting, default=value).default_text == texts[setting.variable]
        assert setting.meaning


def test_config_accepts_words_in_any_case() -> None:
    config = Config.from_env(
        {"JOBS_DATABASE_URL": DSN, "JOBS_LOG_LEVEL": "debug", "JOBS_REFLECTION": "False"}
    )

    assert (config.log.level, config.server.reflection) == ("DEBUG", False)


@pytest.mark.parametrize(
    ("variable", "limits"), [(s.variable, limits_of(s)) for s in all_settings() if limits_of(s)]
)
def test_config_rejects_numbers_beyond_the_limits(variable: str, limits: list[str]) -> None:
    low, high = map(float, limits)
    beyond = [f"{low - 0.001:.3f}", f"{low - 1:.0f}", f"{high + 1:.0f}"]
    for text in (*beyond, "inf", "nan", "two", "5s"):
        with pytest.raises(ConfigError, match=f"{variable}={text} must be .* from"):
            Config.from_env({"JOBS_DATABASE_URL": DSN, variable: text})


@pytest.mark.parametrize(("variable", "text"), WRONG_VALUES)
def test_config_error_is_one_line_that_names_the_variable(variable: str, text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Config.from_env({"JOBS_DATABASE_URL": DSN, variable: text})

    message = str(raised.value)
    assert re.match(rf"{variable}(={re.escape(text)})? must be ", message)
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "roles"),
    [
        ("None", ()),
        ("viewer, operator", ("viewer", "operator")),
        (
            "viewer,operator,admin,device,bridge",
            ("viewer", "operator", "admin", "device", "bridge"),
        ),
    ],
)
def test_default_roles_are_a_list_or_none(text: str, roles: tuple[str, ...]) -> None:
    config = Config.from_env({"JOBS_DATABASE_URL": DSN, "JOBS_DEFAULT_ROLES": text})

    assert config.auth.default_roles == roles


def test_error_of_default_roles_says_that_none_is_allowed() -> None:
    with pytest.raises(ConfigError) as raised:
        Config.from_env({"JOBS_DATABASE_URL": DSN, "JOBS_DEFAULT_ROLES": "root"})

    assert str(raised.value) == (
        "JOBS_DEFAULT_ROLES=root must be none or a comma-separated list of"
        " viewer, operator, approver, admin, device, bridge"
    )


@pytest.mark.parametrize("dsn", VALID_DSNS)
def test_database_url_is_accepted_when_it_is_valid(dsn: str) -> None:
    assert Config.from_env({"JOBS_DATABASE_URL": dsn}).database.url == dsn


@pytest.mark.parametrize("environ", [{}, {"JOBS_DATABASE_URL": ""}])
def test_config_is_rejected_without_a_database_url(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^JOBS_DATABASE_URL is not set"):
        Config.from_env(environ)


def test_config_uses_the_default_when_a_variable_is_empty() -> None:
    environ = {"JOBS_DATABASE_URL": DSN, "JOBS_POOL_MAX_SIZE": ""}

    assert Config.from_env(environ).pool.max_size == 10


def test_config_ignores_other_variables() -> None:
    environ = {"JOBS_DATABASE_URL": DSN}

    assert Config.from_env(environ | {"PATH": "/bin"}) == Config.from_env(environ)


@pytest.mark.parametrize("dsn", DSNS_WITH_PASSWORD)
def test_config_error_never_contains_the_password(dsn: str) -> None:
    for variable, read in (
        ("JOBS_DATABASE_URL", Config.from_env),
        ("JOBS_OWNER_DATABASE_URL", Config.from_env),
        ("JOBS_OWNER_DATABASE_URL", lambda environ: read_dsn(environ, "JOBS_OWNER_DATABASE_URL")),
    ):
        with pytest.raises(ConfigError) as raised:
            read({"JOBS_DATABASE_URL": DSN, variable: dsn})
        assert "hunter2" not in str(raised.value)
        assert raised.value.__suppress_context__


NOT_LOOPBACK = ["0.0.0.0:50051", "[::]:50051", "10.1.2.3:50051", "jobs.example:50051"]


@pytest.mark.parametrize("listen", NOT_LOOPBACK)
def test_metadata_mode_needs_insecure_metadata_beyond_loopback(listen: str) -> None:
    environ = {"JOBS_DATABASE_URL": DSN, "JOBS_LISTEN": listen}

    with pytest.raises(ConfigError, match="JOBS_INSECURE_METADATA=true"):
        Config.from_env(environ)

    environ["JOBS_INSECURE_METADATA"] = "true"
    assert Config.from_env(environ).server.listen == listen


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:0", "127.9.9.9:1", "localhost:1", "[::1]:65535", "unix:/run/jobs.sock"]
)
def test_metadata_mode_may_listen_on_loopback(listen: str) -> None:
    environ = {"JOBS_DATABASE_URL": DSN, "JOBS_LISTEN": listen}

    assert Config.from_env(environ).server.listen == listen


def test_read_dsn_fails_when_the_owner_database_url_is_not_set() -> None:
    assert read_dsn({"JOBS_OWNER_DATABASE_URL": DSN}, "JOBS_OWNER_DATABASE_URL") == DSN
    with pytest.raises(ConfigError, match=r"^JOBS_OWNER_DATABASE_URL is not set"):
        read_dsn({}, "JOBS_OWNER_DATABASE_URL")


TLS = {"JOBS_TLS_CERT": "c", "JOBS_TLS_KEY": "k"}
DEVICES = TLS | {
    "JOBS_DEVICE_LISTEN": "0.0.0.0:50052",
    "JOBS_DEVICE_CA": "ca",
    "JOBS_DEVICE_TRUST_DOMAIN": "acme.example",
}
MUTUAL_TLS = TLS | {"JOBS_TLS_CLIENT_CA": "ca", "JOBS_TRUSTED_PEERS": "spiffe://a/b"}
JWT = {"JOBS_AUTH": "jwt", "JOBS_JWT_KEYS": "k", "JOBS_JWT_ISSUER": "i", "JOBS_JWT_AUDIENCE": "a"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JOBS_TLS_CERT": "c"}, "JOBS_TLS_CERT and JOBS_TLS_KEY must be set together"),
        ({"JOBS_TLS_KEY": "k"}, "JOBS_TLS_CERT and JOBS_TLS_KEY must be set together"),
        ({"JOBS_TLS_CLIENT_CA": "ca"}, "JOBS_TLS_CLIENT_CA needs JOBS_TLS_CERT and JOBS_TLS_KEY"),
        (TLS | {"JOBS_TRUSTED_PEERS": "a"}, "JOBS_TRUSTED_PEERS needs JOBS_TLS_CLIENT_CA"),
        ({"JOBS_DEVICE_CA": "ca"}, "JOBS_DEVICE_CA is set, but JOBS_DEVICE_LISTEN is not"),
        (
            DEVICES | {"JOBS_DEVICE_LISTEN": ""},
            "JOBS_DEVICE_CA is set, but JOBS_DEVICE_LISTEN is not",
        ),
        (
            DEVICES | {"JOBS_DEVICE_CA": "", "JOBS_DEVICE_TRUST_DOMAIN": ""},
            "JOBS_DEVICE_LISTEN needs JOBS_DEVICE_CA or JOBS_DEVICE_CA_DIR, and not both",
        ),
        (
            DEVICES | {"JOBS_DEVICE_CA_DIR": "tenants"},
            "JOBS_DEVICE_LISTEN needs JOBS_DEVICE_CA or JOBS_DEVICE_CA_DIR, and not both",
        ),
        (
            DEVICES | {"JOBS_DEVICE_TRUST_DOMAIN": ""},
            "JOBS_DEVICE_CA and JOBS_DEVICE_TRUST_DOMAIN must be set together",
        ),
        (
            DEVICES | {"JOBS_DEVICE_CA": "", "JOBS_DEVICE_CA_DIR": "tenants"},
            "JOBS_DEVICE_CA and JOBS_DEVICE_TRUST_DOMAIN must be set together",
        ),
        (
            DEVICES | {"JOBS_DEVICE_TLS_CERT": "c"},
            "JOBS_DEVICE_TLS_CERT and JOBS_DEVICE_TLS_KEY must be set together",
        ),
        (
            DEVICES | {"JOBS_TLS_CERT": "", "JOBS_TLS_KEY": ""},
            "JOBS_DEVICE_LISTEN needs JOBS_DEVICE_TLS_CERT and JOBS_DEVICE_TLS_KEY, or JOBS_TLS",
        ),
        (
            DEVICES | {"JOBS_DEVICE_LISTEN": "127.0.0.1:50051"},
            "JOBS_DEVICE_LISTEN and JOBS_LISTEN are both 127.0.0.1:50051",
        ),
        (
            MUTUAL_TLS | {"JOBS_DEVICE_GATEWAYS": "spiffe://a/b"},
            "JOBS_DEVICE_GATEWAYS is set, but JOBS_DEVICE_LISTEN is not",
        ),
        (
            MUTUAL_TLS | DEVICES | {"JOBS_DEVICE_GATEWAYS": "spiffe://a/b,gateway"},
            "JOBS_DEVICE_GATEWAYS: JOBS_TRUSTED_PEERS does not list gateway",
        ),
        ({"JOBS_AUTH": "jwt"}, "JOBS_JWT_KEYS is not set, and JOBS_AUTH=jwt needs it"),
        (JWT | {"JOBS_JWT_ISSUER": ""}, "JOBS_JWT_ISSUER is not set, and JOBS_AUTH=jwt needs"),
        (JWT | {"JOBS_JWT_AUDIENCE": ""}, "JOBS_JWT_AUDIENCE is not set, and JOBS_AUTH=jwt"),
        # Without JOBS_AUTH=jwt every caller would be trusted.
        (JWT | {"JOBS_AUTH": ""}, "JOBS_JWT_KEYS is set, but JOBS_AUTH is not jwt"),
        ({"JOBS_JWT_ISSUER": "i"}, "JOBS_JWT_ISSUER is set, but JOBS_AUTH is not jwt"),
        (
            {"JOBS_POOL_MIN_SIZE": "5", "JOBS_POOL_MAX_SIZE": "4"},
            "JOBS_POOL_MIN_SIZE (5) exceeds JOBS_POOL_MAX_SIZE (4)",
        ),
        (
            {"JOBS_MAX_REQUEST_BYTES": "262144", "JOBS_MAX_DOCUMENT_BYTES": "65536"},
            "JOBS_MAX_REQUEST_BYTES (262144) is too small for documents of JOBS_MAX_DOCUMENT_BYTES"
            " (65536); set at least 393216",
        ),
        (
            {"JOBS_MAX_REQUEST_BYTES": "1048576", "JOBS_MAX_TENANT_BUFFERED_BYTES": "2097151"},
            "JOBS_MAX_TENANT_BUFFERED_BYTES (2097151) is too small for requests of"
            " JOBS_MAX_REQUEST_BYTES",
        ),
        (
            {"JOBS_MAX_BUFFERED_BYTES": "67108863"},
            "JOBS_MAX_TENANT_BUFFERED_BYTES (67108864) exceeds JOBS_MAX_BUFFERED_BYTES",
        ),
    ],
)
def test_config_is_rejected_when_settings_do_not_fit_each_other(
    variables: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        Config.from_env({"JOBS_DATABASE_URL": DSN} | variables)

    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "text", ["file:///etc/jobs/keys.pem", "File://keys.pem", "HTTP://login.example/keys"]
)
def test_jwt_keys_rejects_file_urls_and_plain_http(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Config.from_env(JWT | {"JOBS_DATABASE_URL": DSN, "JOBS_JWT_KEYS": text})

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
        ("keys:old.pem", "keys:old.pem"),
    ],
)
def test_jwt_keys_are_a_path_or_an_address_with_any_case_of_the_scheme(
    text: str, value: str
) -> None:
    variables = JWT | {"JOBS_DATABASE_URL": DSN, "JOBS_JWT_KEYS": text}

    assert Config.from_env(variables).jwt.keys == value


@pytest.mark.parametrize(
    ("variables", "accepted"),
    [
        (TLS, False),
        (TLS | {"JOBS_TLS_CLIENT_CA": "ca"}, False),
        (MUTUAL_TLS, True),
        ({"JOBS_INSECURE_METADATA": "true"}, True),
        ({"JOBS_TLS_TERMINATED_BY_PROXY": "true"}, False),
        (JWT, False),
        (JWT | {"JOBS_INSECURE_METADATA": "true"}, False),
        (JWT | {"JOBS_TLS_TERMINATED_BY_PROXY": "true"}, True),
        (JWT | TLS, True),
    ],
)
def test_listening_beyond_loopback_needs_authentication_and_encryption(
    variables: dict[str, str], accepted: bool
) -> None:
    environ = {"JOBS_DATABASE_URL": DSN, "JOBS_LISTEN": "10.1.2.3:50051"} | variables

    if accepted:
        assert Config.from_env(environ).server.listen == "10.1.2.3:50051"
    else:
        with pytest.raises(ConfigError, match=r"^JOBS_LISTEN=10\.1\.2\.3:50051 is not loopback"):
            Config.from_env(environ)
