"""The table of the comparison with hawkBit."""

from bench.figures import SERVICE, Results
from bench.page import describe, format_number, table

HAWKBIT = "hawkbit"


def render(results: Results, machine: dict[str, str]) -> str:
    """Return the table as Markdown: seconds or milliseconds of each piece of work."""
    rows = []
    for case in dict.fromkeys(figure.case for figure in results):
        found = [results.find("hawkbit", case, subject) for subject in (SERVICE, HAWKBIT)]
        service, hawkbit = found
        factor = f"{format_number(service.times_better(hawkbit))}×" if service and hawkbit else ""
        rows.append([case, *(_format_duration(f.median) if f else "" for f in found), factor])
    head = ("work", "this service", "hawkBit", "factor")
    return f"{describe(machine)}\n\n{table(head, rows)}"


def _format_duration(milliseconds: float) -> str:
    if milliseconds < 1000:
        return f"{format_number(milliseconds)} ms"
    return f"{format_number(milliseconds / 1000)} s"
