"""What the doctor finds about the stored counts of jobs."""

from collections.abc import AsyncIterator

import pytest

from jobs_grpc.doctor import examine
from tests.doctor.conftest import Doctor
from tests.support.callers import Operator
from tests.support.server import running_server

pytestmark = pytest.mark.slow


@pytest.fixture
async def jobs(fresh: Doctor) -> AsyncIterator[Operator]:
    """The jobs "j0" to "j5" of the tenant acme, each with three devices."""
    await fresh.database.add_devices("acme", 3)
    async with running_server(fresh.database.request_dsn) as server:
        operator = server.operator("acme")
        for number in range(6):
            await operator.create(job_id=f"j{number}", target_all=True)
        yield operator


@pytest.mark.usefixtures("jobs")
async def test_doctor_lists_up_to_five_jobs_when_counts_are_wrong(fresh: Doctor) -> None:
    await fresh.expect("counts", "OK", "the counts of 6 jobs with 18 executions are correct")

    await fresh.owner.execute(
        "UPDATE jobs.job_progress SET queued = 2, in_progress = 1, failed = 3, timed_out = 4"
        " WHERE job_id = 'j3'"
    )
    detail = (
        "job j3 of tenant acme: job_progress.failed is 3, counted 0; job_progress.in_progress is 1,"
        " counted 0; job_progress.queued is 2, counted 3; …"
    )
    remedy = "*`jobs-grpc recount j3 --tenant acme --repair`*"
    await fresh.expect("counts", "WARNING", detail, remedy)

    await fresh.owner.execute("UPDATE jobs.job_progress SET queued = 4")
    assert len(await fresh.findings("counts")) == 5


async def test_doctor_recounts_the_unfinished_and_newest_jobs_within_the_limit(
    jobs: Operator, fresh: Doctor
) -> None:
    for job_id in ("j4", "j5"):
        await jobs.cancel(job_id, force=True)
    await fresh.owner.execute("UPDATE jobs.jobs SET finalized = true WHERE job_id = 'j5'")
    await fresh.owner.execute("UPDATE jobs.job_progress SET queued = 4 WHERE job_id = 'j0'")

    # A small job counts as one of 100 executions.
    for max_executions, detail in (
        (400, "the counts of 4 jobs with 12 executions are correct; 2 jobs were not examined"),
        (500, "job j0 of tenant acme: job_progress.queued is 4, counted 3"),
    ):
        findings = await examine(fresh.config(), max_executions)
        [found] = [found for found in findings if found.check == "counts"]
        assert found.detail.startswith(detail)
