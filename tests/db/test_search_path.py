"""Functions give the same results whatever the session's search_path contains."""

import re

import asyncpg
import pytest

from tests.db.function_calls import CASES, function_of
from tests.support import shapes
from tests.support.database import Database
from tests.support.shapes import Jobs, Probe, Shape

# Operators and functions that the bodies of our functions use. Each fails if it is called.
_HOSTILE_SCHEMA = """
    CREATE SCHEMA hostile;
    CREATE FUNCTION hostile.compare(text, text) RETURNS boolean
        LANGUAGE plpgsql AS $$ BEGIN RAISE 'hostile operator'; END $$;
    CREATE FUNCTION hostile.compare(jobs.execution_status, jobs.execution_status) RETURNS boolean
        LANGUAGE plpgsql AS $$ BEGIN RAISE 'hostile operator'; END $$;
    CREATE FUNCTION hostile.compare(integer, integer) RETURNS boolean
        LANGUAGE plpgsql AS $$ BEGIN RAISE 'hostile operator'; END $$;
    CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.compare);
    CREATE OPERATOR hostile.= (LEFTARG = jobs.execution_status, RIGHTARG = jobs.execution_status,
                               FUNCTION = hostile.compare);
    CREATE OPERATOR hostile.> (LEFTARG = integer, RIGHTARG = integer, FUNCTION = hostile.compare);
    CREATE FUNCTION hostile.set_config(text, text, boolean) RETURNS text
        LANGUAGE plpgsql AS $$ BEGIN RAISE 'hostile function'; END $$;
    CREATE FUNCTION hostile.clock_timestamp() RETURNS timestamptz
        LANGUAGE plpgsql AS $$ BEGIN RAISE 'hostile function'; END $$;
"""

_SHAPE = Shape((Jobs(2, 4),))
_PROBE = Probe(devices=2)

# Numbers of microseconds, transaction ids and hashes of both.
_TIMES = re.compile(r"\d{10,}|datetime\([^)]*\)|\d{4}-\d\d-\d\dT[\d:.+]+")


async def _results(owner: asyncpg.Connection, search_path: str) -> dict[str, str]:
    """Return the results of all calls, without times and hashes. The calls are rolled back."""
    results = {}
    for name, case in CASES.items():
        transaction = owner.transaction()
        await transaction.start()
        if case.prepare:
            await case.prepare(owner, _PROBE)
        await owner.execute(f"SET LOCAL search_path = {search_path}")
        results[name] = _TIMES.sub("", repr(await case.call(owner, _PROBE)))
        await transaction.rollback()
    return results


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
@pytest.mark.wrong_counts("shapes store failures without counting them")
async def test_functions_ignore_the_search_path_of_the_session(database: Database) -> None:
    await shapes.fill(database.owner, _SHAPE)
    await shapes.fill_due(database.owner, _SHAPE)
    await database.owner.execute(_HOSTILE_SCHEMA)

    expected = await _results(database.owner, "DEFAULT")
    actual = await _results(database.owner, "hostile, pg_catalog")

    assert actual == expected
    # A call of each function returns something.
    returning = {function_of(name) for name, result in expected.items() if result != "[]"}
    assert returning == set(map(function_of, CASES))
