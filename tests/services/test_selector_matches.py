"""Selectors match the same devices in SQL as in a model that does not parse them."""

import random

import asyncpg
import pytest

from jobs_grpc.services.selectors import parse
from tests.support import selector_model as model
from tests.support.database import Database, request_session
from tests.support.scale import SCALE


@pytest.mark.slow
async def test_devices_match_as_in_the_model(database: Database, tenant: str) -> None:
    seed = random.randrange(2**32)  # noqa: S311 - repeatable on purpose
    rng = random.Random(seed)  # noqa: S311
    async with request_session(database) as (connection, store):
        for round_number in range(5 * SCALE):
            devices = model.devices(rng, 25)
            tenant_of_round = f"{tenant}-{round_number}"
            await model.store(database, tenant_of_round, devices)
            for _ in range(100):
                terms = model.terms(rng, devices)
                text = model.spell(rng, terms)

                rows = await store.list_devices(
                    tenant_of_round,
                    terms=parse(text).terms_json,
                    prefix="",
                    after="",
                    limit=len(devices),
                )

                pages = await _pages(rng, connection, tenant_of_round, text)
                assert pages == model.matching(terms, devices), f"seed {seed}: {text}"
                found = [row["device_id"] for row in rows]
                assert found == model.matching(terms, devices), f"seed {seed}: {text}"
                assert parse(parse(text).text) == parse(text)


async def _pages(
    rng: random.Random, connection: asyncpg.Connection, tenant: str, text: str
) -> list[str]:
    """Read pages that are small, or that examine few devices."""
    found: list[str] = []
    after = ""
    while True:
        rows = await connection.fetch(
            "SELECT device_id, labels FROM jobs.list_devices($1, $2, '', $3, $4, $5)",
            tenant,
            parse(text).terms_json,
            after,
            rng.choice((1, 2, 5, 50)),
            rng.choice((1, 2, 7, 50)),
        )
        found += [row["device_id"] for row in rows if row["labels"] is not None]
        if not rows or rows[-1]["labels"] is not None:
            return found
        assert rows[-1]["device_id"] > after
        after = rows[-1]["device_id"]
