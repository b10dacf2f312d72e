"""The doctor names IDs that REST clients normalize to the path of another resource."""

import pytest

from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.doctor import dot_segments
from tests.doctor.conftest import Doctor
from tests.support.database import Database
from tests.support.postgres import Postgres
from tests.support.server import running_server

pytestmark = pytest.mark.slow


async def test_doctor_names_devices_and_jobs(doctor: Doctor, fresh: Database) -> None:
    await fresh.add_devices("acme", ["a..b", "x/../y"])
    async with running_server(fresh.request_dsn) as server:
        await server.operator("acme").create(job_id="old", target_all=True)
    for table in ("jobs", "job_progress", "job_executions"):
        await fresh.owner.execute(f"UPDATE jobs.{table} SET job_id = '..'")

    [found] = await doctor("ids")

    assert found.status == "WARNING"
    named = found.detail.partition(": ")[2]
    assert named == "device 'x/../y' of tenant acme, job '..' of tenant acme"


async def test_doctor_names_devices_that_the_table_of_a_platform_shows_one_tenant_at_a_time(
    doctor: Doctor, fresh: Database, cluster: tuple[Postgres, str]
) -> None:
    role = RequestRole.from_dsn(fresh.request_dsn)
    await migrate(fresh.owner_dsn, role, device_tables_manager="platform")
    await fresh.add_devices("acme", ["."])
    await fresh.add_devices("globex", ["d1", *(f"../{n}" for n in range(9))])
    async with running_server(fresh.request_dsn) as server:
        for tenant in ("acme", "globex"):
            await server.operator(tenant).create(target_all=True)
    name = await fresh.owner.fetchval("SELECT current_database()")
    async with cluster[0].unused_role(name) as owner:
        await fresh.owner.execute(
            f"CREATE ROLE {owner.name} LOGIN PASSWORD '{owner.password}';"
            f"GRANT USAGE ON SCHEMA jobs TO {owner.name};"
            "ALTER TABLE public.device_state FORCE ROW LEVEL SECURITY;"
            f"ALTER TABLE public.device_state OWNER TO {owner.name};"
            f"ALTER TABLE jobs.devices OWNER TO {owner.name};"
            f"ALTER TABLE jobs.jobs OWNER TO {owner.name}"
        )
        [found] = await doctor("ids", JOBS_OWNER_DATABASE_URL=cluster[0].dsn(name, owner))

    assert found.status == "WARNING"
    assert "device '.' of tenant acme, device '../" in found.detail
    assert found.detail.endswith(" of tenant globex, and more")


async def test_doctor_says_when_there_are_too_many_ids_to_examine(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dot_segments, "_TIMEOUT", 0)

    [found] = await doctor("ids")

    assert (found.status, found.detail) == ("WARNING", "not all IDs could be examined in 0 s")
    assert "jobs.has_dot_segment" in found.remedy
