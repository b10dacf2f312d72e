"""`jobs-grpc completion`, and the values of arguments that shells complete."""

import argparse
import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any, TypeAlias

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.command import Subparsers
from jobs_grpc.cli.connection import connect
from jobs_grpc.cli.contexts import load_contexts
from jobs_grpc.cli.errors import CliError
from jobs_grpc.client import EventsClient, FleetClient, JobsClient, RetryPolicy


def add_command(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "completion",
        help="print the script that completes commands in a shell",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        examples=(
            'eval "$(jobs-grpc completion bash)"',
            "jobs-grpc completion fish > ~/.config/fish/completions/jobs-grpc.fish",
        ),
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    parser.set_defaults(run=_completion)


_DESCRIPTION = """\
Print a script that completes commands, options, and the IDs of jobs, devices
and groups that the server knows. IDs of jobs come from the 200 newest jobs.
IDs of devices come from the job in the command, or else from the first 1,000
devices with the typed prefix; groups from the first 50.

  bash    eval "$(jobs-grpc completion bash)"    in ~/.bashrc
  zsh     eval "$(jobs-grpc completion zsh)"     in ~/.zshrc, after compinit
  fish    jobs-grpc completion fish > ~/.config/fish/completions/jobs-grpc.fish
"""


def _completion(args: argparse.Namespace) -> None:
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError:
        raise CliError('completion needs `pip install "jobs-grpc[cli]"`') from None
    print(shellcode(["jobs-grpc"], shell=args.shell))


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell's request for completions, and exit."""
    try:
        import argcomplete
    except ImportError:
        raise SystemExit(1) from None
    default: Any = complete_argument
    argcomplete.autocomplete(parser, always_complete_options="long", default_completer=default)


_Find: TypeAlias = Callable[[Any], AsyncIterable[Any]]

# A key press must not hang: if the server does not respond in this time, nothing is completed.
_TIMEOUT_SECONDS = 1.0

# One call returns at most this many, which are enough to choose from.
_MAX_JOBS = 200
_MAX_EXECUTIONS = 1000
_MAX_DEVICES = 1000
_MAX_GROUPS = 50  # Few, because the server counts the devices of each listed group.

_ACTIVE = (pb.Job.IN_PROGRESS, pb.Job.PAUSED, pb.Job.SCHEDULED)

# Job statuses that each command accepts; commands not listed accept any.
_STATUSES = {
    "pause": (pb.Job.IN_PROGRESS, pb.Job.SCHEDULED),
    "resume": (pb.Job.PAUSED,),
    "advance": (pb.Job.IN_PROGRESS, pb.Job.PAUSED),
    "delete": (pb.Job.COMPLETED, pb.Job.CANCELED),
    **dict.fromkeys(("approve", "cancel", "reject", "update"), _ACTIVE),
}


def complete_argument(
    prefix: str,
    action: argparse.Action,
    parser: argparse.ArgumentParser,
    parsed_args: argparse.Namespace,
    **_: Any,
) -> Iterable[str]:
    """Return the values of an argument that has no completer of its own, for argcomplete.

    Fails silently: an error message would be printed into the line that the user types.
    """

    try:
        if action.dest in ("context", "name"):
            return load_contexts().by_name
        found = _find(action, parser.prog.rpartition(" ")[2], parsed_args, prefix)
        if found is None:
            from argcomplete.completers import FilesCompleter

            return FilesCompleter()(prefix)
        values = asyncio.run(_ask(parsed_args, *found))
        return [value for value in dict.fromkeys(values) if value]
    except Exception:
        return []


async def _ask(args: argparse.Namespace, client: Any, field: str, find: _Find) -> list[str]:
    async with (
        asyncio.timeout(_TIMEOUT_SECONDS),
        connect(args, RetryPolicy(max_attempts=1), client) as opened,
    ):
        return [getattr(item, field) async for item in find(opened)]


def _find(
    action: argparse.Action, command: str, args: argparse.Namespace, prefix: str
) -> tuple[Any, str, _Find] | None:
    """Return the client, the field and the call that find the values of an argument.

    None if the server does not know them.
    """
    match action.dest:
        case "job_id" | "job_ids" if "--job-id" not in action.option_strings:
            statuses = _STATUSES.get(command, ())
            return JobsClient, "job_id", lambda jobs: jobs.list(statuses=statuses, limit=_MAX_JOBS)
        # "devices_and_labels" are the arguments of `devices label`.
        case "device" | "device_id" | "device_ids" | "target_device_id" | "devices_and_labels":
            job_id = getattr(args, "job_id", None)
            job_ids = [job_id] if job_id else getattr(args, "job_ids", None)
            if job_ids:
                return JobsClient, "device_id", lambda jobs: _executions(jobs, job_ids)
            page = {"page_size": _MAX_DEVICES, "limit": _MAX_DEVICES}
            return FleetClient, "device_id", lambda f: f.devices(device_id_prefix=prefix, **page)
        case "group" | "target_group_id" | "set_groups":
            page = {"page_size": _MAX_GROUPS, "limit": _MAX_GROUPS}
            return FleetClient, "group_id", lambda f: f.groups(group_id_prefix=prefix, **page)
        case "webhook_id":
            return EventsClient, "webhook_id", _webhooks
        case "failure_code" | "failure_codes":
            return JobsClient, "failure_code", lambda jobs: _failures(jobs, args.job_id)
        case "document_type" | "created_by" as field:
            return JobsClient, field, lambda jobs: jobs.list(limit=_MAX_JOBS)
    return None


async def _executions(jobs: JobsClient, job_ids: list[str]) -> AsyncIterator[Any]:
    for job_id in job_ids:
        async for execution in jobs.executions(job_id, limit=_MAX_EXECUTIONS):
            yield execution


async def _webhooks(events: EventsClient) -> AsyncIterator[Any]:
    for webhook in await events.list_webhooks():
        yield webhook


async def _failures(jobs: JobsClient, job_id: str) -> AsyncIterator[Any]:
    for failure in (await jobs.failures(job_id)).failures:
        yield failure
