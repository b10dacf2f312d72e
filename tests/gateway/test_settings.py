"""Invalid settings stop the gateway at startup with one line that describes the problem."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from tests.gateway.support import gateway_environment

NOT_LOOPBACK = {"LISTEN": "0.0.0.0:0"}
TLS = {"TLS_CERT": "a.pem", "TLS_KEY": "a.pem", "TLS_CLIENT_CA": "a.pem"}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (NOT_LOOPBACK, "is not a loopback address"),
        (NOT_LOOPBACK | {"REQUIRE_TOKEN": "true"}, "tokens are sent in clear text"),
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
