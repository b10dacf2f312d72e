"""Options that name the server and the caller, and connections made from them."""

import argparse
import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from fleet.jobs.v1 import jobs_pb2_grpc
from google.protobuf.message import Message

from jobs_grpc.auth.principal import (
    IDENTIFIER_RULE,
    TENANT_RULE,
    is_identifier,
    is_tenant_id,
)
from jobs_grpc.cli import arguments
from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.client.channel import NO_PROXY, Tls
from jobs_grpc.config import DEFAULT_ADDRESS, is_local

if TYPE_CHECKING:
    from jobs_grpc.cli.arguments import Subparsers


def add_client_command(
    commands: "Subparsers",
    name: str,
    run: Callable[[argparse.Namespace], None],
    *,
    usage: str,
    summary: str,
    json_help: str = "print the response as JSON",
    timeout: float | None = 90.0,
    timeout_help: str = "timeout of each call (default: 90)",
) -> argparse.ArgumentParser:
    """Add a command that calls the server, with the options that all such commands share."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        usage=" ".join(filter(None, ("%(prog)s", usage, "[options]"))),
    )
    parser.add_argument("--json", action="store_true", help=json_help)
    connection = parser.add_argument_group("server and caller")
    connection.add_argument(
        "--server",
        default=os.environ.get("JOBS_SERVER") or DEFAULT_ADDRESS,
        type=arguments.server_address,
        metavar="ADDRESS",
        help=f"HOST:PORT or unix:PATH (default: $JOBS_SERVER or {DEFAULT_ADDRESS})",
    )
    connection.add_argument(
        "--tenant",
        default=os.environ.get("JOBS_TENANT"),
        metavar="ID",
        help="tenant to act for (default: $JOBS_TENANT or the tenant in the token)",
    )
    connection.add_argument(
        "--user",
        default=os.environ.get("JOBS_USER"),
        metavar="ID",
        help="user to act as (default: $JOBS_USER, the user in the token, or the login name)",
    )
    connection.add_argument(
        "--timeout",
        type=arguments.seconds,
        default=timeout,
        metavar="SECONDS",
        help=timeout_help,
    )
    security = parser.add_argument_group("tokens and TLS")
    security.add_argument(
        "--token-file",
        default=os.environ.get("JOBS_TOKEN_FILE"),
        metavar="FILE",
        help="file with the token to send (default: $JOBS_TOKEN_FILE, or the token in $JOBS_TOKEN)",
    )
    security.add_argument(
        "--tls", action="store_true", help="use TLS; --ca, --cert and --key imply it"
    )
    for option, variable, help_text in (
        ("--ca", "JOBS_CA", "CA certificates that the server's certificate must chain to, PEM"),
        ("--cert", "JOBS_CLIENT_CERT", "client certificate, PEM"),
        ("--key", "JOBS_CLIENT_KEY", "private key of the client certificate, PEM"),
    ):
        security.add_argument(
            option,
            default=os.environ.get(variable),
            metavar="FILE",
            help=f"{help_text} (default: ${variable})",
        )
    parser.set_defaults(run=run)
    return parser


@dataclass(frozen=True)
class Connection:
    """A JobService stub and the metadata and timeout for every call."""

    stub: "jobs_pb2_grpc.JobServiceStub"
    call_options: dict[str, Any]

    def call(self, method: str, request: Message) -> Any:
        """Call a unary method of JobService by its name."""
        return getattr(self.stub, method)(request, **self.call_options)


@contextmanager
def connect(args: argparse.Namespace, *options: tuple[str, Any]) -> Iterator[Connection]:
    """Connect to the server as the caller in `args`, over a channel with `options`."""
    metadata = caller_metadata(args)
    credentials = channel_credentials(args)
    with (
        grpc.secure_channel(args.server, credentials, options=options)
        if credentials
        else grpc.insecure_channel(args.server, options=(*options, NO_PROXY))
    ) as channel:
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        yield Connection(stub, {"metadata": metadata, "timeout": args.timeout})


def caller_metadata(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """Return the metadata that identifies the caller."""
    token = _read_token(args)
    if not args.tenant and not token:
        raise CliError("--tenant, JOBS_TENANT or a token is required", ExitCode.USAGE)
    metadata = [("x-tenant-id", args.tenant)] if args.tenant else []
    # The token names the user, and the server rejects a different x-user-id.
    if user := args.user or (None if token else _login_name()):
        metadata.append(("x-user-id", user))
    if args.tenant and not is_tenant_id(args.tenant):
        raise CliError(f"--tenant {TENANT_RULE}", ExitCode.USAGE)
    if user and not is_identifier(user):
        raise CliError(f"--user {IDENTIFIER_RULE}", ExitCode.USAGE)
    if token:
        if channel_credentials(args) is None and not is_local(args.server):
            raise CliError("a token is only sent over TLS: add --tls or --ca", ExitCode.USAGE)
        metadata.append(("authorization", f"Bearer {token}"))
    return tuple(metadata)


def channel_credentials(args: argparse.Namespace) -> grpc.ChannelCredentials | None:
    """Return the TLS credentials, or None if TLS is not requested."""
    tls = channel_tls(args)
    return tls.credentials() if tls else None


def channel_tls(args: argparse.Namespace) -> Tls | None:
    """Return the TLS settings, or None if TLS is not requested."""
    if not (args.tls or args.ca or args.cert or args.key):
        return None
    if bool(args.cert) != bool(args.key):
        raise CliError("--cert and --key must be used together", ExitCode.USAGE)
    ca, certificate, key = map(_read_file, (args.ca, args.cert, args.key))
    return Tls(ca=ca, certificate=certificate, key=key)


def _read_token(args: argparse.Namespace) -> str | None:
    """Read the token. It is not an argument because other users can see arguments."""
    token = _read_file(args.token_file) or os.environ.get("JOBS_TOKEN", "").encode()
    text = token.decode("ascii", "replace").strip()
    if not text.isprintable() or not text.isascii():
        raise CliError("the token must be one line of ASCII", ExitCode.USAGE)
    return text or None


def _read_file(path: str | None) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as e:
        raise CliError(f"can't read {path}: {e.strerror}", ExitCode.USAGE) from None


def _login_name() -> str | None:
    """Return the login name, or None if the account has none that is a valid user id."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None
    return name if is_identifier(name) else None
