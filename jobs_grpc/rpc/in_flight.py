"""The calls that are being served, so that a stop can wait for them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from jobs_grpc.auth.policy import is_public


class InFlight:
    """The calls being served, as the tasks that serve them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._infrastructure: set[asyncio.Task[object]] = set()

    @contextmanager
    def entered(self, method: str) -> Iterator[None]:
        """For the time that the present task serves a call of `method`."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        # Past the block gRPC sends the answer: a loop that ends in the midst of it is minded.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not is_public(method):
            yield
            return
        self._infrastructure.add(task)
        try:
            yield
        finally:
            self._infrastructure.discard(task)

    def end_infrastructure(self) -> None:
        """Cut off health watches and reflection, which never end by themselves."""
        for task in self._infrastructure:
            task.cancel()

    async def ended(self, limit: float) -> bool:
        """Wait until all calls have ended, cleanup included; False after `limit` seconds."""
        if not self._tasks:
            return True
        _, left = await asyncio.wait(self._tasks, timeout=limit)
        return not left
