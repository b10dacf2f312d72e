"""docs/reference/settings.md is current."""

from pathlib import Path

from jobs_grpc.config.reference import markdown

PAGE = Path(__file__).parents[1] / "docs/reference/settings.md"


def test_settings_page_is_what_make_settings_reference_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown()
