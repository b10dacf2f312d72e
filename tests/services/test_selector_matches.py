"""Selectors match the same devices in SQL as in a model that does not parse them."""

import random

import asyncpg
import pytest

from jobs_grpc.services.selectors import parse
from tests.model.targets import matching
from tests.support import random_selectors
from tests.support.database import request_session
from tests.support.scale import scaled
from tests.support.world import World


# Rounds of 50 selectors.
@pytest.mark.slow
@pytest.mark.parametrize("round_number", range(scaled(3, 4)))
async def test_devices_match_as_in_the_model(world: World, round_number: int) -> None:
    seed = random.randrange(2**32)  # noqa: S311 - repeatable on purpose
    rng = random.Random(seed)  # noqa: S311
    keys = random_selectors.KEYS_WITH_FACTS
    devices = random_selectors.devices(rng, 25, keys)
    await random_selectors.store(world.database, world.tenant, devices)
    async with request_session(world.database) as (connection, store):
        for _ in range(50):
            terms = random_selectors.terms(rng, devices, keys=keys)
            text = random_selectors.spell(rng, terms)
            expected = matching(terms, devices)
            where = f"round {round_number}, seed {seed}: {text}"

            rows = await store.list_devices(
                world.tenant, terms=parse(text).terms_json, prefix="", after="", limit=len(devices)
            )

            assert [row["device_id"] for row in rows] == expected, where
            assert await _pages(rng, connection, world.tenant, text) == expected, where
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
