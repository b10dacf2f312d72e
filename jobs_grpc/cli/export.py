"""`jobs-grpc export`: writes all executions of a job as CSV or JSON Lines."""

import argparse
import os
import stat
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.errors import InvalidInput
from jobs_grpc.cli.executions import JOB_EXECUTIONS, add_job_filters, note_canceled, read_filters
from jobs_grpc.cli.files import replacing_file, reporting_write_errors
from jobs_grpc.cli.formatting import format_number
from jobs_grpc.cli.listing import RowWriter
from jobs_grpc.cli.output import progress_line
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.client import JobsClient
from jobs_grpc.server.signals import interrupt_on_stop_signals
from jobs_grpc.text import escape_unprintable

_PAGE_SIZE = 5000


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(
        commands, "export JOB [--to FILE]", _export, formats=("csv", "jsonl")
    )
    # Unset, so that the name of the file can choose the format.
    parser.set_defaults(output=None)
    help_text = "write to this file; *.jsonl gets JSON Lines (default: standard output)"
    arguments.add_options(parser, {"--to FILE": help_text})
    add_job_filters(parser)
    JOB_EXECUTIONS.add_options(parser)


async def _export(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Write all executions of a job as CSV or JSON Lines.

    Write all executions of a job, or those that match the filters, as CSV or JSON Lines. Each row
    shows its execution at the time when its page is read. With --to, the file appears when it is
    complete.

    jobs-grpc export reboot-1 --to reboot-1.csv
    jobs-grpc export reboot-1 -o jsonl --status FAILED | jq .failure_code
    """
    if args.output is None:
        args.output = "jsonl" if args.to and args.to.endswith((".jsonl", ".ndjson")) else "csv"
    if args.to is None:
        await _write_pages(args, jobs, sys.stdout)
        note_canceled(args)
        return
    path = Path(args.to)
    mode = _mode_of_destination(path)
    with (
        interrupt_on_stop_signals(),
        replacing_file(path, mode) as file,
        progress_line() as show,
    ):
        count = await _write_pages(args, jobs, file, path, show)
    print(f"exported {format_number(count, 'execution')} to {escape_unprintable(args.to)}")
    note_canceled(args)


def _mode_of_destination(path: Path) -> int:
    """Return the mode of the file to replace or create. Raises CliError if it is not a file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
    except OSError as e:
        raise InvalidInput(f"can't write {path}: {e.strerror}") from None
    if stat.S_ISREG(mode):
        return stat.S_IMODE(mode)
    if stat.S_ISDIR(mode):
        problem = "it is a folder; name a file in it"
    elif stat.S_ISLNK(mode):
        problem = "it is a symbolic link; remove it or name another file"
    else:
        problem = "it is not a regular file; without --to, rows go to standard output"
    raise InvalidInput(f"can't write {path}: {problem}")


async def _write_pages(
    args: argparse.Namespace,
    jobs: JobsClient,
    file: TextIO,
    path: Path | None = None,
    show: Callable[[str], None] | None = None,
) -> int:
    """Write the executions, and return how many there are.

    Errors of writing name `path`, unless it is None: standard output. `show` gets the progress.
    """
    pager = jobs.executions(**read_filters(args), page_size=_PAGE_SIZE)
    writer = RowWriter(args, JOB_EXECUTIONS, file)
    count = 0
    async for page in pager.pages():
        with reporting_write_errors(path) if path else nullcontext():
            writer.write(page)
            file.flush()
        count += len(page)
        if show:
            show(f"{count:,} executions")
    return count
