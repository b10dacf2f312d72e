"""`jobs-grpc serve`: the service on a database that is there already."""

import argparse
import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import TYPE_CHECKING

from jobs_grpc import logs
from jobs_grpc.cli import arguments
from jobs_grpc.config import Config
from jobs_grpc.config.reference import help_text
from jobs_grpc.server import app, supervisor
from jobs_grpc.server.signals import handling

if TYPE_CHECKING:
    from jobs_grpc.cli.output import Commands


def add_commands(commands: "Commands") -> None:
    """Add `serve`."""
    parser = commands.add_parser(
        "serve",
        help="serve on the database of JOBS_DATABASE_URL",
        description="Serve on the database of JOBS_DATABASE_URL until SIGTERM or SIGINT. Calls "
        "in flight may then go on for JOBS_SHUTDOWN_GRACE; a second signal ends them at once.",
        epilog=help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--insecure-metadata",
        action="store_true",
        help="as JOBS_INSECURE_METADATA=true",
    )
    parser.add_argument(
        "--workers",
        type=arguments.worker_count,
        metavar="N",
        help="processes; JOBS_WORKERS if not given",
    )
    parser.set_defaults(run=_serve)


def serve(config: Config, on_serving: Callable[[str], None]) -> None:
    """Serve until a signal says stop; `on_serving` is called once, with the address, when ready."""
    logs.configure_logging(config.log.level, config.log.format)
    try:
        asyncio.run(_until_signal(config, on_serving))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _signals(stop: asyncio.Event) -> AbstractContextManager[None]:
    """Let the first signal set `stop`, and a further one cancel the present task.

    Not with the loop's own handlers: they would leave SIGTERM with its default afterwards.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - coroutines run in tasks

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(task.cancel if stop.is_set() else stop.set)

    return handling(on_signal)


async def _until_signal(config: Config, on_serving: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    serve = app.serve if config.server.workers == 1 else supervisor.serve
    with _signals(stop):
        await serve(config, stop, on_serving)


def _serve(args: argparse.Namespace) -> None:
    flags = {"JOBS_INSECURE_METADATA": "true"} if args.insecure_metadata else {}
    if args.workers is not None:
        flags["JOBS_WORKERS"] = str(args.workers)
    serve(Config.from_env(os.environ | flags), on_serving=lambda address: None)
