"""Limits concurrent claims and tests, in total and per tenant."""

from collections import Counter


class SlotPool:
    """At most `capacity` slots are taken, and at most `per_tenant` by one tenant."""

    def __init__(self, capacity: int, per_tenant: int) -> None:
        self._capacity = capacity
        self._per_tenant = per_tenant
        self._used: Counter[str] = Counter()

    @property
    def free(self) -> int:
        """The number of free slots."""
        return self._capacity - self._used.total()

    def try_take(self, tenant_id: str) -> bool:
        """Take a slot, unless none is left for the tenant."""
        if not self.free or self._used.get(tenant_id, 0) >= self._per_tenant:
            return False
        self._used[tenant_id] += 1
        return True

    def release(self, tenant_id: str) -> None:
        """Return a slot."""
        self._used[tenant_id] -= 1
        if not self._used[tenant_id]:
            del self._used[tenant_id]


class Slot:
    """A slot that a tenant has taken."""

    def __init__(self, pool: SlotPool, tenant_id: str) -> None:
        self.pool = pool
        self._tenant_id = tenant_id

    def move(self, pool: SlotPool) -> bool:
        """Move to a slot of another pool. Return False if the tenant can take none there."""
        if not pool.try_take(self._tenant_id):
            return False
        self.release()
        self.pool = pool
        return True

    def release(self) -> None:
        """Return the slot."""
        self.pool.release(self._tenant_id)
