"""Which devices are registered, as of the last second."""

import asyncio
import contextvars
import copy
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import TypeAlias

from jobs_grpc.errors import JobsError

Device: TypeAlias = tuple[str, str]
"""The tenant and the device."""

FindUnregistered: TypeAlias = Callable[[list[str], list[str]], Awaitable[Collection[int]]]
"""Returns the indexes of the devices that are not registered; the tenants are sorted."""

MAX_AGE = 0.8
"""Seconds for which an answer of the database is used."""

_MAX_BATCH = 1000


class RegisteredDevices:
    """Asks the database which devices are registered: for all calls that wait, in one statement.

    While the database is unavailable, the last answer about a device stays in use.
    """

    def __init__(
        self,
        find_unregistered: FindUnregistered,
        *,
        max_answers: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find_unregistered = find_unregistered
        self._max_answers = max_answers
        self._clock = clock
        # Whether the device is registered, and when the database was asked. The oldest is first.
        self._answers: OrderedDict[Device, tuple[bool, float]] = OrderedDict()
        self._waiting: dict[Device, asyncio.Future[bool]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def is_registered(self, device: Device) -> bool:
        """Return whether the device is registered, or was less than MAX_AGE seconds ago.

        Raises the error of the database if there is no last answer.
        """
        if known := self._answers.get(device):
            is_registered, asked_at = known
            if self._clock() - asked_at < MAX_AGE:
                return is_registered
        answer = self._waiting.get(device)
        if answer is None:
            answer = self._waiting[device] = asyncio.get_running_loop().create_future()
            # All calls that wait for it may end before it does.
            answer.add_done_callback(lambda future: future.cancelled() or future.exception())
            if self._asking is None or self._asking.done():
                # In an empty context: a statement does not belong to the call that begins it.
                self._asking = asyncio.create_task(self._ask(), context=contextvars.Context())
        try:
            return await asyncio.shield(answer)
        except JobsError as e:
            raise copy.copy(e) from None  # Each call changes its error when it ends.

    async def find_unregistered(self, devices: Collection[Device]) -> Collection[Device]:
        """Ask the database, and return those of the devices that are not registered.

        Devices about which the database does not answer are not returned.
        """
        ordered = sorted(devices)
        found: list[Device] = []
        for start in range(0, len(ordered), _MAX_BATCH):
            batch = ordered[start : start + _MAX_BATCH]
            with suppress(JobsError):
                answers = await self._read(batch)
                found += [d for d, registered in zip(batch, answers, strict=True) if not registered]
        return found

    async def close(self) -> None:
        """Cancel the running statement."""
        if self._asking:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def _ask(self) -> None:
        while self._waiting:
            batch = sorted(list(self._waiting)[:_MAX_BATCH])
            waiting = [self._waiting.pop(device) for device in batch]
            try:
                answers = await self._read(batch)
            except Exception as e:
                self._fail(batch, waiting, e)
            else:
                for future, is_registered in zip(waiting, answers, strict=True):
                    future.set_result(is_registered)

    def _fail(
        self,
        batch: Sequence[Device],
        waiting: Sequence["asyncio.Future[bool]"],
        error: Exception,
    ) -> None:
        for device, future in zip(batch, waiting, strict=True):
            known = self._answers.get(device)
            if known and isinstance(error, JobsError):
                future.set_result(known[0])
            else:
                future.set_exception(error)

    async def _read(self, batch: Sequence[Device]) -> Sequence[bool]:
        """Return whether each device of a sorted batch is registered, and keep the answers."""
        asked_at = self._clock()
        unregistered = await self._find_unregistered(
            [tenant for tenant, _ in batch], [device for _, device in batch]
        )
        answers = [True] * len(batch)
        for index in unregistered:
            answers[index] = False
        for device, is_registered in zip(batch, answers, strict=True):
            self._answers[device] = is_registered, asked_at
            self._answers.move_to_end(device)
        while len(self._answers) > self._max_answers:
            self._answers.popitem(last=False)
        return answers
