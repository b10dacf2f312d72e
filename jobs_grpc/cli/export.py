"""`jobs-grpc export`: writes all executions of a job as CSV or JSON Lines."""

import argparse
import sys
from typing import TextIO

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.connection import resolve_target
from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.executions import EXECUTION_COLUMNS, add_filters, execution_status
from jobs_grpc.cli.export_file import ExportFile, ExportState
from jobs_grpc.cli.listing import RowWriter, add_listing_options
from jobs_grpc.cli.output import count_progress, print_note
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.client import JobsClient
from jobs_grpc.text import escape_unprintable

_PAGE_SIZE = 5000

_DESCRIPTION = """\
Write all executions of a job, or those that match the filters, as CSV or JSON
Lines. Each row shows its execution at the time when its page is read.

With --to, the rows go to FILE.part until the export is complete. If the export
is interrupted, --resume continues it.
"""


def add_command(commands: Subparsers) -> None:
    """Add `export`."""
    parser = add_client_command(
        commands,
        "export",
        _export,
        usage="JOB [--to FILE]",
        summary="write all executions of a job as CSV or JSON Lines",
        formats=("csv", "jsonl"),
        examples=(
            "jobs-grpc export reboot-1 --to reboot-1.csv",
            "jobs-grpc export reboot-1 -o jsonl --status FAILED | jq .failure_code",
        ),
    )
    parser.description = _DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    # Unset, so that the name of the file can choose the format.
    parser.set_defaults(output=None)
    arguments.add_job(parser)
    parser.add_argument(
        "--to",
        type=arguments.text,
        metavar="FILE",
        help="write to this file; *.jsonl gets JSON Lines (default: standard output)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted export to the same file"
    )
    add_filters(parser)
    add_listing_options(parser, EXECUTION_COLUMNS)


async def _export(args: argparse.Namespace, jobs: JobsClient) -> None:
    if args.output is None:
        args.output = "jsonl" if args.to and args.to.endswith((".jsonl", ".ndjson")) else "csv"
    request = _request(args)
    if args.to is None:
        if args.resume:
            raise CliError("--resume needs --to", ExitCode.USAGE)
        job = await jobs.get(args.job_id)
        await _write_pages(args, jobs, job, ExportState(request), sys.stdout)
        return
    destination = ExportFile(args.to)
    state = destination.read_state(request) if args.resume else ExportState(request)
    job = await jobs.get(args.job_id)
    created_at = job.created_at.ToJsonString()
    if args.resume and state.job_created_at != created_at:
        raise CliError(
            f"{args.job_id} is another job than the one of the interrupted export: it was created"
            f" at {created_at}, the other at {state.job_created_at};"
            " export again without --resume",
            ExitCode.WRONG_STATE,
        )
    state.job_created_at = created_at
    with destination.writing(state) as file:
        await _write_pages(args, jobs, job, state, file, destination)
    executions = "1 execution" if state.row_count == 1 else f"{state.row_count:,} executions"
    print(f"exported {executions} to {escape_unprintable(args.to)}")


def _request(args: argparse.Namespace) -> dict[str, object]:
    """Return the values that must be the same when an export is resumed."""
    target = resolve_target(args)
    names = ("job_id", "status", "failure_code", "output", "columns", "raw")
    return {
        "server": target.server,
        "tenant": target.tenant,
        **{name: getattr(args, name) for name in names},
    }


async def _write_pages(
    args: argparse.Namespace,
    jobs: JobsClient,
    job: pb.Job,
    state: ExportState,
    file: TextIO,
    destination: ExportFile | None = None,
) -> None:
    total = _expected_count(args, job)
    pager = jobs.executions(
        args.job_id,
        status=execution_status(args),
        failure_code=args.failure_code,
        page_size=_PAGE_SIZE,
        page_token=state.page_token,
    )
    writer = RowWriter(args, EXECUTION_COLUMNS, file, header=not state.page_token)
    try:
        with count_progress(total) as show:
            show(state.row_count)
            async for page in pager.pages():
                writer.write(page)
                file.flush()
                state.page_token = pager.next_page_token
                state.row_count += len(page)
                # Nothing follows the last page: a resumed export would start again.
                if destination and state.page_token:
                    destination.save_state(state, file)
                show(state.row_count)
    except BaseException as e:
        if state.row_count and not isinstance(e, BrokenPipeError):
            rest = f"; continue with --resume --to {args.to}" if destination else ""
            print_note(f"stopped after {state.row_count:,} executions{rest}")
        raise


def _expected_count(args: argparse.Namespace, job: pb.Job) -> int | None:
    if args.failure_code is not None:
        return None
    if args.status:
        return int(getattr(job.execution_counts, args.status.lower()))
    return job.total_executions
