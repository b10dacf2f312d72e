"""The tables that benchmarks write to the pages of bench/results."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"

_BEGIN, _END = "<!-- figures: begin -->", "<!-- figures: end -->"


def replace_figures(page: Path, markdown: str) -> None:
    """Replace the text between the two markers of a page."""
    before, found_begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, found_end, after = rest.partition(_END)
    if not found_begin or not found_end:
        raise ValueError(f"{page} must contain the markers {_BEGIN} and {_END}")
    page.write_text(f"{before}{_BEGIN}\n\n{markdown}\n\n{_END}{after}", encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def describe(machine: Mapping[str, str]) -> str:
    """Return the machine and the versions of a run as a paragraph."""
    return wrap("; ".join(f"{name} {value}" for name, value in machine.items()) + ".")


def wrap(text: str, indent: str = "") -> str:
    """Return a paragraph in lines of at most 120 characters; `indent` is for all but the first."""
    return textwrap.fill(
        text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def format_number(value: float) -> str:
    """Return a number with three digits, or without decimals from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
