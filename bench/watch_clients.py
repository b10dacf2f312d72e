"""Keep many watches open, as a process of its own.

`python -m bench.watch_clients ADDRESS METHOD FIRST COUNT FILE TENANT...` opens COUNT streams of
METHOD, which is WatchPendingExecutions of one of the devices d0000000, d0000001 …, WatchJob of the
job "j", or WatchEvents. Stream n belongs to tenant n modulo the number of tenants; the numbers
start at FIRST. FILE is "", or has a client certificate for each stream, which then has a connection
of its own: see bench/device_certificates.py. A stream that ends is reopened at once, or after the
delay in RetryInfo unless the server is stopping.

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
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, NoReturn

import grpc
from fleet.jobs.v1 import device_jobs_pb2, events_pb2, jobs_pb2

from bench.device_certificates import read_credentials
from jobs_grpc.client.errors import from_rpc_error
from tests.harness.calls import Calls, metadata

_REQUESTS = {
    "WatchJob": jobs_pb2.WatchJobRequest(job_id="j"),
    "WatchEvents": events_pb2.WatchEventsRequest(),
    "WatchPendingExecutions": device_jobs_pb2.WatchPendingExecutionsRequest(),
}

# Servers limit the streams of a connection.
_WATCHES_PER_CONNECTION = 100

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    # The clients reconnect at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
)

# Also the time that an attempt may take, which is too short for thousands of handshakes.
_SHORT_ATTEMPTS = ("grpc.min_reconnect_backoff_ms", 100)


class _Clients:
    def __init__(
        self, method: str, first: int, count: int, tenants: list[str], certificates: str
    ) -> None:
        self._method = method
        self._first = first
        self._count = count
        self._tenants = tenants
        self._credentials = read_credentials(certificates, first, count) if certificates else []
        self._kind = ""
        """Kind of message to wait for on each stream."""
        self._times: dict[int, float] = {}
        """When the streams received it."""
        self._complete = asyncio.Event()
        self._ends: Counter[str] = Counter()

    async def run(self, address: str) -> NoReturn:
        """Open the streams when the first round is asked for, and keep them open."""
        async with AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(channel) for channel in self._channels(address)
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
                await self._complete.wait()
                result = [[self._times[n] for n in range(self._count)], self._ends]
                self._ends = Counter()
                print(json.dumps(result), flush=True)
                await self._next_round()

    def _channels(self, address: str) -> Iterator[grpc.aio.Channel]:
        for credentials in self._credentials:
            yield grpc.aio.secure_channel(address, credentials, _OPTIONS)
        if not self._credentials:
            for _ in range(-(-self._count // _WATCHES_PER_CONNECTION)):
                yield grpc.aio.insecure_channel(address, (*_OPTIONS, _SHORT_ATTEMPTS))

    async def _next_round(self) -> None:
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        if not line:
            raise asyncio.CancelledError
        self._kind, self._times, self._complete = line.strip(), {}, asyncio.Event()
        print("waiting", flush=True)

    def _opener(self, channel: grpc.aio.Channel, stream: int) -> Callable[[], Any]:
        number = self._first + stream
        tenant = self._tenants[number % len(self._tenants)]
        is_device = self._method == "WatchPendingExecutions"
        device = f"d{number // len(self._tenants):07}" if is_device else ""
        call, caller = Calls(channel).method(self._method), metadata(tenant, device=device)
        return lambda: call(_REQUESTS[self._method], metadata=caller, wait_for_ready=True)

    async def _watch(self, opened: Callable[[], Any], stream: int) -> None:
        while True:
            call, kind = opened(), "first"
            try:
                while await call.read() is not grpc.aio.EOF:
                    if self._kind == kind:
                        self._times.setdefault(stream, time.monotonic())
                        if len(self._times) == self._count:
                            self._complete.set()
                    kind = "next"
                self._ends["OK"] += 1
            except grpc.aio.AioRpcError as e:
                end, delay = describe_end(e)
                self._ends[end] += 1
                await asyncio.sleep(delay)


def describe_end(error: grpc.aio.AioRpcError) -> tuple[str, float]:
    """Return the status with its reason, and the seconds after which to call again."""
    found, code = from_rpc_error(error), error.code()
    if code is grpc.StatusCode.UNAVAILABLE and not found.reason:
        return "connection lost", 0.0
    delay = found.retry_after or 0.0
    end = f"{code.name} {found.reason}".rstrip() + (" with RetryInfo" if delay else "")
    return end, delay if found.reason != "SERVER_STOPPING" else 0.0


async def _main(
    address: str, method: str, first: str, count: str, certificates: str, *tenants: str
) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    clients = _Clients(method, int(first), int(count), list(tenants), certificates)
    await clients.run(address)


if __name__ == "__main__":
    # A fleet's clients run on other machines. At the lowest priority, they would read late.
    os.nice(5)
    asyncio.run(_main(*sys.argv[1:]))
