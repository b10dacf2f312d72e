"""The operating system account that runs PostgreSQL."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs_grpc.dev.embedded_postgres.errors import EmbeddedPostgresError


def unprivileged_account() -> pwd.struct_passwd | None:
    """Return the account to run PostgreSQL as, or None for the current one.

    Only root needs another account. Raises EmbeddedPostgresError if there is none.
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedPostgresError(
        "PostgreSQL does not run as root and there is no account 'postgres' or 'nobody'; "
        "run this command as an ordinary user"
    )


@contextmanager
def acting_as(account: pwd.struct_passwd | None) -> Iterator[None]:
    """Use files as the account in the block, in all threads of the process; None: as before.

    The account can replace what is in its folders by links. The kernel must check what they lead
    to with the permissions of the account, not with those of root. Blocks must not be nested.
    """
    if account is None:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    try:
        os.setgroups([])
        os.setegid(account.pw_gid)
        os.seteuid(account.pw_uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def can_read(account: pwd.struct_passwd, path: Path) -> bool:
    """Return whether the account can read `path` and search all folders above it."""
    with acting_as(account):
        return os.access(path, os.R_OK, effective_ids=True)
