"""Errors of the commands: one line and an exit code."""

import socket

import grpc
import pytest

from tests.support.cli import Shell
from tests.support.scripted_server import Refusal, running_scripted_server

CREATE = ("create", "--type", "x", "--all")


def _nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["create", "--type", "x", "--device", "d"], 3, "NOT_FOUND: device d not found in tenant"),
        (["create", "--type", "", "--all"], 2, "INVALID_ARGUMENT: document_type must be"),
        ([*CREATE, "--params", "["], 2, "--params: not valid JSON: Expecting value"),
        ([*CREATE, "--params", "[]"], 2, "--params: must be a JSON"),
        ([*CREATE, "--params", "@gone"], 2, "can't read gone: No such"),
        (["get", "j", "--tenant", "é"], 2, "--tenant must be 1–256 printable ASCII"),
        (["get", "j", "--user", " olivia"], 2, "--user must be 1–256 printable ASCII"),
        (["get", "j", "--user", "\udcff"], 2, "--user must be 1–256 printable ASCII"),
        ([*CREATE, "--params", "[" * 100_000], 2, "--params: nested deeper than 20 levels"),
        ([*CREATE, "--params", _nested(500)], 2, "--params: nested deeper than 20 levels"),
        ([*CREATE, "--params", _nested(150)], 2, "--params: nested deeper than 20 levels"),
        ([*CREATE, "--params", _nested(30)], 2, "INVALID_ARGUMENT: document_params.a"),
        (
            [*CREATE, "--params", f'{{"n": {2**53 + 1}}}'],
            2,
            "--params: document_params.n is an int",
        ),
        ([*CREATE, "--params", f'{{"n": -1{"0" * 5000}}}'], 2, "--params: document_params.n is an"),
        (
            [*CREATE, "--params", '{"n": 1e999}'],
            2,
            "INVALID_ARGUMENT: document_params.n must be a f",
        ),
        ([*CREATE, "--params", '{"n": NaN}'], 2, "INVALID_ARGUMENT: document_params.n must be a f"),
        ([*CREATE, "--params", '{"n": "\udcff"}'], 2, "--params: must be UTF-8"),
        ([*CREATE, "--params", '{"n": "\\ud800"}'], 2, "--params: must be UTF-8"),
        ([*CREATE, "--job-id", ""], 2, "--job-id is empty"),
        (
            ["list", "--server", "127.0.0.1:1"],
            5,
            "can't reach the server at 127.0.0.1:1: Connection refused",
        ),
    ],
)
async def test_error_is_one_line_and_exit_code(
    shell: Shell, argv: list[str], code: int, message: str
) -> None:
    result = await shell(*argv)

    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(f"jobs-grpc: {message}")
    assert result.err.count("\n") == 1


async def test_error_has_the_message_of_a_server_that_does_not_send_the_tenant(
    shell: Shell,
) -> None:
    refusal = Refusal(grpc.StatusCode.NOT_FOUND, reason="JOB_NOT_FOUND")
    async with running_scripted_server(GetJob=refusal) as server:
        result = await shell("get", "j", "--server", server.address)

    assert (result.code, result.err) == (3, "jobs-grpc: NOT_FOUND: scripted\n")


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (
            Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, reason="LIMIT_EXCEEDED"),
            "refused by a limit: RESOURCE_EXHAUSTED: scripted",
        ),
        (
            Refusal(grpc.StatusCode.UNAVAILABLE, reason="DATABASE_UNAVAILABLE"),
            "UNAVAILABLE: scripted",
        ),
    ],
)
async def test_error_blames_the_connection_only_when_nothing_answers(
    shell: Shell, refusal: Refusal, message: str
) -> None:
    async with running_scripted_server(ListJobs=refusal) as server:
        result = await shell("list", "--server", server.address)

    assert (result.code, result.err) == (5, f"jobs-grpc: {message}\n")


async def test_error_names_the_timeout_when_the_server_is_silent(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = await shell("list", "--server", address, "--timeout", "0.2")

    assert result.code == 5
    assert result.err == (
        f"jobs-grpc: no response in time from the server at {address};"
        " raise --timeout to wait longer\n"
    )


async def test_error_suggests_the_option_that_has_another_name_elsewhere(shell: Shell) -> None:
    for name in ("--selector", "-l"):
        result = await shell("list", name, "model=x200")

        assert result.code == 2
        assert f"unrecognized argument: {name} (did you mean --where?)\n" in result.err


async def test_error_suggests_the_option_that_was_abbreviated(shell: Shell) -> None:
    result = await shell("list", "--ten", "demo")

    assert result.code == 2
    assert result.err.endswith(
        "jobs-grpc list: error: unrecognized argument: --ten (did you mean --tenant?)\n"
    )
