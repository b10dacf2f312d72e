"""Generate load with h2load, for both protocols, and check that every call succeeded.

h2load counts a failed gRPC call as a success, because its HTTP status is 200. But a failed call
carries no message, so the total size of the responses shows failures: a run is invalid unless
it equals the size of that many successful responses. Sampled calls during the run are checked
as well.
"""

import asyncio
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from bench.requests import Call
from bench.run import InvalidRun

# Seconds between sampled calls.
_SAMPLE_INTERVAL = 0.2

_FRAME_HEADER = 5  # bytes before each gRPC message


@dataclass(frozen=True)
class Load:
    """The result of a run. Rates are calls per second, times are seconds."""

    start: float
    end: float
    rate: float
    rate_of_first_half: float
    """Measured until half of the calls had finished, while all clients were still calling."""
    p99: float
    """99th percentile of the latencies."""
    data: int
    """Bytes of all responses."""
    cpu: float = 0.0
    """CPU seconds of the server per call, if `cpu_time` was given."""


def h2load_version() -> str:
    """Return h2load's version. Raises SystemExit with the install command if it is missing."""
    if shutil.which("h2load") is None:
        raise SystemExit(
            "h2load is needed: apt-get install nghttp2-client (or brew install nghttp2)"
        )
    output = subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=True)  # noqa: S607
    return output.stdout.split("/")[-1].strip()


async def run_load(
    call: Call,
    *,
    seconds: float,
    clients: int = 16,
    rate: float | None = None,
    size_tolerance: int = 0,
    cpu_time: Callable[[], float] = lambda: 0.0,
) -> Load:
    """Send the call repeatedly for about `seconds`, after a warm-up. Raises InvalidRun.

    Each client has one call at a time. `rate` limits the calls per second of all clients
    together. Response sizes may differ by up to `size_tolerance` bytes. `cpu_time` returns the CPU
    seconds that the server has used so far.
    """
    expected = (await call.send()).body
    warm = await _run_h2load(call, clients * 4, clients, None)
    warm = await _run_h2load(
        call, max(clients, int(warm.rate * min(1.0, seconds / 2))), clients, None
    )
    count = max(clients, int(min(warm.rate, rate or warm.rate) * seconds))
    sampling = asyncio.create_task(_check_samples(call))
    before = cpu_time()
    try:
        measured = await _run_h2load(call, count, clients, rate)
    finally:
        sampling.cancel()
        used = cpu_time() - before
        with suppress(asyncio.CancelledError):
            await sampling
    _check_size(call, measured.data, count, expected, size_tolerance)
    return replace(measured, cpu=used / count)


async def run_clients(
    clients: Sequence[Sequence[Call]],
    *,
    responses: int,
    sample_response: bytes,
    size_tolerance: int = 0,
) -> float:
    """Run the clients at the same time and return the seconds until all have finished.

    Each client is one h2load process that sends its calls one after the other; the clients of a
    single h2load would share one body and one order of URIs. The calls of a client differ only
    in their paths. The run is invalid unless it returns `responses` messages of the size of
    `sample_response`, plus or minus `size_tolerance` bytes. Raises InvalidRun.
    """
    with _folder() as name:
        folders = [Path(tempfile.mkdtemp(dir=name)) for _ in clients]
        processes = [
            await _start_h2load(calls[0], folder, f"-n{len(calls)}", "-c1", "--input-file=-")
            for calls, folder in zip(clients, folders, strict=True)
        ]
        # Each process waits for its URIs on stdin, so all begin at the same time.
        runs = await asyncio.gather(
            *(
                _finish(process, folder, len(calls), "".join(f"{call.url}\n" for call in calls))
                for process, folder, calls in zip(processes, folders, clients, strict=True)
            )
        )
    _check_size(
        clients[0][0], sum(run.data for run in runs), responses, sample_response, size_tolerance
    )
    return max(run.end for run in runs) - min(run.start for run in runs)


async def run_flood(
    call: Call,
    *,
    connections: int,
    streams: int,
    ramp_up: float,
    seconds: float,
    response_bytes: int,
) -> float:
    """Send a gRPC call without a pause on `streams` streams of each connection.

    Returns the successful calls per second, counted for `seconds` after `ramp_up` seconds by the
    size of all messages, of which each has `response_bytes`. Refusals are allowed. Runs at low
    priority. Raises InvalidRun.
    """
    options = (f"-c{connections}", f"-D{seconds * 1000:.0f}ms")
    warm_up = f"--warm-up-time={ramp_up * 1000:.0f}ms"
    with _folder() as name:
        process = await _start_h2load(
            call, Path(name), *options, warm_up, call.url, streams=streams, nice=19
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


def _check_size(
    call: Call, data: int, responses: int, sample_response: bytes, size_tolerance: int
) -> None:
    size = len(sample_response) + (0 if call.is_http1 else _FRAME_HEADER)
    if not (size - size_tolerance) * responses <= data <= (size + size_tolerance) * responses:
        raise InvalidRun(
            f"{call.path}: {data} bytes received, expected {responses} responses of {size} bytes"
        )


async def _check_samples(call: Call) -> None:
    while True:
        await call.send()
        await asyncio.sleep(_SAMPLE_INTERVAL)


async def _run_h2load(call: Call, count: int, clients: int, rate: float | None) -> Load:
    with _folder() as name:
        options = [f"-n{count}", f"-c{clients}"]
        if rate is not None:
            options.append(f"--rps={max(1, round(rate / clients))}")
        process = await _start_h2load(call, Path(name), *options, call.url)
        return await _finish(process, Path(name), count)


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="jobs-bench-h2load-")


async def _start_h2load(
    call: Call, folder: Path, *options: str, streams: int = 1, nice: int = 0
) -> asyncio.subprocess.Process:
    command = ["nice", f"-n{nice}", "h2load", *options, "-t1", f"-m{streams}"]
    if not nice:  # the log of a flood would be large
        command.append(f"--log-file={folder / 'log'}")
    if call.is_http1:
        command.append("--h1")
    if call.body is not None:
        (folder / "body").write_bytes(call.body)
        command.append(f"--data={folder / 'body'}")
    for header, value in call.headers.items():
        command.append(f"--header={header}: {value}")
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def _finish(
    process: asyncio.subprocess.Process, folder: Path, count: int, uris: str = ""
) -> Load:
    out = (await process.communicate(uris.encode()))[0].decode()
    return _parse(out, count, (folder / "log").read_text())


def _parse(out: str, count: int, log: str) -> Load:
    finished = re.search(r"finished in .*?, ([\d.]+) req/s", out)
    status = re.search(r"status codes: (\d+) 2xx", out)
    data = re.search(r"\((\d+)\) data", out)
    if not finished or not status or not data or int(status[1]) != count:
        raise InvalidRun(out)
    # Columns: start, status and duration of a call; microseconds.
    rows = [line.split("\t") for line in log.splitlines()]
    calls = [(int(start) / 1e6, int(duration) / 1e6) for start, _, duration, *_ in rows]
    if len(calls) != count:
        raise InvalidRun(f"{len(calls)} of {count} calls were logged")
    durations = sorted(duration for _, duration in calls)
    start = min(start for start, _ in calls)
    ends = sorted(start + duration for start, duration in calls)
    half = (count + 1) // 2
    return Load(
        start,
        ends[-1],
        float(finished[1]),
        half / (ends[half - 1] - start),
        durations[min(len(durations) - 1, len(durations) * 99 // 100)],
        int(data[1]),
    )
