"""The methods of the store call functions of the schema with their parameters."""

import inspect

import asyncpg
import pytest

from jobs_grpc.db.store import Store
from tests.support.database import Database, store_on

_METHODS = [
    name
    for name, _ in inspect.getmembers(Store, inspect.iscoroutinefunction)
    if not name.startswith("_")
]


class _PreparingConnection:
    """Lets PostgreSQL analyze each statement that a store sends, and runs none."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.functions: list[str] = []

    async def fetch(self, sql: str, *args: object) -> list[list[int]]:
        statement = await self._connection.prepare(sql)
        assert len(statement.get_parameters()) == len(args)
        self.functions.append(sql.partition("jobs.")[2].partition("(")[0])
        return [[1, 1]]


@pytest.mark.parametrize("method", _METHODS)
@pytest.mark.parametrize("is_distributed", [False, True], ids=["one node", "Citus"])
async def test_method_calls_its_function_with_the_parameters_that_it_requires(
    database: Database, method: str, is_distributed: bool
) -> None:
    connection = _PreparingConnection(database.owner)
    call = getattr(store_on(connection, is_distributed=is_distributed), method)  # type: ignore[arg-type]
    required = [
        parameter.name
        for parameter in inspect.signature(call).parameters.values()
        if parameter.default is parameter.empty
    ]

    await call(**{name: ["t"] if name == "tenant_ids" else [] for name in required})

    (function,) = connection.functions
    assert function.removesuffix("_of_tenants") == method
