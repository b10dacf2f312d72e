"""Tracks the calls in flight, so that a stopping server can wait for them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from jobs_grpc.auth.policy import is_public


class InFlight:
    """The calls in flight, as the tasks that serve them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._public: set[asyncio.Task[object]] = set()

    @contextmanager
    def track(self, method: str) -> Iterator[None]:
        """Track the current task, which serves a call of `method`.

        The call counts as in flight until the task is done, because gRPC sends the response
        after the handler returns.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not is_public(method):
            yield
            return
        self._public.add(task)
        try:
            yield
        finally:
            self._public.discard(task)

    def cancel_public_calls(self) -> None:
        """Cancel health watches and reflection streams, which do not end by themselves."""
        for task in self._public:
            task.cancel()

    async def wait(self, seconds: float) -> bool:
        """Wait until all calls and their cleanup are done; False after `seconds`."""
        if not self._tasks:
            return True
        _, pending = await asyncio.wait(self._tasks, timeout=seconds)
        return not pending
