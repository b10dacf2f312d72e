"""The table of what rollouts cost."""

from bench.figures import BASELINE, Results
from bench.rollouts import FIVE_STAGES, render


def test_table_shows_times_the_cost_and_whether_the_goal_is_missed() -> None:
    results = Results()
    for case, milliseconds in (("CreateJob, 100,000 devices", 150), ("CreateJob, 1 device", 110)):
        results.add("create", case, BASELINE, "ms", 100)
        results.add("create", case, FIVE_STAGES, "ms", milliseconds)

    table = render(results, {})

    missed = "five stages | 150 ms | 100 ms | 1.50× | ≤ 1.35× missed |"
    assert f"| CreateJob, 100,000 devices | {missed}" in table
    assert "| CreateJob, 1 device | five stages | 110 ms | 100 ms | 1.10× |  |" in table


def test_table_has_a_dash_when_nothing_is_compared() -> None:
    results = Results()
    results.add("moves", "AdvanceJob", FIVE_STAGES, "ms", 2)

    assert "| AdvanceJob | five stages | 2 ms | – | – |  |" in render(results, {})
