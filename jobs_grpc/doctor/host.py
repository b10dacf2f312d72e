"""Checks of this host: versions and open files."""

import platform
from importlib.metadata import version

from jobs_grpc.config import Config
from jobs_grpc.doctor.finding import Finding, Status
from jobs_grpc.server.open_files import ENOUGH, hard_limit

# Files other than connections of clients: standard streams, listening sockets, the event loop,
# log files, modules that are being imported.
_OTHER_FILES = 64


def check_version() -> Finding:
    """Report the versions of this installation."""
    python = platform.python_version()
    detail = f"jobs-grpc {version('jobs-grpc')}, Python {python}, grpcio {version('grpcio')}"
    return Finding("version", Status.OK, detail)


def check_open_files(config: Config) -> Finding:
    """Compare the limit of open files with the connections that a process may have.

    `serve` raises the soft limit to the hard limit, so only the hard limit counts. Each open
    stream can be on a connection of its own, as those of devices are.
    """
    limit = hard_limit()
    needed = config.limits.max_streams + config.pool.max_size + _OTHER_FILES
    needed = max(ENOUGH, needed)
    if limit is None or limit >= needed:
        allowed = "unlimited" if limit is None else f"{limit}"
        return Finding("open-files", Status.OK, f"limit {allowed}, at most {needed} are needed")
    return Finding(
        "open-files",
        Status.WARNING,
        f"a process may open {limit} files; {config.limits.max_streams} streams"
        f" (JOBS_MAX_STREAMS) on a connection each need up to {needed}: beyond the limit, new"
        " connections wait",
        f"raise the hard limit to {needed} (ulimit -Hn, LimitNOFILE of systemd), or lower"
        " JOBS_MAX_STREAMS",
    )
