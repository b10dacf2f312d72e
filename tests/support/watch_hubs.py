"""Polls of watches."""

from types import ModuleType
from typing import Any

import pytest

from jobs_grpc.services.watch_hub import WatchHub


def poll_hourly(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    """Let the watches of a module poll once an hour, on servers that start afterwards.

    So only the writes of the same server wake them.
    """

    def hub(fetch: Any, _: float, stopping: Any) -> WatchHub[Any]:
        return WatchHub(fetch, 3600, stopping)

    monkeypatch.setattr(module, "WatchHub", hub)
