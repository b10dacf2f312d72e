"""docs/reference/rest.md keeps up with the gateway, and the example of docs/authentication.md runs."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import grpc

from jobs_grpc.config import Config
from tests.gateway.support import GATEWAY, ROOT, Gateway, running
from tests.support.database import Database
from tests.support.server import running_tls_server

PAGE = (ROOT / "docs" / "reference" / "rest.md").read_text(encoding="utf-8")


async def test_its_curl_lines_run(gateway: Gateway, database: Database) -> None:
    await database.add_devices("demo", ["device-0003", "device-0006"], group="north")
    commands = re.findall(r"^curl (?:.*\\\n)*.*$", PAGE, re.MULTILINE)
    assert len(commands) == 15

    for command in commands:
        own = command.replace("http://127.0.0.1:8080", gateway.url)
        process = await asyncio.create_subprocess_shell(
            own.replace("curl ", "curl --silent --show-error --fail-with-body ", 1),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, f"{command}\n{output.decode()}"


async def test_the_worked_example_runs(
    gateway_binary: Path, database: Database, tenant: str, tmp_path: Path
) -> None:
    """All of it but grpcurl, on free ports of loopback, without `make`."""
    await database.add_devices(tenant, [f"device-{n:04}" for n in range(1, 1001)])
    await database.add_devices(tenant, ["device-0003", "device-0006"], group="north")
    page = (ROOT / "docs" / "authentication.md").read_text(encoding="utf-8")
    example = page.partition("## A worked example")[2].partition("\n## ")[0]
    files, server, gateway, *calls = re.findall(r"```sh\n(.*?)```", example, re.DOTALL)
    assert len(calls) == 2
    told, told_gateway = (
        dict(re.findall(r"(JOBS_\w+)=(\S+)", text.replace("=trial/", f"={tmp_path}/trial/")))
        for text in (server, gateway)
    )
    await _shell(files.replace('"demo"', f'"{tenant}"'), tmp_path)
    Config.from_env({"JOBS_DATABASE_URL": database.request_dsn} | told)

    authority = grpc.ssl_channel_credentials((tmp_path / "trial" / "ca.crt").read_bytes())
    settings = {name.removeprefix("JOBS_GATEWAY_"): told_gateway[name] for name in told_gateway}
    loopback = {"JOBS_LISTEN": "127.0.0.1:0"}
    async with (
        running_tls_server(database.request_dsn, authority, **told | loopback) as served,
        running(gateway_binary, served.address, **settings | {"LISTEN": "127.0.0.1:0"}) as rest,
    ):
        own = rest.url.removeprefix("http://")
        output = [
            await _shell(
                re.sub(r"^grpcurl (?:.*\\\n)*.*$", "", text, flags=re.MULTILINE)
                .replace("127.0.0.1:8443", own)
                .replace(".venv/bin/python", sys.executable)
                .replace(".venv/bin/jobs-grpc", f"{sys.executable} -m jobs_grpc.cli")
                .replace("curl ", "curl --silent --show-error --fail-with-body ")
                .replace("--for 20", "--latency 0 --for 15"),
                tmp_path,
                code,
                JOBS_SERVER=served.address,
            )
            for text, code in zip(calls, (0, 6), strict=True)
        ]

    assert '{"job_id":"trial-1","status":"IN_PROGRESS","execution_count":2,' in output[0]
    assert ": 2 started, " in output[0]
    assert "job       trial-1\n" in output[1]
    assert "PERMISSION_DENIED: This call needs the role admin" in output[1]


async def _shell(text: str, folder: Path, code: int = 0, **variables: str) -> str:
    """What commands print, each of which succeeds, but the last one ends with `code`."""
    environ = {name: os.environ[name] for name in os.environ if not name.startswith("JOBS_")}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", text),
        cwd=folder,
        env=environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == code, f"{text}\n{output}"
    return output


def test_it_lists_every_route() -> None:
    """With all query parameters, but for those that have a paragraph of their own."""
    document = json.loads((GATEWAY / "gen" / "openapi.json").read_text(encoding="utf-8"))
    expected = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            rpc = operation.get("x-rpc", operation["operationId"])
            query = {p["name"] for p in operation["parameters"] if p.get("in") == "query"}
            expected[f"{method.upper()} {path}"] = (rpc, query)

    rows = re.findall(r"^\| `([A-Z]+ /[^`?]+)(?:\?([^`]*))?`(.*?) \| (\w+) \|", PAGE, re.MULTILINE)
    listed = {}
    for route, query, more, rpc in rows:
        names = set(re.findall(r"(\w+)=", query))
        if more:
            paragraph = PAGE.partition("**Filters**")[2].partition("\n\n")[0]
            names |= set(re.findall(r"`(\w+)(?:=true)?`", paragraph))
        listed[route] = (rpc, names)

    assert listed == expected


def test_it_lists_every_setting_with_its_default(gateway_binary: Path) -> None:
    result = subprocess.run(  # noqa: S603
        [gateway_binary, "--help"], capture_output=True, text=True, check=True
    )
    flags = re.findall(r"^  -(\S+).*\n(.*)$", result.stderr, re.MULTILINE)
    expected = {}
    for name, usage in flags:
        default = re.search(r"\(default \"?([^\")]+)\"?\)$", usage)
        variable = "JOBS_GATEWAY_" + name.upper().replace("-", "_")
        expected[variable] = default.group(1) if default else ""

    rows = dict(re.findall(r"^\| `(JOBS_GATEWAY_\w+)` \| (?:`(\S+)`)? ?\|", PAGE, re.MULTILINE))

    assert rows == expected | {
        "JOBS_GATEWAY_UPSTREAM_TLS": "false",
        "JOBS_GATEWAY_REQUIRE_TOKEN": "false",
        "JOBS_GATEWAY_TLS_IN_FRONT": "false",
        "JOBS_GATEWAY_INSECURE_METADATA": "false",
    }


def test_it_lists_every_reason_that_the_gateway_gives() -> None:
    sources = "".join(path.read_text() for path in GATEWAY.glob("*.go"))
    given = set(re.findall(r'"([A-Z]+_[A-Z_]+[A-Z])"', sources)) - {
        "JOBS_GATEWAY_",
        "JOBS_MAX_REQUEST_BYTES",
    }

    listed = set(re.findall(r"`([A-Z_]+)`", PAGE))
    assert given - listed <= {"NOT_IMPLEMENTED", "PERMISSION_DENIED"}
