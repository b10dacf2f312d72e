"""The interface that sends deliveries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The result of a delivery."""

    status: int
    """The HTTP status; 0: there was no response."""
    error: str | None
    """A name of Webhook.DeliveryError; None: the status is 2xx."""
    duration: float
    """In seconds."""
    retry_after: float | None = None
    """The delay in seconds that a failed response asked for, at most a day."""


class Sender(Protocol):
    """Sends deliveries."""

    async def send(
        self, tenant_id: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> DeliveryResult:
        """Send one POST of a tenant and return the result. Raises only CancelledError."""
