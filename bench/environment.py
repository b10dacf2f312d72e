"""What a benchmark starts: PostgreSQL with a database of the service, and servers on it."""

import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from bench.machine import describe_machine
from bench.page import describe
from bench.process import Server, service
from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.dev import embedded_postgres

# PostgreSQL's defaults, except that millions of rows are written without a checkpoint.
SETTINGS = ("shared_buffers=512MB", "max_wal_size=8GB", "checkpoint_timeout=30min")

ROLE = RequestRole("bench_request")


@dataclass(frozen=True)
class Environment:
    """PostgreSQL, and a database with the schema of the service."""

    folder: Path
    cluster: embedded_postgres.Cluster
    owner: asyncpg.Connection
    """A connection as the owner."""

    @property
    def dsn(self) -> str:
        """The DSN of the request role."""
        return self.cluster.dsn("jobs", ROLE.name)

    @property
    def owner_dsn(self) -> str:
        """The DSN of the owner."""
        return self.cluster.dsn("jobs")

    @property
    def log(self) -> Path:
        """The log of all servers."""
        return self.folder / "servers.log"

    def server(self, **options: Any) -> AbstractAsyncContextManager[Server]:
        """Run a server without maintenance. See `service` for the options."""
        return service(self.dsn, self.log, **options)

    def maintaining_server(self, **options: Any) -> AbstractAsyncContextManager[Server]:
        """Run a server with maintenance."""
        return self.server(JOBS_OWNER_DATABASE_URL=self.owner_dsn, **options)

    async def report(self, *parts: str, **facts: str) -> str:
        """Return the machine, with other facts about the run, and the parts of a page."""
        machine = await describe_machine(self.owner) | facts
        return "\n\n".join([describe(machine), *filter(None, parts)])

    async def delete_jobs(self) -> None:
        """Delete all jobs, and the events that wait for a position."""
        await self.owner.execute(
            "TRUNCATE jobs.jobs, jobs.job_progress, jobs.job_executions, jobs.job_stages,"
            " jobs.job_failures, jobs.job_failure_criteria, jobs.job_criterion_counts,"
            " jobs.event_queue"
        )

    async def vacuum(self) -> None:
        """Update statistics and write dirty pages, so that earlier writes do not slow a run."""
        await self.owner.execute("VACUUM ANALYZE")
        await self.owner.execute("CHECKPOINT")

    def postgres_cpu_time(self) -> float:
        """Return the CPU seconds that PostgreSQL has used so far."""
        postmaster, *others = self._postgres_processes()
        seconds = sum(postmaster.cpu_times()[:4])  # with those of children that have ended
        for process in others:
            with suppress(psutil.NoSuchProcess):
                seconds += sum(process.cpu_times()[:2])
        return float(seconds)

    def postgres_memory(self) -> int:
        """Return the private bytes of all processes of PostgreSQL, without shared_buffers."""
        total = 0
        for process in self._postgres_processes():
            with suppress(psutil.NoSuchProcess):  # A session or a worker has ended.
                total += process.memory_full_info().uss
        return total

    def _postgres_processes(self) -> list[psutil.Process]:
        pid = next(self.folder.rglob("postmaster.pid")).read_text().split()[0]
        postmaster = psutil.Process(int(pid))
        return [postmaster, *postmaster.children(recursive=True)]


@asynccontextmanager
async def environment(settings: Sequence[str] = SETTINGS) -> AsyncIterator[Environment]:
    """Run PostgreSQL with these settings in a temporary folder, and create the database."""
    with temporary_folder() as folder, running_postgres(folder, *settings) as cluster:
        admin = await asyncpg.connect(cluster.dsn("postgres"))
        await admin.execute("CREATE DATABASE jobs")
        await admin.close()
        await migrate(cluster.dsn("jobs"), ROLE)
        owner = await asyncpg.connect(cluster.dsn("jobs"))
        yield Environment(folder, cluster, owner)
        await owner.close()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder that PostgreSQL can reach, also as another account."""
    with tempfile.TemporaryDirectory(prefix="jobs-bench-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@contextmanager
def running_postgres(folder: Path, *settings: str) -> Iterator[embedded_postgres.Cluster]:
    """Run PostgreSQL within the block. SIGTERM ends the block like Ctrl-C."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with embedded_postgres.running(folder / "data", *settings) as cluster:
            yield cluster
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(*_: object) -> None:
    # A shell script starts background programs with SIGINT ignored.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)
