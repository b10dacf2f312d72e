"""Keep many watches open, as a process of its own.

`python -m bench.watch_clients ADDRESS METHOD FIRST COUNT TENANT...` opens COUNT streams of METHOD,
which is WatchPendingExecutions of one of the devices d0000000, d0000001 …, WatchJob of the job
"j", or WatchEvents. Stream n belongs to tenant n modulo the number of tenants; the numbers start at
FIRST. A stream that ends is reopened at once; after RESOURCE_EXHAUSTED, after the delay in
RetryInfo.

Prints a line when it is connected. Each line on stdin names the message that all streams must
receive: `first` of a new stream, or `next`, a further one. The process then prints "waiting" and,
when all have it, a line of JSON: the times (time.monotonic), and how often streams have ended since
the last such line, by status. Ends on SIGTERM.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, NoReturn

import grpc
from fleet.jobs.v1 import (
    device_jobs_pb2,
    device_jobs_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
)
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

# Servers limit the streams of a connection.
_WATCHES_PER_CONNECTION = 100

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    # The clients reconnect at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
)


class _Round:
    """Waits until each stream has received a message of one kind."""

    def __init__(self, kind: str, streams: int) -> None:
        self.kind = kind
        self.times: dict[int, float] = {}
        self.complete = asyncio.Event()
        self._streams = streams

    def note(self, stream: int) -> None:
        """Note a message of a stream."""
        if stream not in self.times:
            self.times[stream] = time.monotonic()
            if len(self.times) == self._streams:
                self.complete.set()


class _Clients:
    def __init__(self, method: str, first: int, count: int, tenants: list[str]) -> None:
        self._method = method
        self._first = first
        self._count = count
        self._tenants = tenants
        self._round = _Round("", count)
        self._ends: Counter[str] = Counter()

    async def run(self, address: str) -> NoReturn:
        """Open the streams when the first round is asked for, and keep them open."""
        async with AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(address, _OPTIONS))
                for _ in range(-(-self._count // _WATCHES_PER_CONNECTION))
            ]
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
            print("connected", flush=True)
            await self._next_round()
            watches = [
                asyncio.create_task(self._watch(self._opener(channels[n % len(channels)], n), n))
                for n in range(self._count)
            ]
            stack.callback(lambda: [watch.cancel() for watch in watches])
            while True:
                await self._round.complete.wait()
                times = self._round.times
                result = [[times[n] for n in range(self._count)], self._ends]
                self._ends = Counter()
                print(json.dumps(result), flush=True)
                await self._next_round()

    async def _next_round(self) -> None:
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        if not line:
            raise asyncio.CancelledError
        self._round = _Round(line.strip(), self._count)
        print("waiting", flush=True)

    def _opener(self, channel: grpc.aio.Channel, stream: int) -> Callable[[], Any]:
        number = self._first + stream
        tenant = self._tenants[number % len(self._tenants)]
        request: Any
        metadata: tuple[tuple[str, str], ...] = (("x-tenant-id", tenant),)
        if self._method == "WatchJob":
            call: Any = jobs_pb2_grpc.JobServiceStub(channel).WatchJob
            request = jobs_pb2.WatchJobRequest(job_id="j")
        elif self._method == "WatchEvents":
            call = events_pb2_grpc.EventServiceStub(channel).WatchEvents
            request = events_pb2.WatchEventsRequest()
        else:
            call = device_jobs_pb2_grpc.DeviceJobServiceStub(channel).WatchPendingExecutions
            request = device_jobs_pb2.WatchPendingExecutionsRequest()
            device = f"d{number // len(self._tenants):07}"
            metadata += (("x-device-id", device),)
        return lambda: call(request, metadata=metadata, wait_for_ready=True)

    async def _watch(self, opened: Callable[[], Any], stream: int) -> None:
        while True:
            call, kind = opened(), "first"
            try:
                while await call.read() is not grpc.aio.EOF:
                    if self._round.kind == kind:
                        self._round.note(stream)
                    kind = "next"
                self._ends["OK"] += 1
            except grpc.aio.AioRpcError as e:
                end, delay = describe_end(e)
                self._ends[end] += 1
                await asyncio.sleep(delay)


def describe_end(error: grpc.aio.AioRpcError) -> tuple[str, float]:
    """Return the status with its reason, and the seconds after which to call again."""
    reason, delay = "", 0.0
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it only needs the trailers
    for detail in status.details if status else ():
        if detail.Is(ErrorInfo.DESCRIPTOR):
            info = ErrorInfo()
            detail.Unpack(info)
            reason = f" {info.reason}"
        if detail.Is(RetryInfo.DESCRIPTOR):
            retry = RetryInfo()
            detail.Unpack(retry)
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    code = error.code()
    if status is None and code is grpc.StatusCode.UNAVAILABLE:
        return "connection lost", 0.0
    end = f"{code.name}{reason}{' with RetryInfo' if delay else ''}"
    return end, delay if code is grpc.StatusCode.RESOURCE_EXHAUSTED else 0.0


async def _main(address: str, method: str, first: str, count: str, *tenants: str) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    await _Clients(method, int(first), int(count), list(tenants)).run(address)


if __name__ == "__main__":
    # A fleet's clients run on other machines. At the lowest priority, they would read late.
    os.nice(5)
    asyncio.run(_main(*sys.argv[1:]))
