"""The worked example of docs/authentication.md runs."""

import os
import re
import sys
from pathlib import Path

import grpc
import pytest

from jobs_grpc.config import Config
from tests.gateway.support import ROOT, running_gateway
from tests.support.database import Database
from tests.support.processes import output_of
from tests.support.server import running_tls_server


@pytest.mark.slow
async def test_worked_example_runs(
    gateway_binary: Path, database: Database, tenant: str, tmp_path: Path
) -> None:
    """Run its commands on free ports of loopback, without `make` and grpcurl."""
    await database.add_devices(tenant, [f"device-{n:04}" for n in range(1, 1001)])
    await database.add_devices(tenant, ["device-0003", "device-0006"], group="north")
    page = (ROOT / "docs" / "authentication.md").read_text(encoding="utf-8")
    example = page.partition("## A worked example")[2].partition("\n## ")[0]
    create_files, start_server, start_gateway, *calls = re.findall(
        r"```sh\n(.*?)```", example, re.DOTALL
    )
    assert len(calls) == 2
    await _run_shell(create_files.replace('"demo"', f'"{tenant}"'), tmp_path)
    server_settings = _settings(start_server, tmp_path)
    gateway_settings = {
        name.removeprefix("JOBS_GATEWAY_"): value
        for name, value in _settings(start_gateway, tmp_path).items()
    }
    Config.from_env({"JOBS_DATABASE_URL": database.request_dsn} | server_settings)
    server_settings |= {"JOBS_LISTEN": "127.0.0.1:0"}
    gateway_settings |= {"LISTEN": "127.0.0.1:0"}

    authority = grpc.ssl_channel_credentials((tmp_path / "trial" / "ca.crt").read_bytes())
    async with (
        running_tls_server(database.request_dsn, authority, **server_settings) as server,
        running_gateway(gateway_binary, server.address, **gateway_settings) as gateway,
    ):
        outputs = [
            await _run_shell(
                re.sub(r"^grpcurl (?:.*\\\n)*.*$", "", commands, flags=re.MULTILINE)
                .replace("127.0.0.1:8443", gateway.url.removeprefix("https://"))
                .replace(".venv/bin/python", sys.executable)
                .replace(".venv/bin/jobs-grpc", f"{sys.executable} -m jobs_grpc.cli")
                .replace("curl ", "curl --silent --show-error --fail-with-body ")
                .replace("--for 20", "--latency 0 --for 15"),
                tmp_path,
                exit_code,
                JOBS_SERVER=server.address,
            )
            for commands, exit_code in zip(calls, (0, 6), strict=True)
        ]

    assert '{"job_id":"trial-1","status":"IN_PROGRESS","execution_count":2,' in outputs[0]
    assert ": 2 started, " in outputs[0]
    assert "job           trial-1\n" in outputs[1]
    assert "PERMISSION_DENIED: This call needs the role admin" in outputs[1]


def _settings(command: str, folder: Path) -> dict[str, str]:
    """Return the variables that a command line sets, with absolute paths."""
    return dict(re.findall(r"(JOBS_\w+)=(\S+)", command.replace("=trial/", f"={folder}/trial/")))


async def _run_shell(commands: str, folder: Path, exit_code: int = 0, **variables: str) -> str:
    """Run commands in bash and return their output.

    The first command that fails ends the script, and its exit code must be `exit_code`.
    """
    environ = {name: os.environ[name] for name in os.environ if not name.startswith("JOBS_")}
    variables = environ | variables
    return await output_of("bash", "-euc", commands, expect=exit_code, cwd=folder, env=variables)
