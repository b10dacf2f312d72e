"""The delay after which a failed delivery is repeated."""

import random
from collections.abc import Callable

# Seconds after the first failure, the second and so on. The last one applies to all later failures.
_DELAYS = (5, 30, 120, 600, 1800, 3600, 7200, 14400)
_JITTER = 0.2


def retry_delay(
    failure_count: int, retry_after: float | None, random: Callable[[], float] = random.random
) -> float:
    """Return the seconds after which to repeat a delivery that has failed `failure_count` times.

    The delay that the endpoint has asked for, `retry_after`, replaces that of the table, but is at
    least the first one.
    """
    if retry_after is not None:
        return max(retry_after, _DELAYS[0])
    delay = _DELAYS[min(failure_count, len(_DELAYS)) - 1]
    return delay * (1 + _JITTER * (2 * random() - 1))
