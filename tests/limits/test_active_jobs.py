"""When a call counts the active jobs of its tenant."""

from jobs_grpc.limits import active_jobs
from jobs_grpc.limits.active_jobs import ActiveJobs

LIMIT = 100


class Clock:
    """A clock that tests move."""

    time = 0.0

    def __call__(self) -> float:
        return self.time


def create(jobs: ActiveJobs, tenant: str = "t", *, active: int = 0) -> bool:
    """Create a job while others are `active`, and return whether the call counts them."""
    with jobs.check(tenant) as check:
        if check.max_active_jobs is not None:
            check.active_jobs = active + check.unchecked_jobs
        return check.max_active_jobs is not None


def test_count_is_used_for_a_second() -> None:
    clock = Clock()
    jobs = ActiveJobs(LIMIT, clock)
    assert create(jobs)

    assert not create(jobs)
    clock.time = 0.4
    assert not create(jobs)
    clock.time = 1.0
    assert create(jobs)


def test_one_call_counts_again_while_others_use_the_last_count() -> None:
    clock = Clock()
    jobs = ActiveJobs(LIMIT, clock)
    create(jobs)
    clock.time = 0.5

    with jobs.check("t") as check:
        assert check.max_active_jobs == LIMIT
        assert not create(jobs)
        clock.time = 1.0
        assert create(jobs)


def test_calls_of_this_process_add_to_the_count() -> None:
    jobs = ActiveJobs(LIMIT, Clock())
    create(jobs, active=79)

    # The first one is the 80th.
    assert [create(jobs, active=90) for _ in range(11)] == [False] * 10 + [True]


def test_call_that_counts_passes_the_jobs_that_are_created_without_a_count() -> None:
    jobs = ActiveJobs(LIMIT, Clock())
    create(jobs)

    with jobs.check("t"), jobs.check("t", always=True) as check:
        assert check.unchecked_jobs == 1
    with jobs.check("t", always=True) as check:
        assert check.unchecked_jobs == 0


def test_older_count_does_not_replace_a_newer_one() -> None:
    clock = Clock()
    jobs = ActiveJobs(LIMIT, clock)
    with jobs.check("t") as older:
        clock.time = 0.1
        create(jobs, active=95)
        older.active_jobs = 0

    assert create(jobs)


def test_only_the_newest_tenants_are_remembered() -> None:
    jobs = ActiveJobs(LIMIT, Clock())
    create(jobs, "first")
    with jobs.check("first", always=False):
        for number in range(active_jobs.MAX_TENANTS + 1):
            create(jobs, f"t{number}")
        # Not forgotten, because a call is in progress.
        assert not create(jobs, "first")

    assert create(jobs, "t0")
    assert len(jobs) == active_jobs.MAX_TENANTS


def test_calls_never_count_without_a_limit() -> None:
    jobs = ActiveJobs(None)

    assert not create(jobs)
    assert len(jobs) == 0
