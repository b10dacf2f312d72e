"""Computes when polling devices poll again."""

from collections.abc import Callable

from google.protobuf.duration_pb2 import Duration

# Below this load, devices poll at the normal rate.
_NORMAL_LOAD = 0.5

# At full load, poll_after is this many times as long. A higher factor would only delay executions
# after the load has ended: the error of a call over a limit has its own delay.
_MAX_FACTOR = 4


class PollAfter:
    """Chooses `poll_after`: random around the configured value, and longer under load."""

    def __init__(
        self, seconds: float, load: Callable[[str], float], random: Callable[[], float]
    ) -> None:
        """`load` returns the load of a tenant, 0–1; `random` a number of at least 0 and below 1."""
        self._seconds = seconds
        self._load = load
        self._random = random

    def next(self, tenant_id: str, due_in: float | None = None) -> Duration:
        """Return the time until the next poll of a device of the tenant.

        `due_in`: the seconds until a waiting execution is due; None: none waits. The device polls
        then, if that is sooner.
        """
        excess = max(0.0, self._load(tenant_id) - _NORMAL_LOAD) / (1 - _NORMAL_LOAD)
        factor = 1 + (_MAX_FACTOR - 1) * excess
        seconds = self._seconds * factor * (0.5 + self._random())
        if due_in is not None:
            seconds = min(seconds, max(due_in, 0.0))
        duration = Duration()
        duration.FromMilliseconds(round(1000 * seconds))
        return duration
