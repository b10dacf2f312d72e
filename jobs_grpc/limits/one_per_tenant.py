"""Lets one call of each tenant do costly work."""

from collections.abc import Iterator
from contextlib import contextmanager


class OnePerTenant:
    """At most one call of each tenant has a slot. No call waits for it."""

    def __init__(self) -> None:
        self._tenants: set[str] = set()

    @contextmanager
    def slot(self, tenant_id: str) -> Iterator[bool]:
        """Context manager; yields whether the call has the slot of its tenant."""
        if tenant_id in self._tenants:
            yield False
            return
        self._tenants.add(tenant_id)
        try:
            yield True
        finally:
            self._tenants.remove(tenant_id)
