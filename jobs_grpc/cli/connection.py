"""The server and the caller that a command names, and the clients made from them."""

import argparse
import getpass
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jobs_grpc.auth.principal import is_identifier
from jobs_grpc.cli.contexts import (
    SETTINGS,
    TOKEN_SETTINGS,
    Values,
    broken_rule,
    find_context,
    load_contexts,
    split_roles,
)
from jobs_grpc.cli.errors import CliError, InvalidInput, call_error
from jobs_grpc.cli.output import print_note
from jobs_grpc.client import (
    Connection,
    DeviceClient,
    EventsClient,
    FleetClient,
    JobsClient,
    JobsError,
    RetryPolicy,
    Tls,
)
from jobs_grpc.config import DEFAULT_ADDRESS, is_local

Client = TypeVar("Client", JobsClient, FleetClient, EventsClient, DeviceClient)

# A person waits for the command: it reports after a second or two that the server is unavailable.
_MAX_ATTEMPTS = 3
_MAX_SILENT_WAIT_SECONDS = 2.0

VARIABLES: Mapping[str, str] = {
    **{setting.name: setting.variable for setting in SETTINGS},
    "token": "JOBS_TOKEN",
}
"""The variable of each setting; empty: none."""


@dataclass(frozen=True)
class Target:
    """The server and the caller of a command, from its options, the environment and the context."""

    settings: Values
    sources: dict[str, str]
    """Where each setting comes from."""

    @property
    def server(self) -> str:
        return str(self.settings["server"])

    @property
    def tenant(self) -> str | None:
        return self._text("tenant")

    @property
    def user(self) -> str | None:
        # The token names the user, and the server rejects a different x-user-id.
        return self._text("user") or (None if self.read_token() else _login_name())

    @property
    def roles(self) -> list[str]:
        # An empty name is kept, and refused: no role at all would give the server's default roles.
        text = self.settings.get("roles")
        return [] if text is None else split_roles(str(text))

    def read_token(self) -> str:
        """Read the token; "" if there is none. It is no argument: other users see arguments."""
        if path := self._text("token_file"):
            token = read_token_file(path, self.sources["token_file"])
        elif variable := self._text("token_env"):
            token = os.environ.get(variable, "").encode()
            if not token:
                raise InvalidInput(
                    f"the context reads the token from {variable}, which is not set; export it,"
                    " or use --token-file"
                )
        else:
            token = (self._text("token") or "").encode()
        text = token.decode("ascii", "replace").strip()
        if not text.isprintable() or not text.isascii():
            raise InvalidInput("the token must be one line of ASCII")
        return text

    def tls(self) -> Tls | None:
        files = [self._text(name) for name in ("ca", "cert", "key")]
        if not self.settings.get("tls", any(files)):
            return None
        ca, certificate, key = map(_read_file, files)
        if (certificate is None) != (key is None):
            raise InvalidInput("--cert and --key must be used together")
        server_name = self._text("tls_server_name")
        return Tls(ca=ca, certificate=certificate, key=key, server_name=server_name)

    def check_caller(self) -> None:
        """Raise CliError if the caller is missing or invalid."""
        token = self.read_token()
        if not self.tenant and not token and not self._text("cert"):
            raise InvalidInput(
                "--tenant, JOBS_TENANT, a context with a tenant, a token, or the certificate of a"
                " device is required"
            )
        values = {"tenant": self.tenant, "user": self.user, "roles": self.settings.get("roles")}
        for name, value in values.items():
            if value is not None and (rule := broken_rule(name, str(value))):
                raise InvalidInput(f"--{name} {rule}")
        if token and self.tls() is None and not is_local(self.server):
            raise InvalidInput("a token is only sent over TLS: add --tls or --ca")

    def call_error(self, error: JobsError) -> CliError:
        """Return the error of a call of this caller that failed."""
        return call_error(error, self.server, has_token=bool(self.read_token()))

    def connection(self) -> Connection:
        """Return a connection to the server. It opens with `async with`."""
        return Connection(self.server, tls=self.tls())

    def _text(self, name: str) -> str | None:
        value = self.settings.get(name)
        return str(value) if value else None


def resolve_target(args: argparse.Namespace) -> Target:
    """Merge options, environment and context, in this order of precedence. Raises CliError."""
    contexts = load_contexts()
    name = getattr(args, "context", None) or os.environ.get("JOBS_CONTEXT") or contexts.current
    environment: Values = {
        key: value for key, variable in VARIABLES.items() if (value := os.environ.get(variable))
    }
    if "token_file" in environment:
        environment.pop("token", None)
    layers: list[tuple[str, Values]] = [
        ("default", {"server": DEFAULT_ADDRESS}),
        (f"context {name}", find_context(contexts, name) if name else {}),
        ("environment", environment),
        ("option", target_options(args)),
    ]
    settings: Values = {}
    sources: dict[str, str] = {}
    for source, values in layers:
        # The token of a context is not for other servers.
        is_other_server = values.get("server", settings.get("server")) != settings.get("server")
        for key in TOKEN_SETTINGS:
            of_context = sources.get(key, "").startswith("context ")
            if values.keys() & TOKEN_SETTINGS or (is_other_server and of_context):
                settings.pop(key, None)
        settings.update(values)
        sources.update(dict.fromkeys(values, source))
    if rule := broken_rule("server", str(settings["server"])):
        raise InvalidInput(f"JOBS_SERVER {rule}")
    return Target(settings, sources)


def target_options(args: argparse.Namespace) -> Values:
    """Return the options of `command.add_target_options` that are given."""
    given = {setting.name: getattr(args, setting.name, None) for setting in SETTINGS}
    return {name: value for name, value in given.items() if value is not None}


@asynccontextmanager
async def connect(
    args: argparse.Namespace,
    retry: RetryPolicy | None = None,
    client: type[Client] = JobsClient,  # type: ignore[assignment]
) -> AsyncIterator[Client]:
    """Yield a client for the server and the caller of a command. A failed call raises CliError.

    A DeviceClient calls as the device of the command.
    """
    target = resolve_target(args)
    target.check_caller()
    caller: dict[str, Any] = {"user": target.user, "roles": target.roles}
    if client is DeviceClient:
        caller = {"device_id": args.device_id}
    try:
        async with (
            target.connection() as connection,
            client(
                connection,
                tenant=target.tenant,
                **caller,
                # Read the file before each try, because its token may have been renewed.
                token=target.read_token if target.read_token() else None,
                timeout=getattr(args, "timeout", None) or 90.0,
                retry=retry or _retry_policy(args),
            ) as opened,
        ):
            yield opened
    except JobsError as e:
        raise target.call_error(e) from None


def _retry_policy(args: argparse.Namespace) -> RetryPolicy:
    """Return the policy of a command that people wait for. It says why it waits for long."""

    def on_retry(error: JobsError) -> None:
        if (error.retry_after or 0) > _MAX_SILENT_WAIT_SECONDS:
            print_note(f"waiting {error.retry_after:.0f} s: {' '.join(error.message.split())}")

    is_for_people = args.output not in ("json", "jsonl")
    return RetryPolicy(_MAX_ATTEMPTS, on_retry=on_retry if is_for_people else None)


def read_token_file(path: str, source: str) -> bytes:
    """Read the file of a token. The CliError does not name it: the name may be the token itself."""
    try:
        return Path(path).read_bytes()
    except OSError as e:
        option = {"option": "--token-file", "environment": "JOBS_TOKEN_FILE"}.get(source, source)
        raise InvalidInput(
            f"can't read the token file of {option}: {e.strerror}"
            " (it takes the name of a file, not a token)"
        ) from None


def _read_file(path: str | None) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as e:
        raise InvalidInput(f"can't read {path}: {e.strerror}") from None


def _login_name() -> str | None:
    """Return the login name, or None if the account has none that is a valid user ID."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None
    return name if is_identifier(name) else None
