"""When a call counts the active jobs of its tenant."""

from jobs_grpc.limits import active_jobs
from jobs_grpc.limits.active_jobs import ActiveJobCounts

LIMIT = 100


class Clock:
    """A clock that tests move."""

    time = 0.0

    def __call__(self) -> float:
        return self.time


def create(counts: ActiveJobCounts, tenant: str = "t", *, active: int = 0) -> bool:
    """Create a job while others are `active`, and return whether the call counts them."""
    with counts.call(tenant) as count:
        if count.max_active_jobs is not None:
            count.active_jobs = active + count.unchecked_jobs
        return count.max_active_jobs is not None


def test_count_is_used_for_a_second() -> None:
    clock = Clock()
    counts = ActiveJobCounts(LIMIT, clock)
    assert create(counts)

    assert not create(counts)
    clock.time = 0.4
    assert not create(counts)
    clock.time = 1.0
    assert create(counts)


def test_one_call_counts_again_while_others_use_the_last_count() -> None:
    clock = Clock()
    counts = ActiveJobCounts(LIMIT, clock)
    create(counts)
    clock.time = 0.5

    with counts.call("t") as count:
        assert count.max_active_jobs == LIMIT
        assert not create(counts)
        clock.time = 1.0
        assert create(counts)


def test_calls_of_this_process_add_to_the_count() -> None:
    counts = ActiveJobCounts(LIMIT, Clock())
    create(counts, active=79)

    # The first one is the 80th.
    assert [create(counts, active=90) for _ in range(11)] == [False] * 10 + [True]


def test_call_that_counts_passes_the_jobs_that_are_created_without_a_count() -> None:
    counts = ActiveJobCounts(LIMIT, Clock())
    create(counts)

    with counts.call("t"), counts.call("t", always=True) as count:
        assert count.unchecked_jobs == 1
    with counts.call("t", always=True) as count:
        assert count.unchecked_jobs == 0


def test_older_count_does_not_replace_a_newer_one() -> None:
    clock = Clock()
    counts = ActiveJobCounts(LIMIT, clock)
    with counts.call("t") as older:
        clock.time = 0.1
        create(counts, active=95)
        older.active_jobs = 0

    assert create(counts)


def test_only_the_newest_tenants_are_remembered() -> None:
    counts = ActiveJobCounts(LIMIT, Clock())
    create(counts, "first")
    with counts.call("first", always=False):
        for number in range(active_jobs.MAX_TENANTS + 1):
            create(counts, f"t{number}")
        # Not forgotten, because a call is in progress.
        assert not create(counts, "first")

    assert create(counts, "t0")
    assert len(counts) == active_jobs.MAX_TENANTS


def test_calls_never_count_without_a_limit() -> None:
    counts = ActiveJobCounts(None)

    assert not create(counts)
    assert len(counts) == 0
