"""What the client commands share: who calls which server, and how."""

import argparse
import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from fleet.jobs.v1 import jobs_pb2_grpc
from google.protobuf.message import Message

from jobs_grpc.auth.principal import IDENTIFIER_RULE, is_identifier
from jobs_grpc.cli import arguments, errors
from jobs_grpc.cli.errors import Failed
from jobs_grpc.client.channel import NO_PROXY
from jobs_grpc.config import DEFAULT_ADDRESS, is_local

if TYPE_CHECKING:
    from jobs_grpc.cli.output import Commands


def add_client_command(
    commands: "Commands", name: str, run: Any, text: str
) -> argparse.ArgumentParser:
    """A command that calls JobService, with the options that all of them take."""
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    environ = os.environ.get
    parser.add_argument(
        "--tenant",
        default=environ("JOBS_TENANT"),
        help="for whom to act [JOBS_TENANT, or the token's]",
    )
    parser.add_argument(
        "--user",
        default=environ("JOBS_USER"),
        help="who acts [JOBS_USER, or the token's, or the login name]",
    )
    parser.add_argument(
        "--server",
        default=environ("JOBS_SERVER") or DEFAULT_ADDRESS,
        type=arguments.server,
        metavar="HOST:PORT",
        help=f"or unix:PATH [JOBS_SERVER, or {DEFAULT_ADDRESS}]",
    )
    parser.add_argument(
        "--timeout",
        type=arguments.timeout,
        default=60.0,
        metavar="SECONDS",
        help="a call at most [60]",
    )
    secure = parser.add_argument_group("where callers are known by tokens or certificates")
    secure.add_argument(
        "--token-file",
        default=environ("JOBS_TOKEN_FILE"),
        metavar="FILE",
        help="the token to call with [JOBS_TOKEN_FILE, or the token itself in JOBS_TOKEN]",
    )
    secure.add_argument("--tls", action="store_true", help="speak TLS [if any of these is given]")
    for option, what in (
        ("ca", "the authorities that the server's certificate is of, PEM"),
        ("cert", "the certificate to show, PEM"),
        ("key", "its private key, PEM"),
    ):
        variable = f"JOBS_{'CA' if option == 'ca' else f'CLIENT_{option.upper()}'}"
        secure.add_argument(
            f"--{option}",
            default=environ(variable),
            metavar="FILE",
            help=f"{what} [{variable}]",
        )
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    parser.set_defaults(run=run)
    return parser


@dataclass(frozen=True)
class Client:
    """JobService with the caller's metadata and timeout in every call."""

    stub: "jobs_pb2_grpc.JobServiceStub"
    with_caller: dict[str, Any]

    def call(self, method: str, request: Message) -> Any:
        """Call an RPC by its name."""
        return getattr(self.stub, method)(request, **self.with_caller)


def caller_metadata(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """What calls say of the caller that the command line names."""
    token = _token(args)
    if not args.tenant and not token:
        raise Failed("--tenant is required, or JOBS_TENANT, or a token", errors.USAGE)
    metadata = [("x-tenant-id", args.tenant)] if args.tenant else []
    # The token says who acts, and the server refuses another name beside it.
    if user := args.user or (None if token else _login_name()):
        metadata.append(("x-user-id", user))
    for key, value in metadata:
        if not is_identifier(value):
            raise Failed(f"{key} {IDENTIFIER_RULE}", errors.USAGE)
    if token:
        if channel_credentials(args) is None and not is_local(args.server):
            raise Failed("a token is sent over TLS only: give --tls or --ca", errors.USAGE)
        metadata.append(("authorization", f"Bearer {token}"))
    return tuple(metadata)


def channel_credentials(args: argparse.Namespace) -> grpc.ChannelCredentials | None:
    """What the command line says of TLS; None without."""
    if not (args.tls or args.ca or args.cert or args.key):
        return None
    if bool(args.cert) != bool(args.key):
        raise Failed("--cert and --key must be given together", errors.USAGE)
    return grpc.ssl_channel_credentials(*map(_read, (args.ca, args.key, args.cert)))


def _token(args: argparse.Namespace) -> str | None:
    """The token to call with. It is not an argument: others see those."""
    token = _read(args.token_file) or os.environ.get("JOBS_TOKEN", "").encode()
    text = token.decode("ascii", "replace").strip()
    if not text.isprintable() or not text.isascii():
        raise Failed("the token must be one line of ASCII", errors.USAGE)
    return text or None


def _read(path: str | None) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as e:
        raise Failed(f"can't read {path}: {e.strerror}", errors.USAGE) from None


@contextmanager
def connected(args: argparse.Namespace, *options: tuple[str, Any]) -> Iterator[Client]:
    """The server and the caller that the command line names, over a channel with `options`."""
    metadata = caller_metadata(args)
    credentials = channel_credentials(args)
    with (
        grpc.secure_channel(args.server, credentials, options=options)
        if credentials
        else grpc.insecure_channel(args.server, options=(*options, NO_PROXY))
    ) as channel:
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        yield Client(stub, {"metadata": metadata, "timeout": args.timeout})


def _login_name() -> str | None:
    """The name to act under if none was given; an account may have none, or an unfit one."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None
    return name if is_identifier(name) else None
