"""The simulated devices of `jobs-grpc dev --simulate`, in a process of their own."""

import asyncio
import subprocess
import sys

from jobs_grpc.client import JobsClient, JobsError
from jobs_grpc.dev.demo_fleet import DEMO_TENANT, demo_rows
from jobs_grpc.dev.demo_jobs import BAD_RELEASE, create_demo_jobs
from jobs_grpc.dev.simulator.behavior import Bug, DeviceBehavior
from jobs_grpc.dev.simulator.fleet import Fleet, run_fleet
from jobs_grpc.dev.simulator.totals import Totals


def start_simulated_fleet(address: str) -> subprocess.Popen[bytes]:
    """Start the devices of the demo fleet, which carry out its jobs until their stdin is closed.

    The context manager of the result closes stdin, and so does the exit of this process, even if it
    is killed.
    """
    # A session of its own, so that Ctrl-C does not end the devices while the server still drains
    # their calls. -P: modules in the current directory have no effect, as in this process.
    command = [sys.executable, "-P", "-m", __name__, address]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603


async def _simulate(address: str) -> None:
    async with JobsClient(address, tenant=DEMO_TENANT, user="demo") as jobs:
        await create_demo_jobs(jobs)
    fleet = Fleet(
        server=address,
        tenant=DEMO_TENANT,
        device_ids=[row.device_id for row in demo_rows()],
        behavior=DeviceBehavior(
            latency=(3.0, 20.0),
            failure_rate=0.01,
            reject_rate=0.0,
            stall_rate=0.0,
            progress=2,
            # The canaries install the bad release.
            seed=1,
            bugs=[Bug(0.1, "FLASH", BAD_RELEASE)],
        ),
        # At rest, streams cost less than polls.
        poll=False,
        poll_interval=None,
        bridge=False,
        timeout=30.0,
        initial_version="2.0",
    )
    await run_fleet(fleet, Totals())


async def _simulate_until_stdin_closes(address: str) -> None:
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin
    )
    simulating = asyncio.create_task(_simulate(address))
    closed = asyncio.create_task(stdin.read())
    await asyncio.wait({simulating, closed}, return_when=asyncio.FIRST_COMPLETED)
    if simulating.done():
        simulating.result()
    simulating.cancel()
    await asyncio.gather(simulating, return_exceptions=True)


if __name__ == "__main__":
    try:
        asyncio.run(_simulate_until_stdin_closes(sys.argv[1]))
    except* JobsError as failures:
        sys.exit(f"The simulated fleet has stopped: {failures.exceptions[0]}")
