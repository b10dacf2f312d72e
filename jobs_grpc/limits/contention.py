"""Notices whether several tenants call at the same time."""

import asyncio
import random

# Tenants contend for this long after calls of two tenants have arrived within this time.
_SECONDS = 1.0

# Refused calls that can wait at the same time, and for how long. The delays are random, so that
# their clients do not call again together. gRPC may have received 64 KiB of the request of each.
_MAX_DELAYED_REFUSALS = 256
_MIN_REFUSAL_DELAY_SECONDS = 0.5
_MAX_REFUSAL_DELAY_SECONDS = 1.5


class Contention:
    """Whether two or more tenants contend for the CPU time of the process."""

    def __init__(self) -> None:
        self._last_tenant: str | None = None
        self._last_call = 0.0
        self._ends = 0.0
        self._delayed_refusals = 0

    def note_call(self, tenant_id: str) -> None:
        """Note that a call of the tenant has arrived."""
        now = asyncio.get_running_loop().time()
        if tenant_id != self._last_tenant:
            if self._last_tenant is not None and now < self._last_call + _SECONDS:
                self._ends = now + _SECONDS
            self._last_tenant = tenant_id
        self._last_call = now

    def active(self) -> bool:
        """Whether tenants contend at present."""
        return asyncio.get_running_loop().time() < self._ends

    async def delay_refusal(self) -> None:
        """Wait before a refusal, if tenants contend: the client may call again at once."""
        if self._delayed_refusals < _MAX_DELAYED_REFUSALS and self.active():
            delay = random.uniform(_MIN_REFUSAL_DELAY_SECONDS, _MAX_REFUSAL_DELAY_SECONDS)  # noqa: S311
            self._delayed_refusals += 1
            try:
                await asyncio.sleep(delay)
            finally:
                self._delayed_refusals -= 1
