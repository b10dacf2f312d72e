"""Limits costly work to one call per tenant."""

from collections.abc import Iterator
from contextlib import contextmanager


class OnePerTenant:
    """Admits one call per tenant at a time; others are refused, not queued."""

    def __init__(self) -> None:
        self._tenants: set[str] = set()

    @contextmanager
    def admit(self, tenant_id: str) -> Iterator[bool]:
        """Context manager; yields whether the call is admitted."""
        if tenant_id in self._tenants:
            yield False
            return
        self._tenants.add(tenant_id)
        try:
            yield True
        finally:
            self._tenants.remove(tenant_id)
