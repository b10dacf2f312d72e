"""The OpenAPI document passes the linters redocly and spectral with their default rules."""

from pathlib import Path

import pytest

from tests.clients.conftest import FOLDER, Run, installed
from tests.gateway.support import GATEWAY
from tests.support.scale import only_nightly

pytestmark = pytest.mark.slow

DOCUMENT = GATEWAY / "gen" / "openapi.json"


async def test_redocly_finds_nothing(run: Run) -> None:
    output = await run(installed("redocly"), "lint", DOCUMENT)

    assert "Your API description is valid." in output
    assert "warning" not in output.lower().replace("deprecation warning", "")


@only_nightly
async def test_spectral_finds_nothing(run: Run, tmp_path: Path) -> None:
    spectral = FOLDER / "spectral" / "node_modules" / ".bin" / "spectral"
    rules = tmp_path / "rules.yaml"
    rules.write_text("extends: spectral:oas\n")

    output = await run(spectral, "lint", "--ruleset", rules, "--fail-severity", "hint", DOCUMENT)

    assert "No results" in output
