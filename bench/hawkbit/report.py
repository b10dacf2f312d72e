"""The table of the comparison with hawkBit."""

from bench.figures import SERVICE, Results
from bench.page import describe, format_number

HAWKBIT = "hawkbit"


def render(results: Results, machine: dict[str, str]) -> str:
    """Return the table as Markdown: seconds or milliseconds of each piece of work."""
    lines = ["| work | this service | hawkBit | factor |", "|---|---|---|---|"]
    for case in dict.fromkeys(figure.case for figure in results):
        service = results.find("hawkbit", case, SERVICE)
        hawkbit = results.find("hawkbit", case, HAWKBIT)
        cells = [case, *(_format_duration(f.median) if f else "" for f in (service, hawkbit))]
        cells.append(
            f"{format_number(service.times_better(hawkbit))}×" if service and hawkbit else ""
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n\n".join([describe(machine), "\n".join(lines)])


def _format_duration(milliseconds: float) -> str:
    if milliseconds < 1000:
        return f"{format_number(milliseconds)} ms"
    return f"{format_number(milliseconds / 1000)} s"
