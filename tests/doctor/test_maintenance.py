"""What the doctor finds when background work stands still."""

from urllib.parse import urlsplit, urlunsplit

import pytest
from fleet.jobs.v1.fleet_pb2 import Device

from jobs_grpc.doctor import connection
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.doctor.conftest import Doctor
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


async def test_doctor_reports_late_work_until_it_is_done(fresh: Doctor) -> None:
    database, remedy = fresh.database, "*JOBS_OWNER_DATABASE_URL*"
    async with (
        running_server(database.request_dsn) as server,
        Sweeper(database.owner_dsn, retention_days=1) as sweeper,
    ):
        for task, statement in LATE.items():
            await database.add_devices(task, ["pump", "valve"])
            operator, pump = server.operator(task), server.device(task, "pump")
            await operator.create(job_id="j", target_all=True)
            await pump.start("j")
            if task in ("finalization", "retention", "purge"):
                await operator.cancel("j", force=task != "finalization")
            if task in ("retention", "purge"):
                await sweeper.run_once()
            await fresh.owner.execute(f"{statement} WHERE tenant_id = $1", task)

            detail = f"{task} is 6?? s late"
            await fresh.expect("maintenance", "ERROR", detail, remedy, JOBS_RETENTION_DAYS="1")

            await sweeper.run_once()
            await sweeper.run_once()
            done = "no work is due"
            await fresh.expect("maintenance", "OK", done, JOBS_RETENTION_DAYS="1")


async def test_doctor_accepts_work_that_has_just_become_due(fresh: Doctor) -> None:
    await fresh.database.add_devices("acme", 1)
    async with running_server(fresh.database.request_dsn) as server:
        await server.operator("acme").create(job_id="j", target_all=True)
        await server.operator("acme").cancel("j")
    # The server took some time to stop.
    await fresh.owner.execute("UPDATE jobs.jobs SET canceled_at = now()")

    await fresh.expect("maintenance", "OK", "the oldest work is * s late")


async def test_doctor_warns_when_there_is_no_owner(doctor: Doctor) -> None:
    detail, remedy = "*runs no maintenance*", "set it on at least one server*"
    await doctor.expect("maintenance", "WARNING", detail, remedy, JOBS_OWNER_DATABASE_URL="")


async def test_doctor_reports_owner_of_another_database_or_of_none(
    cluster: tuple[Postgres, str], doctor: Doctor
) -> None:
    postgres, template = cluster
    async with postgres.database(template) as other:
        detail = "*names a different database than JOBS_DATABASE_URL*"
        url = {"JOBS_OWNER_DATABASE_URL": postgres.dsn(other)}
        await doctor.expect("maintenance", "ERROR", detail, **url)

    missing = urlunsplit(urlsplit(doctor.database.owner_dsn)._replace(path="/no_such_database"))
    detail, remedy = "*no_such_database*", "*JOBS_OWNER_DATABASE_URL*"
    url = {"JOBS_OWNER_DATABASE_URL": missing}
    await doctor.expect("maintenance", "ERROR", detail, remedy, **url)


async def test_doctor_reports_owner_that_does_not_see_all_tenants(fresh: Doctor) -> None:
    for damage in ("SELECT 1", f"REVOKE USAGE ON SCHEMA jobs FROM {fresh.role}"):
        await fresh.owner.execute(damage)

        detail, remedy = "*does not see the rows of all tenants*", "*the owner of the tables*"
        url = {"JOBS_OWNER_DATABASE_URL": fresh.database.request_dsn}
        await fresh.expect("maintenance", "ERROR", detail, remedy, **url)


async def test_doctor_reads_the_lag_when_the_request_role_can_not_connect(fresh: Doctor) -> None:
    await fresh.owner.execute(f"ALTER ROLE {fresh.role} NOLOGIN")

    await fresh.expect("maintenance", "OK", "no work is due")


async def test_doctor_reports_what_it_can_not_read_in_time(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_STATEMENT_TIMEOUT", 0.5)
    in_time = "the check failed: no response in time"
    not_counted = "the devices could not be counted in time"
    for check, table, status, detail in (
        ("maintenance", "jobs.job_executions", "ERROR", in_time),
        ("device-counts", "public.device_state", "WARNING", not_counted),
    ):
        async with doctor.owner.transaction():
            await doctor.owner.execute(f"LOCK TABLE {table}")

            await doctor.expect(check, status, detail)


async def test_doctor_warns_when_a_device_count_is_wrong(fresh: Doctor) -> None:
    async with running_server(fresh.database.request_dsn) as server:
        for tenant in ("acme", "other"):
            await server.fleet(tenant).update(Device(device_id="a"), allow_missing=True)
    await fresh.expect("device-counts", "OK")
    await fresh.database.add_devices("acme", ["b", "c"])

    detail = "tenant acme has 3 devices, but the stored count is 1:*"
    found = await fresh.expect("device-counts", "WARNING", detail)

    assert await fresh.owner.execute(found.remedy.split("`")[1]) == "DELETE 1"
    await fresh.expect("device-counts", "OK")
