"""The tables of the benchmarks."""

from pathlib import Path

from bench.figures import BASELINE, ECHO, FASTAPI, SERVICE, Results, load, save
from bench.hawkbit import __main__ as hawkbit
from bench.report import render, unmeasured


def figures(*rates: tuple[str, float]) -> Results:
    """Return rates of GetJob with ten executions, by subject."""
    results = Results()
    for subject, rate in rates:
        results.add("get_rate", "10 executions", subject, "/s", rate)
    return results


def test_row_has_the_factor_by_which_the_service_is_better() -> None:
    table = render(figures((SERVICE, 3000), (FASTAPI, 1000), (BASELINE, 10_000)), {})

    assert "| 10 executions | 3,000/s | 1,000/s, 3× | 10,000/s, 0.3× |" in table


def test_many_subjects_have_a_row_each() -> None:
    table = render(
        figures(*((subject, 1000) for subject in (SERVICE, FASTAPI, BASELINE, ECHO))), {}
    )

    assert "|  | 10 executions |\n|---|---|\n| service | 1,000/s |\n| FastAPI |" in table


def test_workloads_without_a_figure_are_named() -> None:
    missing = unmeasured(figures((SERVICE, 1000)))

    assert "create" in missing
    assert "get_rate" not in missing


def test_saved_results_are_loaded(tmp_path: Path) -> None:
    save(tmp_path / "results.json", figures((SERVICE, 1000)), {"python": "3.11"})

    assert load(tmp_path / "results.json") == (figures((SERVICE, 1000)), {"python": "3.11"})


def test_hawkbit_table_shows_durations_and_the_factor() -> None:
    results = Results()
    results.add("hawkbit", "create a job", SERVICE, "ms", 50)
    results.add("hawkbit", "create a job", hawkbit.HAWKBIT, "ms", 5000)

    assert "| create a job | 50 ms | 5 s | 100× |" in hawkbit.render(results)
