"""The gateway exits with one line about what is wrong with its settings or arguments."""

import asyncio
import json
import socket
import subprocess
from pathlib import Path

import pytest

from tests.gateway.support import gateway_environment

NOT_LOOPBACK = {"LISTEN": "0.0.0.0:0"}
TLS = {"TLS_CERT": "a.pem", "TLS_KEY": "a.pem", "TLS_CLIENT_CA": "a.pem"}

DEVICES = {
    "DEVICE_LISTEN": "127.0.0.1:1",
    "DEVICE_TLS_CERT": "a.pem",
    "DEVICE_TLS_KEY": "a.pem",
    "UPSTREAM_CERT": "a.pem",
    "UPSTREAM_KEY": "a.pem",
}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (NOT_LOOPBACK, "is not a loopback address"),
        (NOT_LOOPBACK | {"REQUIRE_TOKEN": "true"}, "tokens are sent in clear text"),
        (NOT_LOOPBACK | {"INSECURE_METADATA": "true"}, "set allowed-hosts"),
        ({"HSTS_MAX_AGE": "-1"}, "hsts-max-age must be 0 or more"),
        ({"LISTEN": "nowhere"}, "is not a loopback address"),
        (NOT_LOOPBACK | TLS, "any client can claim any tenant"),
        ({"TRUSTED_PEERS": "proxy"}, "trusted-peers requires tls-client-ca"),
        ({"REQUEST_TIMEOUT": "soon"}, "JOBS_GATEWAY_REQUEST_TIMEOUT=soon"),
        ({"REQUEST_TIMEOUT": "0"}, "greater than 0"),
        ({"CORS_ORIGINS": "*"}, "cors-origins=*"),
        ({"CORS_ORIGINS": "https://a.example, https://b.example/"}, "https://b.example/"),
        ({"CORS_ORIGINS": "ops.example.com"}, "such as https://"),
        ({"TLS_CERT": "a.pem"}, "tls-cert and tls-key"),
        ({"TLS_CERT": "no.pem", "TLS_KEY": "no.pem"}, "no.pem"),
        ({"DEVICE_TLS_CLIENT_CA": "a.pem"}, "device-tls-client-ca require device-listen"),
        (DEVICES | {"DEVICE_TLS_KEY": ""}, "device-tls-cert and device-tls-key must be set"),
        (
            DEVICES | {"DEVICE_TLS_CERT": "", "DEVICE_TLS_KEY": ""},
            "device-listen requires device-tls-cert and device-tls-key, or tls-cert and tls-key",
        ),
        (
            DEVICES | {"UPSTREAM_CERT": "", "UPSTREAM_KEY": ""},
            "device-listen requires upstream-cert",
        ),
        (DEVICES | {"LISTEN": "127.0.0.1:1"}, "device-listen and listen are both 127.0.0.1:1"),
        (DEVICES | {"UPSTREAM_CERT": "no.pem"}, "upstream-cert and upstream-key: open no.pem"),
        ({"UPSTREAM_CA": "no.pem"}, "no.pem"),
    ],
)
async def test_gateway_exits_with_one_line_when_a_setting_is_invalid(
    gateway_binary: Path, settings: dict[str, str], text: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        gateway_binary, env=gateway_environment(**settings), stderr=subprocess.PIPE
    )
    _, stderr = await process.communicate()

    assert process.returncode in {1, 2}
    (line,) = stderr.decode().splitlines()
    assert text in (json.loads(line)["error"] if line.startswith("{") else line)


@pytest.mark.parametrize("setting", ["LISTEN", "METRICS_LISTEN"])
async def test_gateway_names_the_setting_when_its_address_is_in_use(
    gateway_binary: Path, setting: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            gateway_binary, env=gateway_environment(**{setting: address}), stderr=subprocess.PIPE
        )
        _, stderr = await process.communicate()

    flag = setting.lower().replace("_", "-")
    assert process.returncode == 1
    assert json.loads(stderr.splitlines()[-1])["error"] == (
        f"{flag}={address}: address already in use;"
        f" set --{flag} or JOBS_GATEWAY_{setting} to another address"
    )


async def run(binary: Path, *arguments: str) -> tuple[int | None, str, str]:
    """Run the gateway, and return its exit code and what it printed to stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        binary, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    stdout, stderr = await process.communicate()
    return process.returncode, stdout.decode(), stderr.decode()


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--lisen", "unknown flag --lisen (did you mean --listen?)"),
        ("-lisen=:80", "unknown flag --lisen (did you mean --listen?)"),
        ("--verbose", "unknown flag --verbose"),
        ("--max-watches=x", 'invalid value "x" for flag -max-watches: parse error'),
        ("--listen", "flag needs an argument: -listen"),
        ("serve", 'unexpected argument "serve"'),
    ],
)
async def test_gateway_exits_with_one_line_when_an_argument_is_invalid(
    gateway_binary: Path, argument: str, text: str
) -> None:
    expected = f"jobs-gateway: {text}; jobs-gateway --help lists the flags\n"

    assert await run(gateway_binary, argument) == (2, "", expected)


async def test_help_is_printed_once_to_stdout(gateway_binary: Path) -> None:
    code, stdout, stderr = await run(gateway_binary, "--help")

    assert (code, stderr) == (0, "")
    assert stdout.count("  -listen HOST:PORT") == 1
