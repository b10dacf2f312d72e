"""Removes what this service stores about devices that are gone from the device tables."""

import time
from collections.abc import Awaitable, Callable

from jobs_grpc.errors import JobsError, QueryTimeout
from jobs_grpc.maintenance.task import Fetch

RemoveStale = Callable[[str, str], Awaitable[str | None]]
"""See remove_stale_devices.sql: takes a tenant_id and a device_id, and returns a device_id."""

# Seconds between two passes over all tenants.
_PASS_INTERVAL = 3600.0


class StaleDevices:
    """Goes through the rows of jobs.devices of all tenants, one batch per step.

    Own device tables too: an update of last seen can store a row of a device that DeleteDevices
    removes at the same time. `fetch` sees all tenants. `remove_stale` runs as the request role:
    only for that role is it sure that it may read the platform's tables.
    """

    def __init__(
        self, fetch: Fetch, remove_stale: RemoveStale, pass_interval: float = _PASS_INTERVAL
    ) -> None:
        self._fetch = fetch
        self._remove_stale = remove_stale
        self._pass_interval = pass_interval
        self._next_pass = 0.0
        self._tenant_id: str | None = None
        self._after_device_id = ""

    async def step(self) -> None:
        """Examine one batch, if a pass is due. Does nothing while the database is unavailable.

        A tenant whose batch takes too long is skipped until the next pass.
        """
        if self._tenant_id is None:
            if time.monotonic() < self._next_pass:
                return
            await self._go_to_tenant_after("")
            if self._tenant_id is None:
                return
        try:
            after = await self._remove_stale(self._tenant_id, self._after_device_id)
        except QueryTimeout:
            after = None  # The database layer logs it.
        except JobsError:
            return
        if after is None:
            await self._go_to_tenant_after(self._tenant_id)
        else:
            self._after_device_id = after

    async def _go_to_tenant_after(self, tenant_id: str) -> None:
        """Continue with the next tenant. If none follows, the pass ends."""
        self._tenant_id, self._after_device_id = None, ""
        ((self._tenant_id,),) = await self._fetch("SELECT jobs.next_device_tenant($1)", tenant_id)
        if self._tenant_id is None:
            self._next_pass = time.monotonic() + self._pass_interval
