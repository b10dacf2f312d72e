"""The limit of replays of a tenant."""

import pytest

from jobs_grpc.webhooks.replay_limiter import ReplayLimiter


def test_tenant_sends_at_most_20_replays_in_any_second() -> None:
    now = 0.0
    limiter = ReplayLimiter(lambda: now)
    sent = []
    for _ in range(400):
        now += 0.01
        if not limiter.delay("a"):
            sent.append(now)

    assert len(sent) >= 80
    assert min(later - first for first, later in zip(sent, sent[20:])) >= 1.0 - 1e-9  # noqa: B905


def test_delay_is_the_time_until_the_next_replay_of_the_tenant() -> None:
    now = 100.0
    limiter = ReplayLimiter(lambda: now)
    assert [limiter.delay("a") for _ in range(21)] == [0.0] * 20 + [1.0]
    now += 0.75
    assert limiter.delay("a") == pytest.approx(0.25)
    assert limiter.delay("b") == 0.0
    now += 0.25
    assert limiter.delay("a") == 0.0


def test_limiter_forgets_tenants_without_replays() -> None:
    now = 0.0
    limiter = ReplayLimiter(lambda: now)
    for number in range(5000):
        now += 0.01
        limiter.delay(str(number))

    assert len(limiter._sent) <= 1000
