"""`jobs-grpc serve`: serves on an existing database."""

import argparse
import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import FrameType

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import Subparsers, add_local_command
from jobs_grpc.config import Config
from jobs_grpc.config.reference import help_text
from jobs_grpc.config.unknown import unknown_variables
from jobs_grpc.observability import logs, tracing
from jobs_grpc.server.signals import handle_stop_signals

logger = logging.getLogger(__name__)


def add_command(commands: Subparsers) -> None:
    parser = add_local_command(
        commands,
        "serve",
        _serve,
        epilog=help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_setting_options(parser)


def add_setting_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that override settings of the environment."""
    helps = {
        "--insecure-metadata": "set JOBS_INSECURE_METADATA=true",
        "--workers N": "set JOBS_WORKERS=N",
    }
    arguments.add_options(parser, helps, N=arguments.worker_count)


def read_config(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Config:
    """Read the settings from the environment and from `add_setting_options`.

    Raises ConfigError.
    """
    flags = {"JOBS_INSECURE_METADATA": "true"} if args.insecure_metadata else {}
    if args.workers is not None:
        flags["JOBS_WORKERS"] = str(args.workers)
    return Config.from_env({**environ, **flags})


def serve(config: Config, on_serving: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. Calls `on_serving` with the address when it is ready.

    Raises KeyboardInterrupt if a second signal canceled calls in flight.
    """
    # Other commands do not need the server, which takes a while to import.
    from jobs_grpc.server import app, event_loop, supervisor

    logs.configure_logging(config.log.level, config.log.format)
    for warning in unknown_variables(os.environ):
        logger.warning("%s", warning)
    # With several workers, each of them exports its spans.
    exporting = tracing.exporting(os.environ) if config.server.workers == 1 else nullcontext()
    try:
        with exporting:
            start = app.serve if config.server.workers == 1 else supervisor.serve
            event_loop.run(config, _until_signal(lambda stop: start(config, stop, on_serving)))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _until_signal(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    with _stop_on_signal(stop):
        await serve(stop)


def _stop_on_signal(stop: asyncio.Event) -> AbstractContextManager[None]:
    """Set `stop` on the first signal and cancel the current task on the next one.

    The event loop's own signal handlers would reset SIGTERM to its default afterwards.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - coroutines run in tasks

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(task.cancel if stop.is_set() else stop.set)

    return handle_stop_signals(on_signal)


def _serve(args: argparse.Namespace) -> None:
    """Serve on the database of JOBS_DATABASE_URL.

    SIGTERM or Ctrl-C stops the server. Calls in flight then have
    JOBS_SHUTDOWN_GRACE seconds to finish; a second signal cancels them immediately.

    JOBS_DATABASE_URL=postgresql://jobs_request@db/jobs jobs-grpc serve
    jobs-grpc serve --workers 4
    """
    serve(read_config(args), on_serving=lambda address: None)
