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
from collections.abc import Callable, Sequence
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
    rate_of_half: float
    """Until half of the calls were answered: all clients were still calling."""
    median: float
    p99: float
    cpu: float
    """A call, if it was asked how busy the server was."""


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
    busy: Callable[[], float] = lambda: 0.0,
) -> Load:
    """Make the call for about so long, after a warm-up; each client waits for its answer.

    `rate` limits the calls a second, of all clients together. `check` looks at answers, which
    may differ by up to `varies` bytes. `busy` says how much CPU has been taken. Raises Void.
    """
    expected = (await call.once()).body
    if not check(expected):
        raise Void(f"{call.path} answered {expected[:200]!r}")
    warm = await _run(call, clients * 4, clients, None)
    warm = await _run(call, max(clients, int(warm.rate * min(1.0, seconds / 2))), clients, None)
    count = max(clients, int(min(warm.rate, rate or warm.rate) * seconds))
    sampling = asyncio.create_task(_sample(call, check))
    before = busy()
    try:
        measured = await _run(call, count, clients, rate)
    finally:
        sampling.cancel()
        taken = busy() - before
        with suppress(asyncio.CancelledError):
            await sampling
    _check_size(call, measured.data, count, expected, varies)
    return Load(
        count,
        measured.rate,
        measured.rate_of_half,
        measured.median,
        measured.p99,
        taken / count,
    )


async def together(
    clients: Sequence[Sequence[Call]], *, answers: int, like: bytes, varies: int = 0
) -> float:
    """Seconds until each client has made its calls, one after another.

    A client is a process of its own, since those of one h2load send one body, and go through
    its URIs in one order. Its calls differ in nothing but their paths. `answers` messages are
    to come, `like` this one, give or take `varies` bytes. Raises Void.
    """
    with _folder() as name:
        folders = [Path(tempfile.mkdtemp(dir=name)) for _ in clients]
        processes = [
            await _start(calls[0], folder, f"-n{len(calls)}", "-c1", "--input-file=-")
            for calls, folder in zip(clients, folders, strict=True)
        ]
        # Each waits for its URIs, so they begin together.
        runs = await asyncio.gather(
            *(
                _end(process, folder, len(calls), "".join(f"{call.url}\n" for call in calls))
                for process, folder, calls in zip(processes, folders, clients, strict=True)
            )
        )
    _check_size(clients[0][0], sum(run.data for run in runs), answers, like, varies)
    return max(run.ended for run in runs) - min(run.began for run in runs)


def _check_size(call: Call, data: int, answers: int, like: bytes, varies: int) -> None:
    size = len(like) + (0 if call.is_http1 else _FRAME)
    if not (size - varies) * answers <= data <= (size + varies) * answers:
        raise Void(f"{call.path}: {data} bytes are not {answers} answers of {size}")


async def _sample(call: Call, check: Callable[[bytes], bool]) -> None:
    while True:
        body = (await call.once()).body
        if not check(body):
            raise Void(f"{call.path} answered {body[:200]!r}")
        await asyncio.sleep(_SAMPLE_INTERVAL)


@dataclass(frozen=True)
class _Run:
    began: float
    ended: float
    rate: float
    rate_of_half: float
    median: float
    p99: float
    data: int


async def _run(call: Call, count: int, clients: int, rate: float | None) -> _Run:
    with _folder() as name:
        options = [f"-n{count}", f"-c{clients}"]
        if rate is not None:
            options.append(f"--rps={max(1, round(rate / clients))}")
        process = await _start(call, Path(name), *options, call.url)
        return await _end(process, Path(name), count)


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="jobs-bench-h2load-")


async def _start(call: Call, folder: Path, *options: str) -> asyncio.subprocess.Process:
    command = ["h2load", *options, "-t1", "-m1", f"--log-file={folder / 'log'}"]
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


async def _end(
    process: asyncio.subprocess.Process, folder: Path, count: int, uris: str = ""
) -> _Run:
    out = (await process.communicate(uris.encode()))[0].decode()
    return _parse(out, count, (folder / "log").read_text())


def _parse(out: str, count: int, log: str) -> _Run:
    done = re.search(r"finished in .*?, ([\d.]+) req/s", out)
    status = re.search(r"status codes: (\d+) 2xx", out)
    data = re.search(r"\((\d+)\) data", out)
    if not done or not status or not data or int(status[1]) != count:
        raise Void(out)
    # When a call began, its status, and how long it took, in microseconds.
    rows = [line.split("\t") for line in log.splitlines()]
    calls = [(int(began) / 1e6, int(took) / 1e6) for began, _, took, *_ in rows]
    if len(calls) != count:
        raise Void(f"{len(calls)} of {count} calls were logged")
    taken = sorted(took for _, took in calls)
    began = min(began for began, _ in calls)
    ended = sorted(began + took for began, took in calls)
    half = (count + 1) // 2
    return _Run(
        began,
        ended[-1],
        float(done[1]),
        half / (ended[half - 1] - began),
        taken[len(taken) // 2],
        taken[min(len(taken) - 1, len(taken) * 99 // 100)],
        int(data[1]),
    )
