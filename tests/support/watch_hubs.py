"""The interval in which servers poll for watches."""

from types import ModuleType
from typing import Any

import pytest

from jobs_grpc.services.watch_hub import WatchHub


def set_poll_interval(monkeypatch: pytest.MonkeyPatch, module: ModuleType, seconds: float) -> None:
    """Let servers that start afterwards poll for the watches of a module in this interval.

    With a long interval, only the writes of the same server wake its watches.
    """

    def hub(fetch: Any, _: float, stopping: Any) -> WatchHub[Any]:
        return WatchHub(fetch, seconds, stopping)

    monkeypatch.setattr(module, "WatchHub", hub)
