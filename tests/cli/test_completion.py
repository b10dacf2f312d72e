"""Completion in the shell: what argcomplete answers, and real shells that ask it."""

import asyncio
import io
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
from argcomplete.finders import CompletionFinder

from jobs_grpc.cli import completion
from jobs_grpc.cli.program import _parser
from tests.support.callers import Operator
from tests.support.cli import Shell
from tests.support.database import Database
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

_COMMAND = Path(sys.executable).with_name("jobs-grpc")


@pytest.fixture(scope="module")
async def operator(database: Database, server: Server) -> Operator:
    """An operator with the jobs "north-1" and "old-1", which no test changes."""
    operator = server.operator(f"tenant-{uuid.uuid4().hex[:12]}")
    await database.add_devices(operator.tenant, ["pump-1", "pump-2"], group="north")
    await operator.create(job_id="old-1", target_group_id="north")
    await operator.cancel("old-1")
    await operator.create(job_id="north-1", target_all=True)
    await database.add_devices(operator.tenant, ["valve"], group="south")
    return operator


@pytest.fixture
def environ(server: Server, operator: Operator, config_file: Path) -> dict[str, str]:
    return {
        "PATH": f"{_COMMAND.parent}:{os.environ['PATH']}",
        "HOME": str(config_file.parent),
        "XDG_CONFIG_HOME": os.environ["XDG_CONFIG_HOME"],
        "TERM": "xterm",
        "JOBS_SERVER": server.address,
        "JOBS_TENANT": operator.tenant,
    }


async def complete(line: str, environ: dict[str, str], seconds: float = TIMEOUT) -> Sequence[str]:
    """Return the completions of a line, as the scripts of all shells ask for them.

    The server has some seconds to answer.
    """
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    answer = io.StringIO()
    finder = CompletionFinder()
    answers = partial(finder, output_stream=answer, exit_method=lambda _: None)
    with (
        mock.patch.dict(os.environ, environ | asked, clear=True),
        mock.patch("argcomplete.autocomplete", answers),
        # The descriptors 8 and 9 are not those of a shell.
        mock.patch.object(finder, "_init_debug_stream"),
        mock.patch("argcomplete.io.debug_stream", sys.stderr),
        mock.patch.object(completion, "_TIMEOUT_SECONDS", seconds),
    ):
        await asyncio.to_thread(completion.complete, _parser())
    return [found.strip() for found in answer.getvalue().split("\n")]


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("jobs-grpc ca", ["cancel"]),
        ("jobs-grpc who", ["whoami"]),
        ("jobs-grpc list --awa", ["--awaiting-approval"]),
        ("jobs-grpc list -o js", ["json", "jsonl"]),
        ("jobs-grpc list --columns job,stat", ["job,status"]),
        ("jobs-grpc get ", ["north-1", "old-1"]),
        ("jobs-grpc cancel ", ["north-1"]),
        ("jobs-grpc delete ", ["old-1"]),
        ("jobs-grpc create --type re", ["reboot"]),
        ("jobs-grpc create --group ", ["north", "south"]),
        ("jobs-grpc create --group s", ["south"]),
        ("jobs-grpc create --device pump-", ["pump-1", "pump-2"]),
        ("jobs-grpc devices get pump-1", ["pump-1"]),
        ("jobs-grpc devices label valve pu", ["pump-1", "pump-2"]),
        ("jobs-grpc attempts north-1 p", ["pump-1", "pump-2"]),
        ("jobs-grpc cancel north-1 --device ", ["pump-1", "pump-2"]),
        ("jobs-grpc events --type job.pa", ["job.paused"]),
        ("jobs-grpc history j --type pa", ["paused"]),
        (
            "jobs-grpc webhooks create https://a --type stage",
            ["stage_opened", "stage_approved", "stage_rejected"],
        ),
        ("jobs-grpc events --job nor", ["north-1"]),
        ("jobs-grpc history ol", ["old-1"]),
        ("jobs-grpc get --tenant nobody n", [""]),
        ("jobs-grpc get --server 127.0.0.1:1 n", [""]),
        ("jobs-grpc get --context nowhere n", [""]),
    ],
    ids=str,
)
async def test_completions_come_from_parsers_and_server(
    environ: dict[str, str], line: str, completions: list[str]
) -> None:
    found = await complete(line, environ)

    # Options follow the ids that a positional argument can have.
    assert [c for c in found if not c.startswith("-")] == completions or found == completions


async def test_completion_is_empty_when_server_does_not_answer(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        found = await complete("jobs-grpc get n", environ | {"JOBS_SERVER": address}, seconds=0.1)

    assert found == [""]


async def test_completion_uses_the_context(
    environ: dict[str, str], shell: Shell, server: Server, operator: Operator
) -> None:
    await shell(
        *("context", "set", "prod"), *("--server", server.address, "--tenant", operator.tenant)
    )
    for name in ("JOBS_SERVER", "JOBS_TENANT"):
        environ.pop(name)

    assert await complete("jobs-grpc delete ol", environ) == ["old-1"]
    assert await complete("jobs-grpc context use p", environ) == ["prod"]
    assert await complete("jobs-grpc list --context p", environ) == ["prod"]


_BASH = """
eval "$(jobs-grpc completion bash)"
COMP_LINE="jobs-grpc cancel nor" COMP_POINT=20 COMP_WORDS=(jobs-grpc cancel nor) COMP_CWORD=2
COMP_TYPE=9
$(complete -p jobs-grpc | sed 's/.*-F \\([^ ]*\\).*/\\1/') jobs-grpc nor cancel
printf '%s\\n' "${COMPREPLY[@]}"
"""

_ZSH = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'autoload -U compinit; compinit -u -d $HOME/.zcompdump; PS1=""'
zpty -w z 'eval "$(jobs-grpc completion zsh)"; print rea""dy'
zpty -r z shown '*ready*'
zpty -n -w z $'jobs-grpc cancel nor\\t'
zpty -r z shown '*north-1*' && print -r -- north-1
zpty -d z
"""

_FISH = """
jobs-grpc completion fish | source
complete --do-complete 'jobs-grpc cancel nor'
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "arguments", "script"),
    [("bash", ["--norc", "-c"], _BASH), ("zsh", ["-f", "-c"], _ZSH), ("fish", ["-c"], _FISH)],
    ids=["bash", "zsh", "fish"],
)
async def test_shell_completes_the_id_of_a_job(
    environ: dict[str, str], program: str, arguments: list[str], script: str
) -> None:
    if not (shutil.which(program) or os.environ.get("CI")):
        pytest.skip(f"{program} is not installed")
    result = await asyncio.to_thread(
        subprocess.run,
        [program, *arguments, script],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.stdout.split() == ["north-1"], result.stderr
