"""Contexts: named servers and callers in the user's configuration file."""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from jobs_grpc.auth.principal import IDENTIFIER_RULE, TENANT_RULE, is_identifier, is_tenant_id
from jobs_grpc.auth.roles import Role
from jobs_grpc.cli.errors import CliError, InvalidInput
from jobs_grpc.cli.files import replacing_file, reporting_write_errors
from jobs_grpc.config import DEFAULT_ADDRESS, parsers

Values: TypeAlias = dict[str, str | bool]

TOKEN_SETTINGS = ("token", "token_env", "token_file")
"""These three are one setting: the token."""


def split_roles(text: str) -> list[str]:
    """Return the names of a list, also empty ones."""
    return [name.strip() for name in text.split(",")]


def _is_address(text: str) -> bool:
    with suppress(ValueError):
        return bool(parsers.server_address(text))
    return False


# What the values of a setting must be, and whether one is. A token, which has dots, is no name of a
# variable: commands print that name.
_RULES: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "server": (f"must be {parsers.address.accepts}", _is_address),
    "tenant": (TENANT_RULE, is_tenant_id),
    "user": (IDENTIFIER_RULE, is_identifier),
    "roles": (
        f"must be one or more of {', '.join(sorted(Role))}, separated by commas",
        lambda text: {*split_roles(text)} <= {*Role},
    ),
    "token_env": (
        "must be the name of a variable, of A-Z a-z 0-9 _",
        re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch,
    ),
}


def broken_rule(name: str, value: str) -> str:
    """Return the rule that the value of a setting breaks; empty if it is valid."""
    rule, is_valid = _RULES.get(name, ("", bool))
    return "" if is_valid(value) else rule


@dataclass(frozen=True)
class Setting:
    """A setting of the connection: an option, and a field of a context."""

    name: str
    metavar: str
    help: str
    variable: str = ""
    """Environment variable that sets it, if any."""
    default: str = ""


_DEFAULT_USER = "the user in the token, or the login name"
_ROLES_HELP = "roles to act with, if the server does not use tokens"
_SERVER_NAME_HELP = "name in the server's certificate, if it is not the host of --server"

SETTINGS = (
    Setting("server", "ADDRESS", "HOST:PORT or unix:PATH", "JOBS_SERVER", DEFAULT_ADDRESS),
    Setting("tenant", "ID", "tenant to act for", "JOBS_TENANT", "the tenant in the token"),
    Setting("user", "ID", "user to act as", "JOBS_USER", _DEFAULT_USER),
    Setting("roles", "ROLE,…", _ROLES_HELP, "JOBS_ROLES", "the default roles of the server"),
    Setting("token_file", "FILE", "file with the token", "JOBS_TOKEN_FILE", "$JOBS_TOKEN"),
    Setting("tls", "", "use TLS; --ca, --cert and --key imply it"),
    Setting("ca", "FILE", "CA certificates of the server, PEM", "JOBS_CA"),
    Setting("cert", "FILE", "client certificate, PEM", "JOBS_CLIENT_CERT"),
    Setting("key", "FILE", "private key of the client certificate, PEM", "JOBS_CLIENT_KEY"),
    Setting("tls_server_name", "NAME", _SERVER_NAME_HELP),
)
"""The settings that have an option.

In addition, a context can set token_env, and the environment JOBS_TOKEN.
"""

FIELDS = (*(setting.name for setting in SETTINGS), "token_env")


@dataclass
class Contexts:
    current: str = ""
    """The name of the context that commands use; empty: none."""
    by_name: dict[str, Values] = field(default_factory=dict)


def config_path() -> Path:
    """Return the path of the configuration file. Raises CliError if the user has no home."""
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():  # The XDG specification says that a relative path is invalid.
        try:
            base = Path.home() / ".config"
        except RuntimeError:
            raise CliError("the user has no home folder; set XDG_CONFIG_HOME") from None
    return base / "jobs-grpc" / "config.toml"


def load_contexts() -> Contexts:
    """Read the configuration file. Without a file, there are no contexts. Raises CliError."""
    try:
        path = config_path()
    except CliError:
        return Contexts()  # A container's user, for example, has no home.
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        return Contexts()
    except OSError as e:
        if not os.access(path.parent, os.X_OK):
            return Contexts()  # A service manager can hide the home folders, for example.
        raise InvalidInput(f"can't read {path}: {e.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InvalidInput(f"{path}: {e}") from None
    unknown = sorted(content.keys() - {"current", "contexts"})
    current, tables = content.get("current", ""), content.get("contexts", {})
    if unknown or not isinstance(current, str) or not isinstance(tables, dict):
        raise InvalidInput(f"{path}: must have `current`, a string, and tables [contexts.NAME]")
    for name, values in tables.items():
        if problem := check_context(name, values):
            raise InvalidInput(f"{path}: context {name}: {problem}")
    return Contexts(current, tables)


def check_context(name: str, values: object) -> str:
    """Return why a context is invalid; empty if it is valid."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        return "the name must be 1–64 characters of A-Z a-z 0-9 . _ -"
    if isinstance(values, dict) and "token" in values:
        return (
            "stores a token: move it to a file (token_file) or a variable (token_env) and delete"
            " the line"
        )
    if not isinstance(values, dict) or values.keys() - set(FIELDS):
        return f"may have only {', '.join(FIELDS)}"
    for key, value in values.items():
        if key == "tls":
            problem = "" if isinstance(value, bool) else "must be true or false"
        elif not isinstance(value, str) or not value or "\0" in value:
            problem = "must be a string that is not empty and has no NUL"
        else:
            problem = broken_rule(key, value)
        if problem:
            return f"{key} {problem}"
    if {"token_file", "token_env"} <= values.keys():
        return "may have only one of token_file and token_env"
    return ""


def save_contexts(contexts: Contexts) -> Path:
    """Replace the configuration file, which only the user can read, and return its path."""
    try:
        import tomli_w
    except ImportError:
        raise InvalidInput(
            f'writing {config_path()} needs `pip install "jobs-grpc[cli]"`'
        ) from None
    path = config_path().resolve()  # A symbolic link stays one.
    content: dict[str, object] = {"current": contexts.current} if contexts.current else {}
    text = tomli_w.dumps(content | {"contexts": contexts.by_name})
    with reporting_write_errors(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing_file(path, 0o600) as file:
            file.write(text)
    return path


def find_context(contexts: Contexts, name: str) -> Values:
    """Return a context by its name. Raises CliError."""
    try:
        return contexts.by_name[name]
    except KeyError:
        known = ", ".join(sorted(contexts.by_name)) or "none"
        raise InvalidInput(f"no context {name!r} in {config_path()} (contexts: {known})") from None
