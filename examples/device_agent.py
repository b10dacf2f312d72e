"""Carries out the jobs of one device until it is interrupted.

python examples/device_agent.py 127.0.0.1:50051 demo device-0001
python examples/device_agent.py 127.0.0.1:50052 demo device-0001 ca.crt device.crt device.key

The tenant must have the device: no job targets another one, so its agent would wait forever.
"""

import asyncio
import sys
from pathlib import Path

from fleet.jobs.v1 import device_jobs_pb2 as pb

from jobs_grpc.client import Connection, DeviceClient, JobsError, RetryPolicy, Tls, errors

# Seconds for which a call is tried again: the agent survives an outage of the server this long.
OUTAGE = 3600.0


async def main(server: str, tenant: str, device_id: str, tls: Tls | None) -> None:
    """Wait for executions and carry them out, one after the other."""

    def on_retry(error: JobsError) -> None:
        print(f"calling {server} again: {error}", flush=True)

    retry = RetryPolicy(max_attempts=1_000_000, on_retry=on_retry)
    async with (
        Connection(server, tls=tls) as connection,
        DeviceClient(
            connection, tenant=tenant, device_id=device_id, timeout=OUTAGE, retry=retry
        ) as device,
    ):
        print(f"connecting to {server}", flush=True)
        async for pending in device.watch_pending():
            # carry_out has returned, so nothing runs of the attempts that the server has ended.
            await device.acknowledge(pending.ended_executions)
            if not pending.executions:
                print(
                    f"nothing is pending for {device_id} of {tenant}; waiting for jobs", flush=True
                )
                continue
            while execution := await device.start_next():
                try:
                    await carry_out(device, execution)
                except (
                    errors.ExecutionFinished,
                    errors.ExecutionChanged,
                    errors.ExecutionNotFound,
                ):
                    # An operator canceled the execution or deleted the job, or it timed out.
                    print(f"{execution.job_id} was ended by the server", flush=True)


async def carry_out(device: DeviceClient, execution: pb.DeviceExecution) -> None:
    """Do what the document asks for, and report the result."""
    print(f"{execution.job_id}: {execution.document_type}", flush=True)
    if execution.document_type != "reboot":
        await device.reject(execution, "UNKNOWN_DOCUMENT_TYPE")
        return
    if (await device.progress(execution, {"percent": 50})).cancel_requested:
        await device.accept_cancel(execution)
        print(f"{execution.job_id} was canceled", flush=True)
        return
    try:
        await reboot()
    except OSError as e:
        await device.fail(execution, "REBOOT", {"reason": str(e)})
    else:
        await device.succeed(execution, {"percent": 100})


async def reboot() -> None:
    """Replace this with the work of your device."""


if __name__ == "__main__":
    if len(sys.argv) not in (4, 7):
        sys.exit("usage: device_agent.py SERVER TENANT DEVICE [CA CERTIFICATE KEY]")
    try:
        server, tenant, device_id, *files = sys.argv[1:]
        contents = [Path(file).read_bytes() for file in files]
        tls = Tls(ca=contents[0], certificate=contents[1], key=contents[2]) if files else None
        asyncio.run(main(server, tenant, device_id, tls))
    except JobsError as e:
        sys.exit(str(e))
    except KeyboardInterrupt:
        pass
