"""Benchmarks replace the figures of a page and keep the rest."""

from pathlib import Path

import pytest

from bench import report
from bench.figures import load
from bench.page import RESULTS, replace_figures


def test_figures_are_replaced_and_the_text_around_them_is_kept(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nafter\n")

    replace_figures(page, "new")

    text = "before\n<!-- figures: begin -->\n\nnew\n\n<!-- figures: end -->\nafter\n"
    assert page.read_text() == text


def test_replacing_fails_when_markers_are_missing(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- figures: begin -->\nwithout an end\n")

    with pytest.raises(ValueError, match="must contain the markers"):
        replace_figures(page, "new")


def test_page_has_the_tables_of_the_saved_figures() -> None:
    tables = report.render(*load(RESULTS / "fastapi.jsonl"))

    assert tables in (RESULTS / "fastapi.md").read_text(encoding="utf-8")
