"""What the doctor finds when background work stands still."""

import re
from urllib.parse import urlsplit, urlunsplit

import pytest
from fleet.jobs.v1.fleet_pb2 import Device

from jobs_grpc.db.migrate import RequestRole
from jobs_grpc.doctor import connection
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.doctor.conftest import Doctor
from tests.support.database import Database
from tests.support.postgres import Postgres
from tests.support.server import running_server

pytestmark = pytest.mark.slow

LATE = {
    "timeout": "UPDATE jobs.job_executions SET times_out_at = now() - interval '10 minutes'",
    "stages": "UPDATE jobs.jobs SET stage_due_at = now() - interval '10 minutes'",
    "finalization": "UPDATE jobs.jobs SET canceled_at = now() - interval '10 minutes'",
    "retention": "UPDATE jobs.jobs SET updated_at = now() - interval '1 day 10 minutes'",
    "purge": "UPDATE jobs.jobs SET deleted_at = now() - interval '10 minutes'",
}


@pytest.mark.parametrize("task", LATE)
async def test_doctor_reports_late_work_until_it_is_done(
    doctor: Doctor, fresh: Database, task: str
) -> None:
    await fresh.add_devices("acme", ["pump", "valve"])
    async with running_server(fresh.request_dsn) as server:
        operator, pump = server.operator("acme"), server.device("acme", "pump")
        await operator.create(job_id="j", target_all=True)
        await pump.start("j")
        if task == "finalization":
            await operator.cancel("j")
        if task in ("retention", "purge"):
            await operator.cancel("j", force=True)
    if task == "purge":
        await fresh.owner.execute("UPDATE jobs.jobs SET finalized = true")
    if task == "retention":
        async with Sweeper(fresh.owner_dsn) as sweeper:
            await sweeper.run_once()
    await fresh.owner.execute(LATE[task])

    [found] = await doctor("maintenance", JOBS_RETENTION_DAYS="1")

    assert found.status == "ERROR"
    late, _, seconds = found.detail.removesuffix(" s late").partition(" is ")
    assert late == task
    assert 600 <= float(seconds) < 660
    assert "JOBS_OWNER_DATABASE_URL" in found.remedy
    async with Sweeper(fresh.owner_dsn, retention_days=1) as sweeper:
        await sweeper.run_once()
        await sweeper.run_once()
    [found] = await doctor("maintenance", JOBS_RETENTION_DAYS="1")
    assert (found.status, found.detail) == ("OK", "no work is due")


async def test_doctor_accepts_work_that_has_just_become_due(
    doctor: Doctor, fresh: Database
) -> None:
    await fresh.add_devices("acme", 1)
    async with running_server(fresh.request_dsn) as server:
        await server.operator("acme").create(job_id="j", target_all=True)
        await server.operator("acme").cancel("j")
    # The server took some time to stop.
    await fresh.owner.execute("UPDATE jobs.jobs SET canceled_at = now()")

    [found] = await doctor("maintenance")

    assert found.status == "OK"
    # The doctor itself takes some time.
    assert re.fullmatch(r"the oldest work is \d+ s late", found.detail)


async def test_doctor_warns_when_there_is_no_owner(doctor: Doctor) -> None:
    [found] = await doctor("maintenance", JOBS_OWNER_DATABASE_URL="")

    assert (found.status, "runs no maintenance" in found.detail) == ("WARNING", True)
    assert found.remedy.startswith("set it on at least one server")


async def test_doctor_reports_owner_of_another_database(
    cluster: tuple[Postgres, str], doctor: Doctor
) -> None:
    postgres, template = cluster
    async with postgres.database(template) as other:
        [found] = await doctor("maintenance", JOBS_OWNER_DATABASE_URL=postgres.dsn(other))

    assert found.status == "ERROR"
    assert "names a different database than JOBS_DATABASE_URL" in found.detail


@pytest.mark.parametrize("damage", ["SELECT 1", "REVOKE USAGE ON SCHEMA jobs FROM {role}"])
async def test_doctor_reports_owner_that_does_not_see_all_tenants(
    doctor: Doctor, fresh: Database, damage: str
) -> None:
    await fresh.owner.execute(damage.format(role=RequestRole.from_dsn(fresh.request_dsn).name))

    [found] = await doctor("maintenance", JOBS_OWNER_DATABASE_URL=fresh.request_dsn)

    text = "does not see the rows of all tenants"
    assert (found.status, text in found.detail) == ("ERROR", True)
    assert "the owner of the tables" in found.remedy


async def test_doctor_reports_owner_that_can_not_connect(doctor: Doctor, fresh: Database) -> None:
    url = urlunsplit(urlsplit(fresh.owner_dsn)._replace(path="/no_such_database"))

    [found] = await doctor("maintenance", JOBS_OWNER_DATABASE_URL=url)

    assert (found.status, "no_such_database" in found.detail) == ("ERROR", True)
    assert "JOBS_OWNER_DATABASE_URL" in found.remedy


async def test_doctor_reads_the_lag_when_the_request_role_can_not_connect(
    doctor: Doctor, fresh: Database
) -> None:
    role = RequestRole.from_dsn(fresh.request_dsn).name
    await fresh.owner.execute(f"ALTER ROLE {role} NOLOGIN")

    [found] = await doctor("maintenance")

    assert (found.status, found.detail) == ("OK", "no work is due")


@pytest.mark.parametrize(
    ("check", "table", "status", "detail"),
    [
        ("maintenance", "jobs.job_executions", "ERROR", "the check failed: no response in time"),
        (
            "device-counts",
            "public.device_state",
            "WARNING",
            "the devices could not be counted in time",
        ),
    ],
)
async def test_doctor_reports_what_it_can_not_read_in_time(
    doctor: Doctor,
    fresh: Database,
    monkeypatch: pytest.MonkeyPatch,
    check: str,
    table: str,
    status: str,
    detail: str,
) -> None:
    monkeypatch.setattr(connection, "_STATEMENT_TIMEOUT", 0.5)
    async with fresh.owner.transaction():
        await fresh.owner.execute(f"LOCK TABLE {table}")

        [found] = await doctor(check)

    assert (found.status, found.detail) == (status, detail)


async def test_doctor_warns_when_a_device_count_is_wrong(doctor: Doctor, fresh: Database) -> None:
    async with running_server(fresh.request_dsn) as server:
        for tenant in ("acme", "other"):
            await server.fleet(tenant).update(Device(device_id="a"), allow_missing=True)
    assert [found.status for found in await doctor("device-counts")] == ["OK"]
    await fresh.add_devices("acme", ["b", "c"])

    [found] = await doctor("device-counts")

    assert (found.status, found.detail.partition(":")[0]) == (
        "WARNING",
        "tenant acme has 3 devices, but the stored count is 1",
    )
    assert await fresh.owner.execute(found.remedy.split("`")[1]) == "DELETE 1"
    assert [found.status for found in await doctor("device-counts")] == ["OK"]
