"""Devices are listed in byte order, also from tables of a platform in another collation."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from jobs_grpc.db.migrate import migrate
from jobs_grpc.services.selectors import parse
from tests.db.platform_tables import PLATFORM_POLICIES, PLATFORM_TABLES
from tests.support.database import new_database, store_on
from tests.support.postgres import Postgres, connected

pytestmark = [pytest.mark.slow, pytest.mark.single_node("Citus does not distribute such tables")]

# In this collation, the order is a A ä b B. The second schema has the indexes that calls need.
_TABLES = PLATFORM_TABLES.replace(" text,", ' text COLLATE "und-x-icu",') + PLATFORM_POLICIES
_ROWS = """
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
    async with new_database(cluster[0], new_role=True) as database:
        owner = database.owner
        if not await owner.fetchval("SELECT true FROM pg_collation WHERE collname = 'und-x-icu'"):
            pytest.skip("PostgreSQL was built without ICU")
        await owner.execute(_TABLES + _ROWS + request.param)
        await migrate(database.owner_dsn, database.role)
        await owner.execute(_LABELS)
        async with connected(database.request_dsn) as session:
            yield session


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
