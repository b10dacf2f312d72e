"""Worker processes: several servers on one port, started, replaced and stopped as one.

The kernel spreads connections over the workers, not calls: a connection stays with the one
that accepted it.
"""

import asyncio
import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection

from jobs_grpc import logs
from jobs_grpc.config import Config, ConfigError
from jobs_grpc.db.readiness import NotIsolated
from jobs_grpc.server import app
from jobs_grpc.server.signals import STOP_SIGNALS
from jobs_grpc.server.sockets import CannotListen, reserved

logger = logging.getLogger(__name__)

# Forking a process that uses gRPC is not supported.
_SPAWN = multiprocessing.get_context("spawn")

# Seconds before a worker is replaced that did not live for long: each time twice as many.
_FIRST_DELAY = 0.1
_MAX_DELAY = 10.0
_LONG = 30.0

# What a worker says when it is ready; otherwise it says the exception that ended it.
_SERVING = "serving"


async def serve(config: Config, stop: asyncio.Event, on_serving: Callable[[str], None]) -> None:
    """Serve with `config.server.workers` processes until `stop` is set; then all of them drain.

    `on_serving` is called once, with the address, when all of them are ready. A worker that
    dies is replaced. What ends a service that has one process ends all of them, and is raised.
    """
    with reserved(config.server.listen) as address:
        config = replace(config, server=replace(config.server, listen=address))
        logger.info("starting %d workers on %s", config.server.workers, address)
        serving: set[int] = set()

        def on_worker_serving(number: int) -> None:
            if len(serving) < config.server.workers:
                serving.add(number)
                if len(serving) == config.server.workers:
                    on_serving(address)

        try:
            async with asyncio.TaskGroup() as keepers:
                for number in range(1, config.server.workers + 1):
                    keepers.create_task(_keep(number, config, stop, on_worker_serving))
        except ExceptionGroup as e:
            raise e.exceptions[0] from None


async def _keep(
    number: int, config: Config, stop: asyncio.Event, on_serving: Callable[[int], None]
) -> None:
    delay = 0.0
    while not stop.is_set():
        started = time.monotonic()
        ended = await _run_worker(number, config, stop, on_serving)
        if stop.is_set():
            return
        lived_long = time.monotonic() - started > _LONG
        delay = _FIRST_DELAY if lived_long or not delay else min(2 * delay, _MAX_DELAY)
        logger.warning("worker %d %s; replaced in %g s", number, ended, delay)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), delay)


async def _run_worker(
    number: int, config: Config, stop: asyncio.Event, on_serving: Callable[[int], None]
) -> str:
    """Run a worker to its end, and say how that came. Raises what it says ended it."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_work, args=(config, number, theirs), daemon=True)
    with _signals_blocked():
        process.start()
    theirs.close()
    logger.info("worker %d is pid %d", number, process.pid)
    stopping = asyncio.create_task(_tell_to_stop(ours, stop))
    try:
        with suppress(EOFError, ConnectionError):
            while True:
                said = await _receive(ours)
                if isinstance(said, Exception):
                    raise said
                on_serving(number)
        return f"ended with {_status(process)}"
    except asyncio.CancelledError:
        # There is no time, or another worker knows that none may go on.
        process.kill()
        raise
    finally:
        stopping.cancel()
        ours.close()
        process.join()


def _status(process: multiprocessing.process.BaseProcess) -> str:
    process.join()
    code = process.exitcode or 0
    return f"signal {-code}" if code < 0 else f"exit code {code}"


async def _tell_to_stop(worker: Connection, stop: asyncio.Event) -> None:
    await stop.wait()
    with suppress(ConnectionError):
        worker.send("stop")


async def _receive(connection: Connection) -> object:
    """The next message. Raises EOFError or ConnectionError when the other side has ended."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection.fileno())
    said: object = connection.recv()
    return said


def _work(config: Config, number: int, parent: Connection) -> None:
    """The process of a worker."""
    logs.configure_logging(config.log.level, config.log.format)
    try:
        asyncio.run(_serve_until_told(config, number, parent))
    except (NotIsolated, CannotListen, ConfigError) as e:
        # Nor would another worker do better. Anything else is a defect, and ends this one.
        parent.send(e)


async def _serve_until_told(config: Config, number: int, parent: Connection) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in STOP_SIGNALS:
        # Also from a terminal, or a manager that signals all processes of a service.
        loop.add_signal_handler(each, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    telling = asyncio.create_task(_until_told(parent, stop))
    await app.serve(
        config,
        stop,
        lambda _: parent.send(_SERVING),
        shares_port=True,
        # One is enough.
        sweeps=number == 1,
    )
    telling.cancel()


async def _until_told(parent: Connection, stop: asyncio.Event) -> None:
    # Without its parent a worker would hold the port, and nobody would stop it.
    with suppress(EOFError, ConnectionError):
        await _receive(parent)
    stop.set()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let a process that is started find the signals blocked until it handles them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
