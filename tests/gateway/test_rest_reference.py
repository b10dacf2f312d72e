"""docs/reference/rest.md matches the gateway."""

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from fleet.jobs.v1 import error_reason_pb2

from tests.gateway.support import GATEWAY, ROOT, Gateway
from tests.support.database import Database

PAGE = (ROOT / "docs" / "reference" / "rest.md").read_text(encoding="utf-8")
BOOLEAN_SETTINGS = ("UPSTREAM_TLS", "REQUIRE_TOKEN", "TLS_TERMINATED_BY_PROXY", "INSECURE_METADATA")


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its header row."""
    text = PAGE.partition(f"# {heading}\n")[2].partition("\n|")[2].partition("\n\n")[0]
    rows = f"|{text}".splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def code(cell: str) -> list[str]:
    """Return the texts in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def openapi_document() -> Any:
    return json.loads((GATEWAY / "gen" / "openapi.json").read_text(encoding="utf-8"))


async def test_curl_commands_succeed(gateway: Gateway, database: Database) -> None:
    await database.add_devices("demo", ["device-0003", "device-0006"], group="north")
    commands = re.findall(r"^curl (?:.*\\\n)*.*$", PAGE, re.MULTILINE)
    assert len(commands) == 18

    for command in commands:
        process = await asyncio.create_subprocess_shell(
            command.replace("http://127.0.0.1:8080", gateway.url).replace(
                "curl ", "curl --silent --show-error --fail-with-body ", 1
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, f"{command}\n{output.decode()}"


def test_routes_table_lists_every_route_with_its_query_parameters() -> None:
    expected = {}
    for path, operations in openapi_document()["paths"].items():
        for method, operation in operations.items():
            rpc = operation.get("x-rpc", operation["operationId"])
            query = {p["name"] for p in operation["parameters"] if p.get("in") == "query"}
            expected[f"{method.upper()} {path}"] = (rpc, query)

    listed = {
        code(request)[0]: (rpc, set(code(parameters)))
        for request, rpc, parameters, _ in table("Routes")
        if re.fullmatch(r"\w+", rpc)
    }
    assert listed == expected


def test_query_parameters_table_lists_every_parameter() -> None:
    routes = table("Routes")
    used = {name for _, rpc, parameters, _ in routes for name in code(parameters)} - {"service"}

    assert {name for names, _ in table("Query parameters") for name in code(names)} == used


def test_request_bodies_table_lists_every_field() -> None:
    document = openapi_document()
    expected = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if body := operation.get("requestBody"):
                name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
                fields = set(document["components"]["schemas"][name].get("properties", ()))
                # null in expires_in_hours is how a REST client sets never_expires.
                if fields := fields - {"never_expires"}:
                    expected[f"{method.upper()} {path}"] = fields

    listed = {code(request)[0]: set(code(fields)) for request, fields in table("Request bodies")}
    assert listed == expected


def test_settings_table_matches_the_help_text(gateway_binary: Path) -> None:
    result = subprocess.run(  # noqa: S603
        [gateway_binary, "--help"], capture_output=True, text=True, check=True
    )
    expected = {}
    for name, usage in re.findall(r"^  -(\S+).*\n\s+(.*)$", result.stdout, re.MULTILINE):
        variable = name.upper().replace("-", "_")
        default = re.search(r" \(default \"?([^\")]+)\"?\)$", usage)
        expected[f"JOBS_GATEWAY_{variable}"] = (
            # Go's --help omits the default of a boolean flag that is false.
            default.group(1) if default else "false" if variable in BOOLEAN_SETTINGS else "",
            usage[: default.start()] if default else usage,
        )

    listed = {
        code(variable)[0]: (default.strip("`"), meaning.replace("`", ""))
        for variable, default, meaning in table("Settings")
    }
    assert listed == expected


def test_errors_table_lists_every_reason() -> None:
    sources = "".join(
        path.read_text()
        for path in GATEWAY.glob("internal/*/*.go")
        if not path.name.endswith("_test.go")
        and path.parent.name not in ("bench", "gatewaytest", "openapi")
    )
    names = set(re.findall(r'"([A-Z]+_[A-Z_]+[A-Z])"', sources))
    reasons = {name for name in names if not name.startswith(("JOBS_", "OTEL_"))}
    assert len(reasons) > 10
    reasons |= set(error_reason_pb2.ErrorReason.keys()[1:])

    errors = PAGE.partition("\n## Errors\n")[2].partition("\n## ")[0]
    assert reasons <= set(re.findall(r"`([A-Z_]+)`", errors))
