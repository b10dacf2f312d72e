"""The folders that PostgreSQL uses: data, lock and socket."""

import errno
import fcntl
import io
import os
import pwd
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs_grpc.dev.embedded_postgres.account import can_read
from jobs_grpc.dev.embedded_postgres.binaries import NOT_INSTALLED
from jobs_grpc.dev.embedded_postgres.errors import EmbeddedPostgresError

_ROOT_DATA_DIR = Path("/var/lib/jobs-grpc")

# A Unix socket path can have about 104 bytes; the name of PostgreSQL's socket file takes 16.
# Characters outside this pattern would have to be quoted in the options of pg_ctl.
_SOCKET_DIR_PATTERN = re.compile(r"[A-Za-z0-9_./-]{1,88}")


def default_data_dir() -> Path:
    """Return the default data folder: in the user's home, or /var/lib/jobs-grpc for root.

    Raises EmbeddedPostgresError if the extra `embedded` is not installed.
    """
    if os.geteuid() == 0:
        return _ROOT_DATA_DIR
    try:
        import platformdirs
    except ModuleNotFoundError:
        raise EmbeddedPostgresError(NOT_INSTALLED) from None
    return platformdirs.user_data_path("jobs-grpc")


def make_data_dir(folder: Path, account: pwd.struct_passwd | None) -> Path:
    """Return a data folder that PostgreSQL's account can use; creates it if it is missing.

    As root, if `folder` exists and belongs to root, the data folder is `folder`/jobs-grpc.
    Existing folders are not changed. Raises EmbeddedPostgresError.
    """
    try:
        if account:
            _check_owners(folder, account)
        if account and folder.exists() and folder.stat().st_uid != account.pw_uid:
            folder = folder / "jobs-grpc"
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
            if account:
                _change_owner(folder, account)
        elif not folder.is_dir():
            raise EmbeddedPostgresError(f"can't use the data folder {folder}: Not a directory")
    except OSError as e:
        raise EmbeddedPostgresError(f"can't use the data folder {folder}: {e.strerror}") from None
    if account and folder.stat().st_uid != account.pw_uid:
        raise EmbeddedPostgresError(
            f"{folder} does not belong to {account.pw_name!r}, the account that runs PostgreSQL; "
            "set JOBS_DATA_DIR to a folder that does not exist yet"
        )
    if account and not can_read(account, folder):
        raise EmbeddedPostgresError(
            f"{account.pw_name!r}, the account that runs PostgreSQL, can't reach {folder}; "
            f"set JOBS_DATA_DIR to a folder outside of private folders, such as {_ROOT_DATA_DIR}"
        )
    return folder


def _check_owners(folder: Path, account: pwd.struct_passwd) -> None:
    """Raise EmbeddedPostgresError if a third account could replace a folder or link of the path."""
    for path in (*folder.parents, folder, *folder.resolve().parents):
        if not os.path.lexists(path):
            continue
        status = path.lstat()
        if status.st_uid not in (0, account.pw_uid) or (
            stat.S_ISDIR(status.st_mode) and status.st_mode & 0o1002 == 0o002
        ):
            raise EmbeddedPostgresError(
                f"can't use the data folder {folder} as root: {path} belongs to another account, or"
                " all accounts can change it; set JOBS_DATA_DIR to a folder such as"
                f" {_ROOT_DATA_DIR}"
            )


def _change_owner(folder: Path, account: pwd.struct_passwd) -> None:
    """Give a new folder to the account, unless the owner of its parent has put a link there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(descriptor, account.pw_uid, account.pw_gid)
    finally:
        os.close(descriptor)


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the lock of a data folder. Raises EmbeddedPostgresError if another process has it."""
    with _open_lock(data_dir / "lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedPostgresError(
                f"another process uses {data_dir}: stop it, or set JOBS_DATA_DIR to another folder"
            ) from None
        yield


def _open_lock(path: Path) -> io.FileIO:
    """Open a lock file without following symbolic links or truncating what is there."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, mode=0o600)
    except OSError as e:
        reason = "it is a symbolic link" if e.errno == errno.ELOOP else e.strerror
        raise EmbeddedPostgresError(
            f"can't open the lock file {path}: {reason}; remove it, or set JOBS_DATA_DIR to"
            " another folder"
        ) from None
    return io.FileIO(descriptor, "r+")


@contextmanager
def socket_dir(data_dir: Path) -> Iterator[Path]:
    """Yield a folder for the socket: `data_dir`, or a temporary one if that path is unsuitable."""
    if _SOCKET_DIR_PATTERN.fullmatch(str(data_dir)):
        yield data_dir
        return
    with tempfile.TemporaryDirectory(prefix="jobs-grpc-", dir="/tmp") as folder:
        yield Path(folder)
