"""The methods of the store call functions of the schema with their parameters."""

import inspect
import re
from typing import Any, cast

import asyncpg
import pytest

from jobs_grpc.db.store import Function, Store
from tests.support.database import Database, store_on

STORE_METHODS = sorted(
    name
    for name, member in vars(Store).items()
    if isinstance(member, Function)
    or (inspect.iscoroutinefunction(member) and name != "call" and not name.startswith("_"))
)
_REQUIRED = """
SELECT array_agg(substr(name, 3) ORDER BY n)
FROM pg_proc, unnest(proargnames) WITH ORDINALITY AS parameter(name, n)
WHERE oid = $1::regproc AND n <= pronargs - pronargdefaults
"""
_TENANT: dict[str, Any] = {"tenant_id": "t", "tenant_ids": ["t"]}


class _PreparingConnection:
    """Lets PostgreSQL analyze each statement that a store sends, and runs none."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.calls: list[tuple[str, tuple[object, ...]]] = []

    async def fetch(self, statement: str, *args: object) -> list[list[int]]:
        prepared = await self._connection.prepare(statement)
        assert len(prepared.get_parameters()) == len(args)
        self.calls.append((statement, args))
        return [[1, 1], [1, 1]]


@pytest.mark.parametrize("method", STORE_METHODS)
@pytest.mark.parametrize("is_distributed", [False, True], ids=["one node", "Citus"])
async def test_method_calls_its_function_with_the_parameters_that_it_requires(
    database: Database, method: str, is_distributed: bool
) -> None:
    """Citus delegates only a function alone, with the tenant first and parameters as arguments."""
    connection = _PreparingConnection(database.owner)
    call = getattr(store_on(cast("Any", connection), is_distributed=is_distributed), method)
    parameters = inspect.signature(call).parameters.values()
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        # It passes on the parameters of its function.
        _, *others = await database.owner.fetchval(_REQUIRED, f"jobs.{method}")
        required = [required[0], *others]

    await call(**{name: _TENANT.get(name, []) for name in required})

    ((statement, args),) = connection.calls
    form = (
        rf"SELECT \* FROM jobs\.{method}(_of_tenants)?\(p_tenant_ids? => \$1(, p_\w+ => \$\d+)*\)"
    )
    assert re.fullmatch(form, statement)
    assert args[0] in _TENANT.values()
    if is_distributed:
        assert args[0] == "t"
