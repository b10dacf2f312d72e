"""Call GetJob at a constant rate, as several tenants in turn.

`python -m bench.tenant_calls ADDRESS RATE SECONDS TENANT...` starts RATE calls a second whether or
not earlier ones have ended. Prints a line when it is connected, and then how long each call took,
in milliseconds, as a line of JSON.
"""

import asyncio
import json
import sys
import time
from itertools import cycle

import grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from bench.process import OWN_CONNECTIONS
from tests.harness.calls import Calls

# Calls go to several connections, as those of several services would.
_CONNECTIONS = 8

# Seconds after which a call fails, and the run with it.
_TIMEOUT = 20


async def _main(address: str, rate: str, seconds: str, *tenants: str) -> None:
    channels = [grpc.aio.insecure_channel(address, OWN_CONNECTIONS) for _ in range(_CONNECTIONS)]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    print("connected", flush=True)
    milliseconds: list[float] = []

    async def call(connection: Calls, tenant: str, due: float) -> None:
        await connection.call(pb.GetJobRequest(job_id="j"), tenant, deadline=_TIMEOUT)
        milliseconds.append(1000 * (time.monotonic() - due))

    calls: set[asyncio.Task[None]] = set()
    began = time.monotonic()
    connections = cycle(map(Calls, channels))
    for number, (connection, tenant) in enumerate(zip(connections, cycle(tenants), strict=False)):
        due = began + number / int(rate)
        if due > began + float(seconds):
            break
        await asyncio.sleep(max(0, due - time.monotonic()))
        calls.add(asyncio.create_task(call(connection, tenant, due)))
    await asyncio.gather(*calls)
    print(json.dumps(milliseconds), flush=True)
    await asyncio.gather(*(channel.close() for channel in channels))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
