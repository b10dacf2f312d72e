"""The PostgreSQL server of a benchmark, and the folder for its data."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs_grpc.dev import embedded_postgres


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder that PostgreSQL can reach, also as another account."""
    with tempfile.TemporaryDirectory(prefix="jobs-bench-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@contextmanager
def running_postgres(data_dir: Path, *settings: str) -> Iterator[embedded_postgres.Cluster]:
    """Run PostgreSQL within the block. SIGTERM ends the block like Ctrl-C."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with embedded_postgres.running(data_dir, *settings) as cluster:
            yield cluster
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(*_: object) -> None:
    # A shell script starts background programs with SIGINT ignored.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)
