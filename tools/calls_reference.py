"""Writes the tables of docs/reference/calls.md from the options of the contract.

`python -m tools.calls_reference` updates the page.
"""

import re
from pathlib import Path

from jobs_grpc.contract.methods import METHODS

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "calls.md"


def updated(page: str) -> str:
    """Return the text of the page with current tables: one after each heading of a service."""
    for service in ("JobService", "FleetService", "EventService", "DeviceJobService"):
        pattern = rf"(\n## {service}\n.*?\n)\|.*?\n(?=\n)"
        page, count = re.subn(pattern, rf"\1{_table(service)}", page, count=1, flags=re.DOTALL)
        if not count:
            raise SystemExit(f"{PAGE} has no table of {service}")
    return page


def _table(service: str) -> str:
    rows = ["| call | does | roles | safe to repeat |", "|---|---|---|---|"]
    for name, method in METHODS.items():
        if name.startswith(f"/fleet.jobs.v1.{service}/"):
            call, roles = name.rpartition("/")[2], ", ".join(method.roles)
            repeatable = "yes |" if method.repeatable else "|"
            rows.append(f"| `{call}` | {method.summary} | {roles} | {repeatable}")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
