"""The delays between the attempts of a delivery."""

import pytest

from jobs_grpc.webhooks.retry_delay import retry_delay

DELAYS = [5, 30, 120, 600, 1800, 3600, 7200, 14400, 14400, 14400]


@pytest.mark.parametrize(("random", "factor"), [(0.0, 0.8), (0.5, 1.0), (0.999999, 1.2)])
def test_delay_is_that_of_the_table_with_jitter(random: float, factor: float) -> None:
    for failure_count, delay in enumerate(DELAYS, start=1):
        assert retry_delay(failure_count, None, lambda: random) == pytest.approx(
            factor * delay, rel=1e-5
        )


def test_retry_after_replaces_the_delay_but_is_at_least_the_first() -> None:
    assert retry_delay(1, 3600) == 3600
    assert retry_delay(9, 60) == 60
    assert retry_delay(1, 0) == 5
    assert retry_delay(1, 86400) == 86400
