"""The operating system account that runs PostgreSQL."""

import os
import pwd
import subprocess
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


def can_read(account: pwd.struct_passwd, path: Path) -> bool:
    """Return whether the account can read `path` and search all folders above it."""
    probe = subprocess.run(  # noqa: S603
        ["/usr/bin/env", "test", "-r", str(path)],
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        cwd="/",
        check=False,
    )
    return probe.returncode == 0
