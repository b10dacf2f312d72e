"""Load by h2load, for both protocols, and proof that every answer was one.

h2load counts what gRPC refuses as success: it sees status 200. But an answer that carries an
error carries no message, so the bytes of the answers tell: a run is void unless they are what
as many good answers have. Besides, single calls during the run are looked at.
"""

import asyncio
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.calls import Call, Void

# Seconds between the calls that are looked at.
_SAMPLE_INTERVAL = 0.2

_FRAME = 5


@dataclass(frozen=True)
class Load:
    """What a run came to; latencies are seconds."""

    calls: int
    rate: float
    median: float
    p99: float


def h2load_version() -> str:
    """Its version; SystemExit says what to install."""
    if shutil.which("h2load") is None:
        raise SystemExit(
            "h2load is needed: apt-get install nghttp2-client (or brew install nghttp2)"
        )
    said = subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=True)  # noqa: S607
    return said.stdout.split("/")[-1].strip()


async def load(
    call: Call,
    *,
    seconds: float,
    clients: int = 16,
    rate: float | None = None,
    check: Callable[[bytes], bool] = lambda body: True,
    varies: int = 0,
) -> Load:
    """Make the call for about so long, after a warm-up; each client waits for its answer.

    `rate` limits the calls a second, of all clients together. `check` looks at answers, which
    may differ by up to `varies` bytes. Raises Void.
    """
    expected = (await call.once()).body
    if not check(expected):
        raise Void(f"{call.path} answered {expected[:200]!r}")
    warm = await _run(call, clients * 4, clients, None)
    warm = await _run(call, max(clients, int(warm.rate * min(1.0, seconds / 2))), clients, None)
    count = max(clients, int(min(warm.rate, rate or warm.rate) * seconds))
    sampling = asyncio.create_task(_sample(call, check))
    try:
        measured = await _run(call, count, clients, rate)
    finally:
        sampling.cancel()
        with suppress(asyncio.CancelledError):
            await sampling
    size = len(expected) + (0 if call.is_http1 else _FRAME)
    if not (size - varies) * count <= measured.data <= (size + varies) * count:
        raise Void(f"{call.path}: {measured.data} bytes are not {count} answers of {size}")
    return Load(count, measured.rate, measured.median, measured.p99)


async def _sample(call: Call, check: Callable[[bytes], bool]) -> None:
    while True:
        body = (await call.once()).body
        if not check(body):
            raise Void(f"{call.path} answered {body[:200]!r}")
        await asyncio.sleep(_SAMPLE_INTERVAL)


@dataclass(frozen=True)
class _Run:
    rate: float
    median: float
    p99: float
    data: int


async def _run(call: Call, count: int, clients: int, rate: float | None) -> _Run:
    with tempfile.TemporaryDirectory(prefix="jobs-bench-h2load-") as name:
        log, body = Path(name) / "log", Path(name) / "body"
        command = ["h2load", f"-n{count}", f"-c{clients}", "-t1", "-m1", f"--log-file={log}"]
        if call.is_http1:
            command.append("--h1")
        if rate is not None:
            command.append(f"--rps={max(1, round(rate / clients))}")
        if call.body is not None:
            body.write_bytes(call.body)
            command.append(f"--data={body}")
        for header, value in call.headers.items():
            command.append(f"--header={header}: {value}")
        process = await asyncio.create_subprocess_exec(
            *command,
            f"http://{call.address}{call.path}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out = (await process.communicate())[0].decode()
        return _parse(out, count, log.read_text())


def _parse(out: str, count: int, log: str) -> _Run:
    done = re.search(r"finished in .*?, ([\d.]+) req/s", out)
    status = re.search(r"status codes: (\d+) 2xx", out)
    data = re.search(r"\((\d+)\) data", out)
    if not done or not status or not data or int(status[1]) != count:
        raise Void(out)
    taken = sorted(int(line.split("\t")[2]) / 1e6 for line in log.splitlines())
    if len(taken) != count:
        raise Void(f"{len(taken)} of {count} calls were logged")
    return _Run(
        float(done[1]),
        taken[len(taken) // 2],
        taken[min(len(taken) - 1, len(taken) * 99 // 100)],
        int(data[1]),
    )
