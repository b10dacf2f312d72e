"""The interval in which servers poll for watches."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest

from jobs_grpc.services.watch_hub import WatchHub
from tests.support.database import Database
from tests.support.server import Server, running_server


@asynccontextmanager
async def polling_server(
    database: Database, module: ModuleType, seconds: float = 0.05
) -> AsyncIterator[Server]:
    """Run a server that polls for the watches of a module in this interval.

    With a long interval, only the writes of the same server wake its watches.
    """

    def hub(fetch: Any, _: float, stopping: Any) -> WatchHub[Any]:
        return WatchHub(fetch, seconds, stopping)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(module, "WatchHub", hub)
        async with running_server(database.request_dsn) as server:
            yield server
