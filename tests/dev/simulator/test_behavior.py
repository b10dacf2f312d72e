"""The behavior of simulated devices."""

from jobs_grpc.dev.simulator.behavior import DeviceBehavior, Plan


def plans(seed: int) -> list[Plan]:
    behavior = DeviceBehavior((1, 5), 0.2, 0.2, 0.2, 2, seed)
    return [behavior.plan(f"d{n}", number) for n in range(200) for number in (1, 2)]


def test_plan_is_the_same_when_the_seed_is() -> None:
    assert plans(1) == plans(1) != plans(2)


def test_outcomes_occur_at_their_rates() -> None:
    outcomes = [plan.outcome for plan in plans(1)]
    assert all(40 < outcomes.count(o) < 120 for o in ("STALLED", "FAILED", "REJECTED"))
