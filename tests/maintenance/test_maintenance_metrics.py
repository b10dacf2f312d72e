"""Metrics of the sweeper: how long work is due, and errors, of each task."""

import pytest

from jobs_grpc.maintenance.event_tasks import SequenceEvents
from jobs_grpc.maintenance.joins import DeviceChanges
from jobs_grpc.maintenance.sweeper import Sweeper
from jobs_grpc.maintenance.task import MaintenanceTask
from tests.support.database import Database
from tests.support.metrics import METRICS_ON, scrape_until
from tests.support.postgres import connected
from tests.support.world import World

MINUTE, DAY = 60, 86400


def task_of(sweeper: Sweeper, name: str) -> MaintenanceTask | SequenceEvents | DeviceChanges:
    (task,) = (task for task in sweeper.tasks if task.name == name)
    return task


async def make_due(world: World, task: str) -> None:
    """Create the job "j", and make it due for the task for a minute."""
    await world.add_devices(["pump"])
    await world.create(in_progress_timeout_minutes=1)
    ago = "now() - interval '1 minute'"
    match task:
        case "timed_out_executions":
            await world.device("pump").start("j")
            await world.make_overdue()
            return
        case "stages_due":
            change = f"stage_due_at = {ago}"
        case "jobs_to_finalize":
            await world.operator.cancel("j")
            change = f"canceled_at = {ago}"
        case "jobs_past_retention":
            await world.device("pump").update("j", "SUCCEEDED")
            month = f"{ago} - interval '30 days'"
            change = f"updated_at = {month}, created_at = {month}"
        case "jobs_to_purge":
            await world.operator.cancel("j")
            await world.operator.delete("j")
            change = f"deleted_at = {ago}"
    await world.execute(f"UPDATE jobs.jobs SET {change} WHERE tenant_id = $1")


JOB_TASKS = [
    *("timed_out_executions", "stages_due"),
    *("jobs_to_finalize", "jobs_past_retention", "jobs_to_purge"),
]


@pytest.mark.parametrize("name", JOB_TASKS)
async def test_overdue_time_is_known_until_the_work_is_done(world: World, name: str) -> None:
    async with Sweeper(world.database.owner_dsn, retention_days=30, lock_wait=0.01) as sweeper:
        task = task_of(sweeper, name)
        await sweeper.run_once()
        assert task.overdue_seconds() == 0
        await make_due(world, name)
        async with world.lock_held():
            await sweeper.run_once()
            assert MINUTE <= task.overdue_seconds() < DAY
        await sweeper.run_once()

        assert task.overdue_seconds() == 0
        assert (task.completed_runs, task.errors) == (3, 0)


@pytest.mark.single_node("needs a trigger")
async def test_overdue_time_includes_a_job_that_fails(world: World, sweeper: Sweeper) -> None:
    await make_due(world, "timed_out_executions")
    owner = world.database.owner
    await owner.execute(
        "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'no'; END $$;"
        "CREATE TRIGGER fail BEFORE UPDATE ON jobs.job_progress"
        " FOR EACH ROW EXECUTE FUNCTION public.fail()"
    )
    task = task_of(sweeper, "timed_out_executions")
    try:
        for run in (1, 2):
            await sweeper.run_once()
            assert task.errors >= run
            assert MINUTE <= task.overdue_seconds() < DAY
    finally:
        await owner.execute("DROP TRIGGER fail ON jobs.job_progress; DROP FUNCTION public.fail()")


async def test_failed_run_is_counted(database: Database) -> None:
    async with Sweeper(database.request_dsn) as sweeper:
        task = task_of(sweeper, "timed_out_executions")
        with pytest.raises(Exception, match="owner"):
            await sweeper.run_timeouts()

        assert (task.completed_runs, task.errors) == (0, 1)


async def test_server_that_sweeps_serves_metrics_of_each_task(world: World) -> None:
    variables = {
        "JOBS_OWNER_DATABASE_URL": world.database.owner_dsn,
        "JOBS_RETENTION_DAYS": "30",
    } | METRICS_ON
    async with world.on_another_server(**variables) as sweeping:
        read = await scrape_until(
            sweeping.server.app.metrics_address,
            lambda read: read.value("jobs_maintenance_runs_total", task="jobs_to_purge") > 0,
        )

    tasks = read.labels("jobs_maintenance_overdue_seconds", "task")
    assert tasks == {*JOB_TASKS, "queued_events", "device_changes", "scans_due"}
    assert read.value("jobs_maintenance_errors_total") == 0


async def test_searches_of_the_previous_version_still_work(database: Database) -> None:
    # A prepared statement of a server that runs while `migrate` replaces the functions.
    async with connected(database.owner_dsn) as connection:
        sql = "SELECT tenant_id, job_id FROM jobs.jobs_to_purge($1, $2, $3)"
        assert await connection.fetch(sql, 1, [], []) == []
