"""Benchmarks replace their sections of a page and keep the rest."""

from pathlib import Path

import pytest

from bench.page import replace_section


def test_replace_section_keeps_the_text_around_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n")

    replace_section("a", "new", page)

    assert page.read_text() == "before\n<!-- a: begin -->\n\nnew\n\n<!-- a: end -->\nafter\n"


def test_replace_section_fails_when_markers_are_missing(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- a: begin -->\nwithout an end\n")

    with pytest.raises(ValueError, match="must contain the markers"):
        replace_section("a", "new", page)
