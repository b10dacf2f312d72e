"""docs/rest.md keeps up with the gateway."""

import asyncio
import json
import re
import subprocess
from pathlib import Path

from tests.gateway.support import GATEWAY, ROOT, Gateway
from tests.support import Database

PAGE = (ROOT / "docs" / "rest.md").read_text(encoding="utf-8")


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
