"""The tenant that is not attacking: calls until SIGTERM, then prints its calls as JSON.

`python -m bench.hostile.other_tenant ADDRESS [gateway] [reconnect] [posts|watches] [tokens]` sends
one GetJob after the other, to a server or to a gateway; with `reconnect` each on a new connection.
With `posts`, it sends large bodies instead, and with `watches`, it opens a watch and reads one
event. With `tokens`, it sends a token.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TypeAlias

import httpx
from fleet.jobs.v1 import jobs_pb2 as pb

from bench.hostile.tokens import make_token
from bench.process import connect, python, read_line
from jobs_grpc.client import JobsError

TENANT = "other"

# Seconds between two calls.
_PAUSE = 0.005

# Seconds after which a call fails.
_TIMEOUT = 20

# Seconds after which a watch without an event counts as open.
_REFUSED_WITHIN = 1

_JSON = {"Content-Type": "application/json"}
_VALID_JOB = b'{"document_type": "bench", "target_all": true, "validate_only": true}'

Call: TypeAlias = tuple[float, float, str]
"""Start time, duration in seconds, and error ("" if none) of a call."""

_Call = Callable[[], Awaitable[None]]


@asynccontextmanager
async def _grpc_client(address: str) -> AsyncIterator[_Call]:
    async with connect(address) as calls:

        async def call() -> None:
            await calls.call(pb.GetJobRequest(job_id="j"), TENANT, deadline=_TIMEOUT)

        yield call


@asynccontextmanager
async def _rest_client(address: str, *options: str) -> AsyncIterator[_Call]:
    headers = {"X-Tenant-Id": TENANT}
    if "tokens" in options:
        headers["Authorization"] = f"Bearer {make_token(TENANT, 'olivia', 'admin')}"
    url = f"http://{address}"
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=_TIMEOUT) as client:

        async def read() -> None:
            (await client.get("/customer/jobs/j")).raise_for_status()

        async def post() -> None:
            # Space is what makes the body large: a document has at most 32 KiB.
            body = b"%s%s" % (b" " * 100_000, _VALID_JOB)
            response = await client.post("/customer/jobs", content=body, headers=_JSON)
            response.raise_for_status()

        async def watch() -> None:
            # With an event id, the watch waits while the server is away. It is not refused then.
            event_id = {"Last-Event-ID": "x"}
            with suppress(TimeoutError):
                async with (
                    asyncio.timeout(_REFUSED_WITHIN),
                    client.stream("GET", "/customer/jobs/j:watch", headers=event_id) as response,
                ):
                    response.raise_for_status()
                    async for line in response.aiter_lines():
                        if line.startswith("data:"):
                            return

        yield post if "posts" in options else watch if "watches" in options else read


async def _call_repeatedly(
    connect: Callable[[], AbstractAsyncContextManager[_Call]],
    calls: list[Call],
    *,
    reconnect: bool,
) -> None:
    """Append the start, the seconds and the error of each call, also of one that is canceled."""
    while True:
        async with connect() as call:
            while True:
                started, error = time.monotonic(), ""
                try:
                    await call()
                except (JobsError, httpx.HTTPError) as e:
                    error = f"{type(e).__name__}: {e}"
                finally:
                    calls.append((started, time.monotonic() - started, error))
                await asyncio.sleep(_PAUSE)
                if reconnect:
                    break


@asynccontextmanager
async def other_tenant_calls(address: str, *options: str) -> AsyncIterator[list[Call]]:
    """Run this module within the block; the list of calls is filled when the block ends."""
    calls: list[Call] = []
    async with python("bench.hostile.other_tenant", address, *options) as process:
        yield calls
        process.terminate()
        calls += [tuple(call) for call in json.loads(await read_line(process))]
        await process.wait()


def milliseconds(calls: list[Call]) -> list[float]:
    """Return how long the calls without an error took."""
    return [1000 * seconds for _, seconds, error in calls if not error]


async def _main(address: str, *options: str) -> None:
    def connect() -> AbstractAsyncContextManager[_Call]:
        return _rest_client(address, *options) if "gateway" in options else _grpc_client(address)

    async with connect() as call:
        await call()  # a warm-up
    calls: list[Call] = []
    calling = asyncio.create_task(
        _call_repeatedly(connect, calls, reconnect="reconnect" in options)
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, calling.cancel)
    print("calling", flush=True)
    await asyncio.wait([calling])
    if not calling.cancelled():
        calling.result()
    print(json.dumps(calls), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
