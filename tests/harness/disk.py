"""File systems in memory, which faults fill by making them as small as their content."""

import os
import subprocess
from pathlib import Path

from jobs_grpc.dev.embedded_postgres.account import unprivileged_account

_SIZE = "16g"  # They take only the memory that their files need.


class Disk:
    """A file system of its own, so that it can be full without any harm to others."""

    def __init__(self, path: Path) -> None:
        """Mount it on the empty folder `path`. Raises MountNotPermitted."""
        self.path = path
        _run_as_root("mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "jobs-chaos", str(path))
        if account := unprivileged_account():
            os.chown(path, account.pw_uid, account.pw_gid)
        else:
            _run_as_root("chown", f"{os.getuid()}:{os.getgid()}", str(path))

    def fill(self) -> None:
        while True:
            status = os.statvfs(self.path)
            try:
                self._resize(str((status.f_blocks - status.f_bfree) * status.f_frsize))
            except MountNotPermitted:
                continue  # A file has grown since.
            return

    def free(self) -> None:
        """Leave enough space again."""
        self._resize(_SIZE)

    def unmount(self) -> None:
        """Delete it with its files."""
        _run_as_root("umount", "--lazy", str(self.path))

    def _resize(self, size: str) -> None:
        _run_as_root("mount", "-o", f"remount,size={size}", str(self.path))


class MountNotPermitted(Exception):
    """This user, or this container, must not mount file systems."""


def _run_as_root(*command: str) -> None:
    if os.geteuid() != 0:
        # Not on a developer's machine, where that would be a surprise.
        if "CI" not in os.environ:
            raise MountNotPermitted("only root can mount file systems")
        command = ("sudo", "--non-interactive", *command)
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode:
        raise MountNotPermitted(result.stderr.strip())
