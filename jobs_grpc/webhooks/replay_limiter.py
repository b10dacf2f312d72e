"""Limits how fast events are sent again."""

import time
from collections import deque
from collections.abc import Callable

_MAX_REPLAYS = 20
_WINDOW_SECONDS = 1.0
_MAX_TENANTS = 1000


class ReplayLimiter:
    """At most 20 deliveries of replays in any second, for all webhooks of a tenant together.

    Otherwise, a tenant that moves positions back again and again would send all events that the
    server keeps to a host as fast as the host responds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # The times of the last deliveries, oldest first.
        self._sent: dict[str, deque[float]] = {}

    def delay(self, tenant_id: str) -> float:
        """Count a delivery and return 0; or, at the limit, return the seconds until the next."""
        now = self._clock()
        sent = self._sent.get(tenant_id)
        if sent is None:
            if len(self._sent) >= _MAX_TENANTS:
                self._forget(now - _WINDOW_SECONDS)
            sent = self._sent[tenant_id] = deque(maxlen=_MAX_REPLAYS)
        if len(sent) == _MAX_REPLAYS and (delay := sent[0] + _WINDOW_SECONDS - now) > 0:
            return delay
        sent.append(now)
        return 0.0

    def _forget(self, before: float) -> None:
        self._sent = {tenant: sent for tenant, sent in self._sent.items() if sent[-1] > before}
