"""The table of attacks shows which bounds an attack exceeds."""

from collections.abc import Mapping

import pytest

from bench.figures import Results
from bench.hostile import report
from bench.hostile.attacks import ATTACKS

NAME = "unread-pages"


def results(
    *,
    name: str = NAME,
    others: Mapping[str, float] = {},
    server: float = 100,
    log: float = 40,
    p99: float = 0.01,
    errors: int = 0,
) -> Results:
    """Return the figures of an attack during which the other tenant made 100 calls."""
    figures = Results()
    for subject, value in {"server": server, "log": log, **others}.items():
        figures.add(report.WORKLOAD, name, subject, "", value)
    calls = [(0.0, p99, "UNAVAILABLE: gone" if n < errors else "") for n in range(100)]
    report.add_calls(figures, name, calls)
    return figures


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (results(), "met"),
        (results(server=257), "missed: server"),
        (results(log=501), "missed: log"),
        (results(p99=0.101), "missed: p99"),
        (results(errors=1, server=300), "missed: server, errors"),
    ],
)
def test_verdict_names_the_bounds_that_are_exceeded(figures: Results, expected: str) -> None:
    assert report.verdict(figures, NAME) == expected


@pytest.mark.parametrize(
    ("name", "subject", "bound"),
    [
        ("gateway-no-attack", "gateway", 512),
        ("webhooks-that-hang", "posts", 36),
        ("webhook-replays", "posts", 36),
        ("webhooks-of-tenants-that-hang", "new webhook", 3),
    ],
)
def test_verdict_misses_a_bound_without_a_figure(name: str, subject: str, bound: float) -> None:
    met, exceeded = {subject: bound}, {subject: bound + 1}

    assert report.verdict(results(name=name), name) == f"missed: {subject}"
    assert report.verdict(results(name=name, others=met), name) == "met"
    assert report.verdict(results(name=name, others=exceeded), name) == f"missed: {subject}"


def test_verdict_misses_the_bounds_of_calls_when_the_other_tenant_made_none() -> None:
    figures = Results()
    figures.add(report.WORKLOAD, NAME, "server", "MiB", 1)
    figures.add(report.WORKLOAD, NAME, "log", "kB/s", 1)
    report.add_calls(figures, NAME, [])

    assert report.verdict(figures, NAME) == "missed: errors, p99"


def test_table_shows_the_figures_of_an_attack_and_describes_it() -> None:
    table, attacks = report.render(results())

    assert f"| `{NAME}` | 100 MiB | 40 kB/s | 10.0 / 10.0 ms | 0 of 100 | met |" in table
    assert attacks == f"- `{NAME}`: {ATTACKS[NAME].description}."


def test_each_attack_has_a_unique_name_and_a_description() -> None:
    descriptions = [attack.description for attack in ATTACKS.values()]

    assert all(descriptions)
    assert "unread-pages" in ATTACKS
    assert "gateway-unread-responses" in ATTACKS
