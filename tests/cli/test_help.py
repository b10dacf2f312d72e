"""Help and hints of the argument parser."""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from jobs_grpc.cli.parser import Parser
from jobs_grpc.cli.program import _parser
from tests.support.cli import Shell


def commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, Parser]]:
    """Yield the name and the parser of each command that has no commands of its own."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child, child_parser in action.choices.items():
                yield from commands(child_parser, f"{name} {child}".strip())
            return
    assert isinstance(parser, Parser)
    yield name, parser


def test_each_command_has_two_examples_that_it_accepts() -> None:
    program = _parser()
    for name, parser in commands(program):
        assert len(parser.examples) == 2, name
        for example in parser.examples:
            assert max(map(len, example.splitlines())) <= 78 - 2
            (command,) = re.findall(
                r"jobs-grpc (" + name + r"\b.*?)(?: \|| >|\)\"|$)", example, re.DOTALL
            )
            program.parse_args(shlex.split(command.replace("\\\n", " ")))


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["--help"], ["list", "--help"]])
def test_help_needs_no_docstrings(argv: list[str]) -> None:
    command = [sys.executable, "-OO", "-m", "jobs_grpc.cli", *argv]

    shown = subprocess.run(command, capture_output=True, text=True)  # noqa: S603

    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("usage: ")
    assert "examples:" not in shown.stdout


@pytest.mark.slow
def test_command_imports_neither_other_commands_nor_the_database() -> None:
    code = "import sys; from jobs_grpc.cli.program import run; run(['list', '--limit', 'x'])"
    code = f"{code}; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)  # noqa: S603

    modules = shown.stdout.decode().split()
    assert "jobs_grpc.cli.list_jobs" in modules
    assert not {"asyncpg", "jobs_grpc.cli.create", "jobs_grpc.cli.dev"}.intersection(modules)


@pytest.mark.parametrize("name", ["list", "create", "cancel", "watch"])
async def test_help_shows_the_options_of_the_command_first_and_examples_last(
    shell: Shell, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = (await shell(name, "--help")).out.splitlines()

    headings = [line for line in lines if re.fullmatch(r"[a-z][\w ]+:", line)]
    shared = headings.index("output:")
    assert headings[shared : shared + 2] == ["output:", "connection:"]
    assert set(headings[shared + 2 :]) <= {"exit codes:", "examples:"}
    assert not [line for line in lines if line.startswith("  --ca ")]
    examples = "\n".join(line.removeprefix("  ") for line in lines[lines.index("examples:") + 1 :])
    assert examples == "\n".join(dict(commands(_parser()))[name].examples)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", ["", "webhooks", "devices", "context"])
async def test_group_of_commands_alone_shows_its_help(shell: Shell, name: str) -> None:
    alone = await shell(*name.split())

    assert (alone.code, alone.err) == (0, "")
    assert alone == await shell(*name.split(), "--help")


async def test_help_shows_each_command_in_one_group(shell: Shell) -> None:
    shown = (await shell("help")).out

    groups = shown.split("\njobs:\n")[1].split("exit codes:")[0]
    names = re.findall(r"^  ([a-z]+) .*", groups, re.MULTILINE)
    assert sorted(names) == sorted({name.partition(" ")[0] for name, _ in commands(_parser())})


async def test_help_explains_the_options_of_the_connection(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = (await shell("help", "connection")).out

    assert "  --tenant ID           tenant to act for ($JOBS_TENANT; default: the tenant" in shown
    assert max(map(len, shown.splitlines())) <= 80


async def test_help_command_prints_the_same_as_the_help_option(shell: Shell) -> None:
    assert await shell("help", "webhooks", "get") == await shell("webhooks", "get", "--help")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("pause", "the reason (default: none)"),
        ("list", "only jobs with this document_type\n"),
        ("failures", "only failures with one of these statuses: FAILED, TIMED_OUT, REJECTED\n"),
        (
            "create",
            "execution becomes TIMED_OUT, within two seconds, 1–10080 (default: no timeout)",
        ),
    ],
)
async def test_help_of_an_option_comes_from_the_contract(
    shell: Shell, command: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert text in (await shell(command, "--help")).out
