"""Counts how many waiting tenants a FairSemaphore examines."""

from collections.abc import Callable
from typing import Any

import pytest

from jobs_grpc.limits import fair_semaphore


def record_examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets each tenant that is examined whether it may take units."""
    examined: list[str] = []
    pop_first = fair_semaphore._Queue.pop_first

    def record(queue: Any, may_take: Callable[[str], bool]) -> Any:
        def may_take_and_record(tenant: str) -> bool:
            examined.append(tenant)
            return may_take(tenant)

        return pop_first(queue, may_take_and_record)

    monkeypatch.setattr(fair_semaphore._Queue, "pop_first", record)
    return examined
