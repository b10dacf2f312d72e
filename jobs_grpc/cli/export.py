"""`jobs-grpc export`: writes all executions of a job as CSV or JSON Lines."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import add_client_command, resolve_target
from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.executions import EXECUTION_COLUMNS, add_filters, execution_status
from jobs_grpc.cli.listing import RowWriter, add_listing_options
from jobs_grpc.cli.output import count_progress, print_note
from jobs_grpc.client import JobsClient
from jobs_grpc.text import escape_unprintable

if TYPE_CHECKING:
    from jobs_grpc.cli.arguments import Subparsers

_PAGE_SIZE = 5000

_DESCRIPTION = """\
Write all executions of a job, or those that match the filters, as CSV or JSON
Lines. Each row shows its execution at the time when its page is read.

With --to, the rows go to FILE.part until the export is complete. If the export
is interrupted, --resume continues it.
"""


def add_command(commands: "Subparsers") -> None:
    """Add `export`."""
    parser = add_client_command(
        commands,
        "export",
        _export,
        usage="JOB [--to FILE]",
        summary="write all executions of a job as CSV or JSON Lines",
        formats=("csv", "jsonl"),
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


@dataclass
class _State:
    """The progress of an export. It is stored next to the rows after each page."""

    request: dict[str, object]
    page_token: str = ""
    row_count: int = 0
    size: int = 0
    """The bytes of the complete pages."""


async def _export(args: argparse.Namespace, jobs: JobsClient) -> None:
    if args.output is None:
        args.output = "jsonl" if args.to and args.to.endswith((".jsonl", ".ndjson")) else "csv"
    state = _State(_request(args))
    if args.to is None:
        if args.resume:
            raise CliError("--resume needs --to", ExitCode.USAGE)
        await _write_pages(args, jobs, state, sys.stdout)
        return
    path = Path(args.to)
    if args.resume:
        state = _read_state(path, state.request)
    with _part_file(path, state) as file:
        await _write_pages(args, jobs, state, file)
    executions = "1 execution" if state.row_count == 1 else f"{state.row_count:,} executions"
    print(f"exported {executions} to {escape_unprintable(args.to)}")


def _request(args: argparse.Namespace) -> dict[str, object]:
    """Return the values that must be the same when an export is resumed."""
    target = resolve_target(args)
    names = ("job_id", "status", "failure_code", "output", "columns")
    return {
        "server": target.server,
        "tenant": target.tenant,
        **{name: getattr(args, name) for name in names},
    }


async def _write_pages(
    args: argparse.Namespace, jobs: JobsClient, state: _State, file: TextIO
) -> None:
    total = _expected_count(args, await jobs.get(args.job_id))
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
                if args.to is not None and state.page_token:
                    _save_state(Path(args.to), state, file)
                show(state.row_count)
    except BaseException as e:
        if state.row_count and not isinstance(e, BrokenPipeError):
            rest = f"; continue with --resume --to {args.to}" if args.to is not None else ""
            print_note(f"stopped after {state.row_count:,} executions{rest}")
        raise


def _expected_count(args: argparse.Namespace, job: pb.Job) -> int | None:
    if args.failure_code is not None:
        return None
    if args.status:
        return int(getattr(job.execution_counts, args.status.lower()))
    return job.total_executions


@contextmanager
def _part_file(path: Path, state: _State) -> Iterator[TextIO]:
    """Yield the file for the rows, and rename it to `path` if the block succeeds."""
    part = _part(path)
    try:
        if not state.page_token:
            # It is of an earlier export, whose rows are overwritten.
            _state_file(path).unlink(missing_ok=True)
        with part.open("r+" if state.page_token else "w", encoding="utf-8", newline="") as file:
            if os.fstat(file.fileno()).st_size < state.size:
                raise CliError(
                    f"{part} has lost rows; export again without --resume", ExitCode.USAGE
                )
            # Bytes after the last complete page may be part of an incomplete one.
            file.seek(state.size)
            file.truncate()
            try:
                yield file
            finally:
                file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _state_file(path).unlink(missing_ok=True)
    except OSError as e:
        raise CliError(f"can't write {path}: {e.strerror}") from None
    finally:
        if not _state_file(path).exists():
            part.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _state_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.json")


def _save_state(path: Path, state: _State, file: TextIO) -> None:
    state.size = os.fstat(file.fileno()).st_size
    temporary = path.with_name(f"{path.name}.part.json.new")
    temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
    temporary.replace(_state_file(path))


def _read_state(path: Path, request: dict[str, object]) -> _State:
    file = _state_file(path)
    try:
        state = _State(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CliError(f"nothing to resume: no file {file}", ExitCode.USAGE) from None
    except (OSError, ValueError, TypeError):
        raise CliError(
            f"can't read {file}; export again without --resume", ExitCode.USAGE
        ) from None
    if state.request != request:
        differs = ", ".join(key for key in request if state.request.get(key) != request[key])
        raise CliError(f"{file} belongs to a different export: {differs} differs", ExitCode.USAGE)
    return state
