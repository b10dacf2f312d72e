"""Collects the metrics of all workers: the supervisor asks, each worker answers.

They use a socket of their own. The pipe of the supervisor cannot carry messages of this size:
uvloop makes it non-blocking, and a Connection then fails on a message that has arrived in part.
"""

import asyncio
import pickle
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_REQUEST = b"?"
_LENGTH_BYTES = 4

# A worker that does not answer in this time is reported as down. It is less than the time that
# Prometheus waits for a response.
_TIMEOUT = 3.0


class WorkerMetrics:
    """Asks the workers for their metrics, and counts how often each was replaced."""

    def __init__(self, workers: int) -> None:
        """Worker numbers are 1 to `workers`."""
        self._numbers = range(1, workers + 1)
        self._workers: dict[int, _Worker] = {}
        self._restarts = dict.fromkeys(self._numbers, 0)

    @asynccontextmanager
    async def connected(self, number: int) -> AsyncIterator[socket.socket]:
        """Ask the worker within the block; yields the socket for `answer_requests`."""
        supervisor_end, worker_end = socket.socketpair()
        with worker_end:
            reader, writer = await asyncio.open_unix_connection(sock=supervisor_end)
            worker = self._workers[number] = _Worker(reader, writer)
            try:
                yield worker_end
            finally:
                del self._workers[number]
                worker.close()

    def worker_replaced(self, number: int) -> None:
        """Count a worker that ended and is started again."""
        self._restarts[number] += 1

    async def collect(self) -> "list[Metric]":
        """Return the metrics of all workers. Needs the extra `metrics`."""
        from jobs_grpc.server.metrics import merge_workers

        answers = {number: worker.ask() for number, worker in self._workers.items()}
        if answers:
            await asyncio.wait(answers.values(), timeout=_TIMEOUT)
        metrics = {number: _result(answers.get(number)) for number in self._numbers}
        return merge_workers(metrics, self._restarts)


class _Worker:
    """The connection to a worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._answer: asyncio.Task[list[Metric]] | None = None

    def ask(self) -> "asyncio.Task[list[Metric]]":
        """Return the task that waits for the answer. Asks only if no earlier answer is missing."""
        if self._answer is None or self._answer.done():
            self._answer = asyncio.create_task(self._ask())
        return self._answer

    async def _ask(self) -> "list[Metric]":
        self._writer.write(_REQUEST)
        length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES))
        metrics: list[Metric] = pickle.loads(await self._reader.readexactly(length))  # noqa: S301
        return metrics

    def close(self) -> None:
        """Close the connection, and cancel the wait for an answer."""
        self._writer.close()
        if self._answer:
            self._answer.cancel()


def _result(answer: "asyncio.Task[list[Metric]] | None") -> "list[Metric] | None":
    """The metrics of a worker, or None if it has not answered."""
    if answer is None or not answer.done() or answer.cancelled() or answer.exception():
        return None
    return answer.result()


async def answer_requests(connection: socket.socket, collect: "Callable[[], list[Metric]]") -> None:
    """Answer the supervisor with what `collect` returns, until the supervisor ends."""
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    with suppress(ConnectionError):
        while await reader.read(1):
            answer = pickle.dumps(collect())
            writer.write(len(answer).to_bytes(_LENGTH_BYTES) + answer)
            await writer.drain()
    writer.close()
