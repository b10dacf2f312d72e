"""docs/reference/rest.md matches the gateway."""

import asyncio
import re
import subprocess
from pathlib import Path

from tests.gateway.support import ROOT, Gateway
from tests.support.database import Database
from tools.gateway_settings import markdown

PAGE = (ROOT / "docs" / "reference" / "rest.md").read_text(encoding="utf-8")
SETTINGS = ROOT / "docs" / "reference" / "gateway-settings.md"


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


def test_settings_page_is_what_make_gateway_settings_reference_writes(gateway_binary: Path) -> None:
    result = subprocess.run(  # noqa: S603
        [gateway_binary, "--help"], capture_output=True, text=True, check=True
    )
    assert SETTINGS.read_text(encoding="utf-8") == markdown(result.stdout)
