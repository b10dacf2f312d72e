"""The behavior of simulated devices."""

from jobs_grpc.dev.simulator.behavior import Bug, DeviceBehavior, Plan


def plans(seed: int) -> list[Plan]:
    behavior = DeviceBehavior((1, 5), 0.2, 0.2, 0.2, 2, seed)
    return [behavior.plan(f"d{n}", number) for n in range(200) for number in (1, 2)]


def test_plan_is_the_same_when_the_seed_is() -> None:
    assert plans(1) == plans(1) != plans(2)


def test_outcomes_occur_at_their_rates() -> None:
    outcomes = [plan.outcome for plan in plans(1)]
    assert all(40 < outcomes.count(o) < 120 for o in ("STALLED", "FAILED", "REJECTED"))


def test_bug_fails_the_same_devices_in_each_attempt() -> None:
    bug = Bug(0.25, "FLASH", version="2.1")
    behavior = DeviceBehavior((1, 5), 0, 0, 0, 2, seed=1, bugs=[bug])

    def failed(number: int, version: str) -> set[str]:
        params = {"version": version}
        plans = {f"d{n}": behavior.plan(f"d{n}", number, number, params) for n in range(200)}
        return {name for name, plan in plans.items() if plan.failure_code == "FLASH"}

    assert failed(1, "2.1") == failed(2, "2.1")
    assert 20 < len(failed(1, "2.1")) < 100
    assert failed(1, "2.2") == set()


def test_device_recovers_after_the_attempts_of_a_bug() -> None:
    bug = Bug(0.25, "NETWORK", attempts=2)
    behavior = DeviceBehavior((1, 5), 0, 0, 0, 2, seed=1, bugs=[bug])

    def failed(attempt: int) -> set[int]:
        return {n for n in range(200) if behavior.plan(f"d{n}", 1, attempt).failure_code}

    assert 20 < len(failed(1)) < 100
    assert failed(1) == failed(2)
    assert failed(3) == set()


def test_failures_have_codes() -> None:
    assert {plan.failure_code for plan in plans(1) if plan.outcome == "FAILED"} == {
        "CHECKSUM",
        "DISK_FULL",
        "NETWORK",
        "INSTALLER",
    }
