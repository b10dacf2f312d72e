"""The calls in flight, so that a stop can wait for them."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

Task = asyncio.Task[object]


class CallTracker:
    """The tasks that serve calls, until their responses have been sent."""

    def __init__(self) -> None:
        self._tasks: set[Task] = set()
        self._public: set[Task] = set()
        self.streams_opened = 0
        """The number of streams so far, without those of public methods."""

    @property
    def call_count(self) -> int:
        """The number of calls in flight, without those of public methods."""
        return len(self._tasks)

    def enter(self, on_end: Callable[[], None], *, public: bool, stream: bool) -> Task:
        """Add the current task, and return it. Calls `on_end` when the task has ended."""
        self.streams_opened += stream and not public
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        tasks = self._public if public else self._tasks
        tasks.add(task)

        def leave(ended: Task) -> None:
            tasks.discard(ended)
            on_end()

        task.add_done_callback(leave)
        return task

    def cancel_public_calls(self) -> None:
        """Cancel health watches and reflection, which never end on their own."""
        for task in self._public:
            task.cancel()

    async def wait_for_calls(self, deadline: float) -> None:
        """Wait for the calls of non-public methods to end, until `deadline`, a time of the loop."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while self._tasks:
                    await asyncio.wait(self._tasks)

    async def wait(self, seconds: float) -> bool:
        """Wait until all calls have ended. False if some have not after `seconds`."""
        tasks = self._tasks | self._public
        if not tasks:
            return True
        _, pending = await asyncio.wait(tasks, timeout=seconds)
        return not pending
