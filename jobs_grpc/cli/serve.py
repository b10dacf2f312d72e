"""`jobs-grpc serve`: serves on an existing database."""

import argparse
import os
from collections.abc import Mapping

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import Subparsers, add_local_command
from jobs_grpc.config import Config
from jobs_grpc.config.reference import help_text


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


def _serve(args: argparse.Namespace) -> None:
    """Serve on the database of JOBS_DATABASE_URL.

    SIGTERM or Ctrl-C stops the server. Calls in flight then have
    JOBS_SHUTDOWN_GRACE seconds to finish; a second signal cancels them immediately.

    JOBS_DATABASE_URL=postgresql://jobs_request@db/jobs jobs-grpc serve
    jobs-grpc serve --workers 4
    """
    # Other commands do not need the server, which takes a while to import.
    from jobs_grpc.server.run import serve

    serve(read_config(args), on_serving=lambda address: None)
