"""Devices are listed in byte order, also from tables of a platform in another collation."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from jobs_grpc.db.migrate import migrate
from jobs_grpc.services.selectors import parse
from tests.support.database import store_on
from tests.support.postgres import Postgres, connect

pytestmark = [pytest.mark.slow, pytest.mark.single_node("Citus does not distribute such tables")]

# In this collation, the order is a A ä b B. The second schema has the indexes that calls need.
_TABLES = """
    CREATE TABLE public.device_state (
        tenant_id text COLLATE "und-x-icu", device_id text COLLATE "und-x-icu",
        PRIMARY KEY (tenant_id, device_id));
    CREATE TABLE public.device_group_members (
        tenant_id text COLLATE "und-x-icu", group_id text COLLATE "und-x-icu",
        device_id text COLLATE "und-x-icu", PRIMARY KEY (tenant_id, group_id, device_id));
    ALTER TABLE public.device_state ENABLE ROW LEVEL SECURITY;
    ALTER TABLE public.device_group_members ENABLE ROW LEVEL SECURITY;
    CREATE POLICY tenant ON public.device_state
        USING (tenant_id = current_setting('app.tenant_id', true));
    CREATE POLICY tenant ON public.device_group_members
        USING (tenant_id = current_setting('app.tenant_id', true));
    INSERT INTO public.device_state
        SELECT 't', unnest('{a, A, ä, b, B, a-1, _}'::text[]);
    INSERT INTO public.device_group_members
        SELECT 't', g, d FROM unnest('{x, X}'::text[]) g, unnest('{b, B, a, A}'::text[]) d
        WHERE g = 'x' OR d = 'B';
"""
_INDEXES = """
    CREATE INDEX ON public.device_state (tenant_id, device_id COLLATE "C");
    CREATE INDEX ON public.device_group_members
        (tenant_id, group_id COLLATE "C", device_id COLLATE "C");
    CREATE INDEX ON public.device_group_members (tenant_id, device_id COLLATE "C");
"""
_LABELS = """
    INSERT INTO jobs.devices (tenant_id, device_id, labels)
    SELECT 't', unnest('{a, B, ä}'::text[]), '{"k": "v"}'
"""


@pytest.fixture(scope="module", params=["", _INDEXES], ids=["without indexes", "with indexes"])
async def platform(
    cluster: tuple[Postgres, str], request: pytest.FixtureRequest
) -> AsyncIterator[asyncpg.Connection]:
    """A session of the request role in a database of a platform."""
    postgres, _ = cluster
    async with postgres.database() as name, postgres.unused_role(name) as role:
        owner = await connect(postgres.dsn(name))
        if not await owner.fetchval("SELECT true FROM pg_collation WHERE collname = 'und-x-icu'"):
            await owner.close()
            pytest.skip("PostgreSQL was built without ICU")
        await owner.execute(_TABLES + request.param)
        await migrate(postgres.dsn(name), role)
        await owner.execute(_LABELS)
        await owner.close()
        session = await asyncpg.connect(postgres.dsn(name, role))
        yield session
        await session.close()


@pytest.mark.parametrize(
    ("selector", "prefix", "expected"),
    [
        ("", "", ["A", "B", "_", "a", "a-1", "b", "ä"]),
        ("", "a", ["a", "a-1"]),
        ("k=v", "", ["B", "a", "ä"]),
        ("k!=v", "", ["A", "_", "a-1", "b"]),
        ("group=x", "", ["A", "B", "a", "b"]),
        ("group=X", "", ["B"]),
        ("group in (x,X),k", "", ["B", "a"]),
        ("group!=x", "", ["_", "a-1", "ä"]),
        ("group!=X,k", "", ["a", "ä"]),
        ('device_id in (b,"ä",B)', "", ["B", "b", "ä"]),
    ],
)
async def test_devices_of_a_platform_are_listed_in_byte_order(
    platform: asyncpg.Connection, selector: str, prefix: str, expected: list[str]
) -> None:
    for limit in (1, 2, 100):
        found: list[str] = []
        after = ""
        while True:
            rows = await store_on(platform).list_devices(
                "t", terms=parse(selector).terms_json, prefix=prefix, after=after, limit=limit
            )
            found += [row["device_id"] for row in rows if row["labels"] is not None]
            if not rows or rows[-1]["labels"] is not None:
                break
            after = rows[-1]["device_id"]

        assert found == expected
