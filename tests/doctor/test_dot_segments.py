"""The doctor names IDs that REST clients normalize to the path of another resource."""

import pytest

from jobs_grpc.db.migrate import migrate
from jobs_grpc.doctor import dot_segments
from tests.doctor.conftest import Doctor
from tests.support.postgres import Postgres
from tests.support.server import running_server

pytestmark = pytest.mark.slow


async def test_doctor_lists_devices_and_jobs_when_their_id_has_a_dot_segment(fresh: Doctor) -> None:
    await fresh.database.add_devices("acme", ["a..b", "x/../y"])
    async with running_server(fresh.database.request_dsn) as server:
        await server.operator("acme").create(job_id="old", target_all=True)
    for table in ("jobs", "job_progress", "job_executions"):
        await fresh.owner.execute(f"UPDATE jobs.{table} SET job_id = '..'")

    detail = "*: device 'x/../y' of tenant acme, job '..' of tenant acme"
    await fresh.expect("ids", "WARNING", detail)


async def test_doctor_names_devices_that_the_table_of_a_platform_shows_one_tenant_at_a_time(
    fresh: Doctor, cluster: tuple[Postgres, str]
) -> None:
    database = fresh.database
    await migrate(database.owner_dsn, database.role, device_tables_manager="platform")
    await database.add_devices("acme", ["."])
    await database.add_devices("globex", ["d1", *(f"../{n}" for n in range(9))])
    async with running_server(database.request_dsn) as server:
        for tenant in ("acme", "globex"):
            await server.operator(tenant).create(target_all=True)
    name = fresh.database.name
    async with cluster[0].unused_role(name) as owner:
        await fresh.owner.execute(
            f"CREATE ROLE {owner.name} LOGIN PASSWORD '{owner.password}';"
            f"GRANT USAGE ON SCHEMA jobs TO {owner.name};"
            "ALTER TABLE public.device_state FORCE ROW LEVEL SECURITY;"
            f"ALTER TABLE public.device_state OWNER TO {owner.name};"
            f"ALTER TABLE jobs.devices OWNER TO {owner.name};"
            f"ALTER TABLE jobs.jobs OWNER TO {owner.name}"
        )
        detail = "*device '.' of tenant acme, device '../* of tenant globex, and more"
        url = {"JOBS_OWNER_DATABASE_URL": cluster[0].dsn(name, owner)}
        await fresh.expect("ids", "WARNING", detail, **url)


async def test_doctor_says_when_there_are_too_many_ids_to_examine(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dot_segments, "_TIMEOUT", 0)

    detail = "not all IDs could be examined in 0 s"
    await doctor.expect("ids", "WARNING", detail, "*jobs.has_dot_segment*")
