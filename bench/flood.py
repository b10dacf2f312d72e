"""Flood a server with h2load: calls without a pause, also after refusals."""

import asyncio
import re
import tempfile
from pathlib import Path

from bench.requests import Call
from bench.run import InvalidRun

_FRAME_HEADER = 5  # bytes before each gRPC message


async def run_flood(
    call: Call,
    *,
    connections: int,
    streams: int,
    ramp_up: float,
    seconds: float,
    response_bytes: int,
) -> float:
    """Send the call on `streams` streams of each connection; return successful calls per second.

    Counts them for `seconds`, after `ramp_up` seconds. h2load counts a refused call as a success,
    but it carries no message: so calls are counted by the size of all messages, of which each has
    `response_bytes`. Raises InvalidRun.
    """
    with tempfile.TemporaryDirectory(prefix="jobs-bench-flood-") as name:
        body = Path(name) / "body"
        body.write_bytes(call.body or b"")
        process = await asyncio.create_subprocess_exec(
            *("nice", "-n19", "h2load", f"-c{connections}", f"-m{streams}", "-t1"),
            *(f"-D{seconds * 1000:.0f}ms", f"--warm-up-time={ramp_up * 1000:.0f}ms"),
            *(f"--header={header}: {value}" for header, value in call.headers.items()),
            *(f"--data={body}", call.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            out = (await process.communicate())[0].decode()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
    data = re.search(r"\((\d+)\) data", out)
    if data is None:
        raise InvalidRun(out)
    return int(data[1]) / (response_bytes + _FRAME_HEADER) / seconds
