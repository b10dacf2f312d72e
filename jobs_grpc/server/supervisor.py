"""Runs several server processes (workers) on one port; starts, replaces and stops them.

The kernel spreads connections over the workers, not calls: a connection stays with the worker
that accepted it.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import replace
from multiprocessing.connection import Connection

from jobs_grpc.config import Config, ConfigError
from jobs_grpc.db.readiness import NotIsolated
from jobs_grpc.observability import logs, tracing
from jobs_grpc.server import app, event_loop
from jobs_grpc.server.metrics_extra import require_metrics_extra
from jobs_grpc.server.signals import STOP_SIGNALS
from jobs_grpc.server.sockets import ListenError, reserve_port
from jobs_grpc.server.worker_metrics import WorkerMetrics

logger = logging.getLogger(__name__)

# gRPC does not support forking a process that uses it.
_SPAWN = multiprocessing.get_context("spawn")

# Seconds before a worker is replaced. The delay doubles up to the maximum until a worker runs for
# longer than the stable time.
_FIRST_DELAY = 0.1
_MAX_DELAY = 10.0
_STABLE_SECONDS = 30.0

# The message of a worker that is ready. Its only other message is the exception that ended it.
_SERVING = "serving"


async def serve(config: Config, stop: asyncio.Event, on_serving: Callable[[str], None]) -> None:
    """Serve with JOBS_WORKERS processes until `stop` is set; then all workers drain.

    Calls `on_serving` once, with the address, when all workers are ready. A worker that dies is
    replaced. NotIsolated, ListenError or ConfigError in a worker ends all workers and is raised
    here.
    """
    with (
        reserve_port(config.server.listen) as address,
        _device_port_reserved(config) as config,
    ):
        async with _serving_metrics(config) as metrics:
            config = replace(config, server=replace(config.server, listen=address))
            workers = config.server.workers
            logger.info("starting %d workers on %s", workers, address)
            serving: set[int] = set()

            def on_worker_serving(number: int) -> None:
                if len(serving) < workers:
                    serving.add(number)
                    if len(serving) == workers:
                        on_serving(address)

            try:
                async with asyncio.TaskGroup() as tasks:
                    for number in range(1, workers + 1):
                        tasks.create_task(
                            _keep_worker_running(number, config, stop, on_worker_serving, metrics)
                        )
            except ExceptionGroup as e:
                raise e.exceptions[0] from None


@contextmanager
def _device_port_reserved(config: Config) -> Iterator[Config]:
    """Reserve JOBS_DEVICE_LISTEN, if it is set; yields the settings with the assigned port."""
    if config.devices.listen is None:
        yield config
        return
    with reserve_port(config.devices.listen, "JOBS_DEVICE_LISTEN") as address:
        yield replace(config, devices=replace(config.devices, listen=address))


@asynccontextmanager
async def _serving_metrics(config: Config) -> AsyncIterator[WorkerMetrics | None]:
    """Serve the metrics of all workers; without JOBS_METRICS_LISTEN, yield None."""
    if config.metrics.listen is None:
        yield None
        return
    require_metrics_extra()
    from jobs_grpc.server.metrics_endpoint import serving_metrics

    metrics = WorkerMetrics(config.server.workers)
    async with serving_metrics(config.metrics.listen, metrics.collect) as address:
        logger.info("serving metrics on http://%s/metrics", address)
        yield metrics


async def _keep_worker_running(
    number: int,
    config: Config,
    stop: asyncio.Event,
    on_serving: Callable[[int], None],
    metrics: WorkerMetrics | None,
) -> None:
    delay = 0.0
    while not stop.is_set():
        started = time.monotonic()
        try:
            async with metrics.connected(number) if metrics else nullcontext() as connection:
                exit_status = await _run_worker(number, config, stop, on_serving, connection)
            problem = f"ended with {exit_status}"
        except OSError as e:
            # The host has no room for another process. The other workers still serve.
            problem = f"could not start: {e}"
        if stop.is_set():
            return
        if metrics:
            metrics.worker_replaced(number)
        was_stable = time.monotonic() - started > _STABLE_SECONDS
        delay = _FIRST_DELAY if was_stable or not delay else min(2 * delay, _MAX_DELAY)
        logger.warning("worker %d %s; replacing it in %g s", number, problem, delay)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), delay)


async def _run_worker(
    number: int,
    config: Config,
    stop: asyncio.Event,
    on_serving: Callable[[int], None],
    metrics: socket.socket | None,
) -> str:
    """Run a worker and return its exit status.

    Raises OSError if it cannot start, and the exception that the worker sends.
    """
    process, supervisor_end = _start_worker(number, config, metrics)
    logger.info("worker %d is pid %d", number, process.pid)
    stopping = asyncio.create_task(_send_stop(supervisor_end, stop))
    try:
        with suppress(EOFError, ConnectionError):
            while True:
                message = await _receive(supervisor_end)
                if isinstance(message, Exception):
                    raise message
                on_serving(number)
        return _exit_status(process)
    except asyncio.CancelledError:
        # Canceled by a second signal, or because an exception in another worker ends all workers.
        process.kill()
        raise
    finally:
        stopping.cancel()
        supervisor_end.close()
        process.join()


def _start_worker(
    number: int, config: Config, metrics: socket.socket | None
) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    """Start a process and return it, with the pipe to it. Raises OSError."""
    supervisor_end, worker_end = _SPAWN.Pipe()
    process = _SPAWN.Process(
        target=_worker_main, args=(config, number, worker_end, metrics), daemon=True
    )
    with worker_end:
        try:
            with _signals_blocked():
                process.start()
        except OSError:
            supervisor_end.close()
            raise
    return process, supervisor_end


def _exit_status(process: multiprocessing.process.BaseProcess) -> str:
    process.join()
    code = process.exitcode or 0
    return f"signal {-code}" if code < 0 else f"exit code {code}"


async def _send_stop(worker: Connection, stop: asyncio.Event) -> None:
    await stop.wait()
    with suppress(ConnectionError):
        worker.send("stop")


async def _receive(connection: Connection) -> object:
    """Return the next message. Raises EOFError or ConnectionError if the other process ends."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection.fileno())
    message: object = connection.recv()
    return message


def _worker_main(
    config: Config, number: int, supervisor: Connection, metrics: socket.socket | None
) -> None:
    """The main function of a worker process."""
    logs.configure_logging(config.log.level, config.log.format, worker=number)
    try:
        with tracing.exporting(os.environ):
            event_loop.run(config, _serve_worker(config, number, supervisor, metrics))
    except (NotIsolated, ListenError, ConfigError) as e:
        # A replacement would fail as well. Any other exception is a bug: this worker is replaced.
        supervisor.send(e)


async def _serve_worker(
    config: Config, number: int, supervisor: Connection, metrics: socket.socket | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for stop_signal in STOP_SIGNALS:
        # Terminals and some service managers signal every process of the service.
        loop.add_signal_handler(stop_signal, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    waiting = asyncio.create_task(_wait_for_stop(supervisor, stop))
    await app.serve(
        config,
        stop,
        lambda _: supervisor.send(_SERVING),
        share_port=True,
        run_maintenance=number == 1,  # one worker is enough
        metrics_connection=metrics,
    )
    waiting.cancel()


async def _wait_for_stop(supervisor: Connection, stop: asyncio.Event) -> None:
    """Set `stop` when the supervisor sends "stop" or ends: a worker must not outlive it."""
    with suppress(EOFError, ConnectionError):
        await _receive(supervisor)
    stop.set()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block the stop signals in a process that starts within the block, until it handles them."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
