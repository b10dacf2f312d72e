"""Errors of the commands, except those of transcripts/arguments.txt."""

import socket

import pytest

from tests.support.cli import Shell

CREATE = ("create", "--type", "x", "--all")


@pytest.mark.parametrize(
    ("argv", "argument"),
    [
        (["list", "--server", "\udcff:1"], "--server"),
        (["create", "--type", "\udcff", "--all"], "--type"),
        (["create", "--type", "x", "--device", "\udcff"], "--device"),
        (["create", "--type", "x", "--group", "\udcff"], "--group"),
        ([*CREATE, "--job-id", "\udcff"], "--job-id"),
        (["get", "\udcff"], "JOB"),
        (["cancel", "j", "--reason", "\udcff"], "--reason"),
    ],
)
async def test_argument_must_be_utf8(shell: Shell, argv: list[str], argument: str) -> None:
    result = await shell(*argv)

    assert result.code == 2
    assert result.err.splitlines()[-1].endswith(f"argument {argument}: must be UTF-8")


def _nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--params", "[" * 100_000], "--params: nested deeper than 20 levels"),
        (["--params", _nested(500)], "--params: nested deeper than 20 levels"),
        (["--params", _nested(150)], "--params: nested deeper than 20 levels"),
        (["--params", f'{{"n": -1{"0" * 5000}}}'], "--params: document_params.n is an integer"),
        (["--params", '{"n": "\udcff"}'], "--params: must be UTF-8"),
        (["--user", "\udcff"], "--user must be 1–256 printable ASCII"),
        (["--tenant", "x" * 257], "--tenant must be 1–256 printable ASCII"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
async def test_create_prints_one_line_when_a_value_is_invalid(
    shell: Shell, options: list[str], message: str
) -> None:
    result = await shell(*CREATE, *options)

    assert (result.code, result.err.count("\n")) == (2, 1)
    assert result.err.startswith(f"jobs-grpc: {message}")


async def test_error_names_the_timeout_when_the_server_is_silent(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = await shell("list", "--server", address, "--timeout", "0.2")

    assert result.code == 5
    assert result.err == (
        f"jobs-grpc: no response in time from the server at {address};"
        " raise --timeout to wait longer\n"
    )
