"""`jobs-grpc completion`: prints the script that completes commands in a shell."""

import argparse
from typing import Any

from jobs_grpc.cli.completers import complete_argument
from jobs_grpc.cli.errors import CliError
from jobs_grpc.cli.parser import Subparsers

_DESCRIPTION = """\
Print a script that completes commands, options, and the IDs of jobs, devices
and groups that the server knows. IDs of jobs come from the 200 newest jobs.
IDs of devices come from the job in the command, or else from the first 1,000
devices with the typed prefix; groups from the first 50.

  bash    eval "$(jobs-grpc completion bash)"    in ~/.bashrc
  zsh     eval "$(jobs-grpc completion zsh)"     in ~/.zshrc, after compinit
  fish    jobs-grpc completion fish > ~/.config/fish/completions/jobs-grpc.fish
"""


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
