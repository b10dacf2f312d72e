"""The copy of a platform's jobs to this service, and back: docs/migration.md."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.json_format import MessageToDict

from jobs_grpc.config import Config
from jobs_grpc.db.migrate import migrate
from jobs_grpc.doctor import examine
from tests.support.database import Database, new_database
from tests.support.failures import expect_error
from tests.support.postgres import Postgres, connect, connected
from tests.support.server import Server, running_server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

TABLES = Path(__file__).with_name("platform_tables.sql").read_text(encoding="utf-8")


def read_script(name: str) -> str:
    return Path(__file__).parents[2].joinpath("deploy", "platform", name).read_text("utf-8")


# The status of each job, and its executions in each status, as this service shows them.
EXPECTED: dict[str, tuple[str, dict[str, int]]] = {
    "one-device": ("IN_PROGRESS", {"queued": 1}),
    "all-statuses": (
        "IN_PROGRESS",
        {"queued": 2, "in_progress": 1, "succeeded": 3}
        | {"failed": 2, "timed_out": 1, "rejected": 1},
    ),
    "expired": ("COMPLETED", {"succeeded": 1, "timed_out": 2}),
    "expired-running": ("IN_PROGRESS", {"in_progress": 1, "timed_out": 1}),
    "not-completed": ("COMPLETED", {"succeeded": 1, "failed": 1}),
    "completed": ("COMPLETED", {"succeeded": 1, "timed_out": 1}),
    "canceled": ("CANCELED", {"in_progress": 1, "succeeded": 1, "rejected": 3}),
    "canceled-with-queued": ("CANCELED", {"succeeded": 1, "rejected": 1}),
    "without-executions": ("COMPLETED", {}),
    "two-targets": ("COMPLETED", {"succeeded": 1}),
}


def micros(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@dataclass(frozen=True)
class Platform:
    """A database with the tables of the platform and the schema of this service."""

    database: Database

    async def run(self, name: str) -> None:
        """Run deploy/platform/`name`, as `psql --single-transaction` does."""
        async with self.database.owner.transaction():
            await self.database.owner.execute(read_script(name))

    async def stored(self) -> tuple[list[asyncpg.Record], list[asyncpg.Record]]:
        owner = self.database.owner
        return (
            await owner.fetch("SELECT * FROM public.jobs ORDER BY tenant_id, job_id"),
            await owner.fetch("SELECT * FROM public.job_executions ORDER BY 2, 1, 3"),
        )

    async def shown(self) -> list[asyncpg.Record]:
        """The jobs as this service shows them."""
        return [
            job
            for tenant in ("acme", "globex")
            for job in await self.database.owner.fetch(
                "SELECT to_jsonb(s) - 'stored_status' FROM jobs.job_states s"
                " WHERE s.tenant_id = $1 ORDER BY 1",
                tenant,
            )
        ]


@pytest.fixture(scope="module")
async def template(cluster: tuple[Postgres, str]) -> AsyncIterator[str]:
    """The platform's tables with jobs of two tenants, and an empty schema of this service."""
    postgres, _ = cluster
    async with postgres.database() as name:
        owner = await connect(postgres.dsn(name))
        await owner.execute(TABLES)
        await owner.close()
        await migrate(postgres.dsn(name), postgres.role)
        await postgres.make_template(name)
        yield name


@pytest.fixture
async def platform(cluster: tuple[Postgres, str], template: str) -> AsyncIterator[Platform]:
    """A platform that the test may change."""
    async with new_database(cluster[0], template) as database:
        yield Platform(database)


@pytest.fixture(scope="module")
async def unchanged_platform(
    cluster: tuple[Postgres, str], template: str
) -> AsyncIterator[Platform]:
    async with new_database(cluster[0], template) as database:
        yield Platform(database)


@pytest.fixture(scope="module")
async def copied_platform(cluster: tuple[Postgres, str], template: str) -> AsyncIterator[Platform]:
    """A platform after the copy, which no test changes."""
    async with new_database(cluster[0], template) as database:
        platform = Platform(database)
        await platform.run("copy_jobs.sql")
        yield platform


@pytest.fixture(scope="module")
async def copied(copied_platform: Platform) -> AsyncIterator[Server]:
    async with running_server(copied_platform.database.request_dsn) as server:
        yield server


async def test_copied_jobs_have_the_statuses_and_counts_of_the_platform(copied: Server) -> None:
    for tenant in ("acme", "globex"):
        operator = copied.operator(tenant)
        listed = (await operator.list()).jobs

        assert [job.job_id for job in listed] == list(EXPECTED)
        for summary in listed:
            status, counts = EXPECTED[summary.job_id]
            job = await operator.get(summary.job_id)
            assert pb.Job.Status.Name(job.status) == status, job.job_id
            assert job.execution_counts == pb.ExecutionCounts(**counts), job.job_id
            assert summary.execution_counts == job.execution_counts
            assert job.total_executions == len(job.executions) == sum(counts.values())
            for name, count in counts.items():
                shown = pb.JobExecution.Status.Value(name.upper())
                page = await operator.executions(job.job_id, status=shown)
                assert len(page.executions) == count, (job.job_id, name)

        for status in ("IN_PROGRESS", "COMPLETED", "CANCELED"):
            found = (await operator.list(status=pb.Job.Status.Value(status))).jobs
            assert [job.job_id for job in found] == [
                job_id for job_id, (expected, _) in EXPECTED.items() if expected == status
            ]


async def test_copied_jobs_and_executions_keep_their_fields(
    copied_platform: Platform, copied: Server
) -> None:
    jobs, stored_executions = await copied_platform.stored()
    operator = copied.operator("acme")
    for row in jobs:
        if row["tenant_id"] != "acme":
            continue
        job = await operator.get(row["job_id"])
        assert job.document_type == "update"
        assert MessageToDict(job.document_params) == {"version": "2.1", "retries": 3}
        assert job.created_by == "olivia"
        assert job.created_at.ToMicroseconds() == micros(row["created_at"])
        if row["expires_at"]:
            assert job.expires_at.ToMicroseconds() == micros(row["expires_at"])
        else:
            assert not job.HasField("expires_at")
        executions = {execution.device_id: execution for execution in job.executions}
        for e in stored_executions:
            if (e["tenant_id"], e["job_id"]) != ("acme", row["job_id"]):
                continue
            execution = executions[e["device_id"]]
            assert execution.queued_at.ToMicroseconds() == micros(e["queued_at"])
            assert execution.HasField("started_at") == (e["started_at"] is not None)
            if e["status"] == "SUCCEEDED":
                assert execution.last_updated_at.ToMicroseconds() == micros(e["last_updated_at"])

    failed = await operator.executions("all-statuses", device_id="d7")
    assert dict(failed.executions[0].status_details) == {"error": "disk full"}
    assert (await operator.get("canceled")).cancel_reason == "wrong group"
    assert not (await operator.get("canceled-with-queued")).HasField("cancel_reason")
    assert (await operator.get("two-targets")).target_device_id == "d2"


async def test_copied_executions_have_the_cause_of_their_end(copied: Server) -> None:
    operator = copied.operator("acme")

    job = await operator.get("canceled")

    assert {
        (pb.JobExecution.Status.Name(e.status), pb.JobExecution.EndCause.Name(e.end_cause))
        for e in job.executions
    } == {
        ("IN_PROGRESS", "END_CAUSE_UNSPECIFIED"),
        ("SUCCEEDED", "DEVICE"),
        ("REJECTED", "DEVICE"),  # it had started
        ("REJECTED", "JOB_CANCELED"),
    }


async def test_devices_and_operators_continue_copied_jobs(platform: Platform) -> None:
    await platform.run("copy_jobs.sql")
    async with running_server(platform.database.request_dsn) as server:
        operator = server.operator("acme")

        # d3 resumes what it had started; d1 starts the oldest job that has not expired.
        resumed = await server.device("acme", "d3").start_next()
        started = await server.device("acme", "d1").start_next()
        assert resumed
        assert started
        assert (resumed.job_id, dict(resumed.status_details)) == ("all-statuses", {"percent": 40})
        assert started.job_id == "all-statuses"
        for name in ("d1", "d2", "d3"):
            device = server.device("acme", name)
            await device.update("all-statuses", status=pb.JobExecution.SUCCEEDED)
        done = await operator.get("all-statuses")
        assert done.status == pb.Job.COMPLETED
        assert done.execution_counts.succeeded == 6

        failures = await operator.failures("all-statuses")
        assert {(f.status, f.execution_count) for f in failures.failures} == {
            (pb.JobExecution.FAILED, 2),
            (pb.JobExecution.TIMED_OUT, 1),
            (pb.JobExecution.REJECTED, 1),
        }
        retried = await operator.retry(
            "all-statuses",
            pb.JobExecution.FAILED,
            pb.JobExecution.TIMED_OUT,
            pb.JobExecution.REJECTED,
        )
        assert retried.retried_count == 4
        assert not (await operator.failures("all-statuses")).failures

        await operator.cancel("one-device")
        await expect_error("JOB_NOT_CANCELABLE", operator.cancel("not-completed"))
        # A device of a canceled job may still report.
        running = server.device("acme", "d4")
        await running.update("canceled", status=pb.JobExecution.FAILED)
        assert (await operator.get("canceled")).execution_counts.failed == 1
        # The other tenant has its own copies.
        assert (await server.operator("globex").get("one-device")).status == pb.Job.IN_PROGRESS


async def test_create_request_that_is_repeated_after_the_copy_finds_its_job(copied: Server) -> None:
    created = await copied.operator("acme").create(
        job_id="one-device",
        document_type="update",
        document_params={"version": "2.1", "retries": 3},
        target_device_id="d1",
        expires_in_hours=24,
    )

    assert (created.job_id, created.execution_count) == ("one-device", 1)


async def test_doctor_finds_nothing_when_the_sweeper_has_processed_the_copied_jobs(
    platform: Platform,
) -> None:
    owner = platform.database.owner
    await platform.run("copy_jobs.sql")
    before = await platform.shown()
    urls = {
        "JOBS_DATABASE_URL": platform.database.request_dsn,
        "JOBS_OWNER_DATABASE_URL": platform.database.owner_dsn,
    }

    async def nothing_is_due() -> bool:
        return not await owner.fetch("SELECT FROM jobs.jobs_to_finalize(1, '{}', '{}')")

    assert not await nothing_is_due()
    async with running_server(
        platform.database.request_dsn, JOBS_OWNER_DATABASE_URL=urls["JOBS_OWNER_DATABASE_URL"]
    ):
        await wait_until(nothing_is_due)
    findings = await examine(Config.from_env(urls | {"JOBS_LISTEN": "127.0.0.1:0"}))

    found = {finding.check: finding.status for finding in findings}
    assert (found["schema"], found["isolation"], found["maintenance"]) == ("OK", "OK", "OK")
    assert "ERROR" not in found.values()
    # Readers see no difference.
    assert await platform.shown() == before


async def test_writes_to_the_platform_fail_after_the_copy(platform: Platform) -> None:
    """Also those of a transaction that waited for the copy: no write is lost."""
    owner = platform.database.owner
    async with connected(platform.database.owner_dsn) as platform_service:
        async with owner.transaction():
            await owner.execute(read_script("copy_jobs.sql"))
            write = asyncio.create_task(
                platform_service.execute(
                    "INSERT INTO public.job_executions (tenant_id, job_id, device_id)"
                    " VALUES ('acme', 'expired', 'd9')"
                )
            )
            async with connected(platform.database.owner_dsn) as observer:
                watched = Database("", "", observer)
                await watched.wait_for_blocked_sessions(1)
        with pytest.raises(asyncpg.RaiseError, match="job_executions is read-only"):
            await write
        for write_jobs in ("UPDATE public.jobs SET status = 'CANCELED'", "TRUNCATE public.jobs"):
            with pytest.raises(asyncpg.RaiseError, match="jobs is read-only"):
                await platform_service.execute(write_jobs)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "UPDATE public.jobs SET job_id = 'a b' WHERE job_id = 'without-executions'",
            "jobs.job_id",
        ),
        ("UPDATE public.jobs SET document_params = '[]'", "not an object"),
        (
            "UPDATE public.jobs SET document_params ="
            " (repeat('{\"a\":', 21) || '1' || repeat('}', 21))::jsonb",
            "at most 20 levels",
        ),
        (
            "UPDATE public.job_executions SET status_details ="
            " jsonb_build_object('text', repeat('x', 40000))",
            "status_details has more than 32768 bytes",
        ),
        ("UPDATE public.jobs SET target_all = false", "no valid target"),
        ("UPDATE public.jobs SET status = 'PAUSED'", "jobs.status is unknown"),
        ("UPDATE public.job_executions SET status = 'SENT'", "job_executions.status is unknown"),
        (
            "UPDATE public.jobs SET status = 'COMPLETED' WHERE job_id = 'all-statuses'",
            "COMPLETED, but devices have not finished",
        ),
        ("DELETE FROM public.jobs WHERE job_id = 'expired'", "has no job"),
        ("UPDATE public.job_executions SET device_id = E'a\\n' || device_id", "device_id is not"),
        (
            "INSERT INTO public.jobs (tenant_id, job_id, document_type, target_all)"
            " VALUES ('a,b', 'j', 'reboot', true)",
            "jobs.tenant_id is not",
        ),
    ],
)
async def test_copy_fails_and_names_rows_that_do_not_fit(
    unchanged_platform: Platform, change: str, problem: str
) -> None:
    owner = unchanged_platform.database.owner
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute(change)

        with pytest.raises(asyncpg.RaiseError, match=problem):
            await unchanged_platform.run("copy_jobs.sql")

        assert await owner.fetchval("SELECT count(*) FROM jobs.jobs") == 0
    finally:
        await transaction.rollback()


async def test_copy_fails_when_the_login_sees_one_tenant_only(
    cluster: tuple[Postgres, str], platform: Platform
) -> None:
    owner, role = platform.database.owner, platform.database.role.name
    await owner.execute(
        f"GRANT SELECT, UPDATE ON public.jobs, public.job_executions TO {role};"
        f"GRANT TEMPORARY ON DATABASE {platform.database.name} TO {role}"
    )
    async with connected(platform.database.request_dsn) as request:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            async with request.transaction():
                await request.execute(read_script("copy_jobs.sql"))


async def test_restore_writes_back_what_happened_since_the_copy(platform: Platform) -> None:
    jobs_before, executions_before = await platform.stored()
    await platform.run("copy_jobs.sql")
    async with running_server(platform.database.request_dsn) as server:
        operator, device = server.operator("acme"), server.device("acme", "d1")
        await operator.cancel("all-statuses", reason="rolled back")
        await device.update("one-device", status=pb.JobExecution.SUCCEEDED)
        await operator.create(job_id="new", target_group_id="north", expires_in_hours=1)
        await operator.pause("new")
        await operator.create(job_id="selected", target_selector="group=north,device_id!=d1")

    await platform.run("restore_jobs.sql")

    jobs, executions = await platform.stored()
    assert len(jobs) == len(jobs_before) + 2
    assert len(executions) == len(executions_before) + 11
    status = {(row["tenant_id"], row["job_id"]): row["status"] for row in jobs}
    expected = {(t, job_id): s for t in ("acme", "globex") for job_id, (s, _) in EXPECTED.items()}
    assert status == expected | {
        ("acme", "all-statuses"): "CANCELED",
        ("acme", "one-device"): "COMPLETED",
        ("acme", "new"): "IN_PROGRESS",
        ("acme", "selected"): "IN_PROGRESS",
    }
    (selected,) = [row for row in jobs if row["job_id"] == "selected"]
    assert (selected["target_device_id"], selected["target_group_id"]) == (None, None)
    assert selected["target_all"] is False
    details = {
        (row["job_id"], row["device_id"]): (row["status"], row["status_details"])
        for row in executions
        if row["tenant_id"] == "acme"
    }
    assert details["all-statuses", "d1"] == ("REJECTED", '{"reason": "rolled back"}')
    assert details["one-device", "d1"] == ("SUCCEEDED", None)
    assert details["new", "d1"] == ("QUEUED", None)
    # The platform writes again.
    await platform.database.owner.execute("UPDATE public.jobs SET status = 'CANCELED'")
