"""`jobs-grpc context`: manages contexts, which name servers and callers."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import Subparsers, add_local_command, add_target_options
from jobs_grpc.cli.connection import VARIABLES, read_token_file, resolve_target, target_options
from jobs_grpc.cli.contexts import (
    FIELDS,
    TOKEN_SETTINGS,
    Values,
    check_context,
    find_context,
    load_contexts,
    save_contexts,
)
from jobs_grpc.cli.errors import InvalidInput
from jobs_grpc.cli.output import add_output_options, print_json, print_lines, print_note
from jobs_grpc.cli.tables import Column, print_table
from jobs_grpc.config import DEFAULT_ADDRESS

_DESCRIPTION = """\
A context names a server, a tenant, a user, a token and TLS files, so that commands need no
options for them: `jobs-grpc context set prod --server jobs.example.com:443 --tls --tenant acme`.
Options take precedence over environment variables, and environment variables over the context.
Contexts are stored in jobs-grpc/config.toml in $XDG_CONFIG_HOME (default: ~/.config).
"""

_PATHS = ("ca", "cert", "key", "token_file")
_FORMATS = ("table", "json", "jsonl")


def add_command(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "context", help="manage contexts, which name servers and callers", description=_DESCRIPTION
    )
    subcommands = parser.add_commands()
    add_output_options(add_local_command(subcommands, "list", _list), _FORMATS)
    _add(subcommands, "use NAME", _use)
    add_output_options(_add(subcommands, "show [NAME]", _show), _FORMATS)
    setter = _add(subcommands, "set NAME", _set)
    group = setter.add_argument_group("settings")
    add_target_options(group, stored=True)
    arguments.add_options(
        group, {"--token-env VARIABLE": "environment variable that holds the token"}
    )
    setter.add_argument(
        "--unset",
        action="append",
        default=[],
        choices=FIELDS,
        metavar="SETTING",
        help=f"remove a setting: {', '.join(FIELDS)}",
    )
    _add(subcommands, "delete NAME", _delete)


def _add(commands: Subparsers, usage: str, run: Callable[[Namespace], None]) -> ArgumentParser:
    parser = add_local_command(commands, usage, run)
    optional = usage.endswith("]")
    help_text = f"name of the context{' (default: the current one)' if optional else ''}"
    parser.add_argument("name", nargs="?" if optional else None, metavar="NAME", help=help_text)
    return parser


def _list(args: Namespace) -> None:
    """List the contexts.

    jobs-grpc context list
    jobs-grpc context list --json
    """
    contexts = load_contexts()
    rows = [
        {"name": name, "current": name == contexts.current} | _public(values)
        for name, values in sorted(contexts.by_name.items())
    ]
    if args.output == "json":
        print_json({"contexts": rows})
    if args.output == "jsonl":
        for row in rows:
            print_json(row, indent=None)
    if args.output != "table":
        return
    fields = ("name", "server", "tenant", "user", "token")
    print_table(
        [Column(name) for name in ("current", *fields)],
        (["*" * bool(row["current"]), *(str(row.get(f, "-")) for f in fields)] for row in rows),
    )
    if not rows:
        print_note("no contexts; create one with `jobs-grpc context set NAME --server ADDRESS …`")


def _public(values: Values) -> dict[str, object]:
    """Return the settings without the token: only what holds it."""
    shown: dict[str, object] = {key: values[key] for key in values if key not in TOKEN_SETTINGS}
    if "token" in values:
        shown["token"] = "set"  # noqa: S105
    elif "token_env" in values:
        shown["token"] = f"${values['token_env']}"
    elif "token_file" in values:
        path = str(values["token_file"])
        # The name of a file that does not exist can be a token.
        shown["token"] = path if os.access(path, os.F_OK) else "in a file that does not exist"
    return shown


def _use(args: Namespace) -> None:
    """Make a context the current one.

    jobs-grpc context use prod
    jobs-grpc context use local
    """
    contexts = load_contexts()
    values = find_context(contexts, args.name)
    contexts.current = args.name
    save_contexts(contexts)
    print_lines(f"using {args.name}: {_summary(values)}")


def _summary(values: Values) -> str:
    tenant = f", tenant {values['tenant']}" if "tenant" in values else ""
    return f"server {values.get('server', DEFAULT_ADDRESS)}{tenant}"


def _show(args: Namespace) -> None:
    """Show which server and caller commands use, and where that is set.

    jobs-grpc context show
    jobs-grpc context show prod
    """
    if args.name:
        values = find_context(load_contexts(), args.name)
        settings = _public(values)
        sources = dict.fromkeys(settings, f"context {args.name}")
    else:
        target = resolve_target(args)
        settings = _public(target.settings)
        sources = {
            "token": next((target.sources[f] for f in TOKEN_SETTINGS if f in target.settings), "")
        }
        sources |= {name: target.sources[name] for name in settings if name != "token"}
        of_environment = {name for name, source in sources.items() if source == "environment"}
        sources |= {name: f"${VARIABLES[name]}" for name in of_environment}
    if args.output != "table":
        print_json(settings, indent=2 if args.output == "json" else None)
        return
    print_table(
        [Column("setting"), Column("value"), Column("from")],
        ([name, str(value), sources[name]] for name, value in settings.items()),
    )


def _set(args: Namespace) -> None:
    r"""Create or change a context.

    Settings that are not given stay. The first context becomes the current one; `context use` makes
    another one current.

    jobs-grpc context set local --server 127.0.0.1:50051 --tenant demo
    jobs-grpc context set prod --server jobs.example.com:443 --tls \
      --tenant acme --token-file ~/.prod-token
    """
    contexts = load_contexts()
    values = dict(contexts.by_name.get(args.name, {}))
    changes = target_options(args)
    if args.token_env:
        changes["token_env"] = args.token_env
    if args.token_file is not None:
        read_token_file(args.token_file, "option")
    for name in _PATHS:
        if name in changes:
            # Commands in other folders use the context too.
            changes[name] = str(Path(str(changes[name])).absolute())
    if changes.keys() & TOKEN_SETTINGS:
        values = {key: value for key, value in values.items() if key not in TOKEN_SETTINGS}
    values |= changes
    for name in args.unset:
        values.pop(name, None)
    if problem := check_context(args.name, values):
        raise InvalidInput(f"context {args.name}: {problem}")
    contexts.by_name[args.name] = values
    if len(contexts.by_name) == 1:
        contexts.current = args.name
    path = save_contexts(contexts)
    print_lines(f"saved {args.name} in {path}: {_summary(values)}")
    if contexts.current != args.name:
        print(f"to use it, run: jobs-grpc context use {args.name}")


def _delete(args: Namespace) -> None:
    """Delete a context.

    jobs-grpc context delete prod
    jobs-grpc context delete local
    """
    contexts = load_contexts()
    find_context(contexts, args.name)
    del contexts.by_name[args.name]
    if contexts.current == args.name:
        contexts.current = ""
    save_contexts(contexts)
    print(f"deleted {args.name}")
