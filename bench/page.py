"""The sections of docs/performance.md that benchmarks write."""

from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def replace_section(name: str, markdown: str, page: Path = PAGE) -> None:
    """Replace the text between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found_begin, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{page} must contain the markers {begin} and {end}")
    page.write_text(f"{before}{begin}\n\n{markdown}\n\n{end}{after}", encoding="utf-8")


def describe(machine: Mapping[str, str]) -> str:
    """Return the machine and the versions of a run as a line."""
    return "; ".join(f"{name} {value}" for name, value in machine.items()) + "."


def format_number(value: float) -> str:
    """Return a number with three digits, or without decimals from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
