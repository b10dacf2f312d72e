"""Calls the SQL functions of the dispatcher, as the owner of the tables."""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg

from jobs_grpc.webhooks.sender import DeliveryResult

Fetch = Callable[..., Awaitable[Sequence[asyncpg.Record]]]
"""Runs one statement in its own transaction."""


class WebhookKey(NamedTuple):
    """Identifies a webhook."""

    tenant_id: str
    webhook_id: str


class HeadLocked(Exception):
    """Another session holds the lock of the head of the tenant's events."""


class ClaimStore:
    """Each method calls the SQL function of the same name, whose file documents it."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def webhooks_due(
        self, unproven: bool, limit: int, skip_tenant_ids: Sequence[str]
    ) -> Sequence[asyncpg.Record]:
        return await self._fetch(
            "SELECT * FROM jobs.webhooks_due($1, $2, $3)", unproven, limit, skip_tenant_ids
        )

    async def next_webhooks(
        self, unproven: bool, limit: int, after_tenant_id: str
    ) -> Sequence[asyncpg.Record]:
        return await self._fetch(
            "SELECT * FROM jobs.next_webhooks($1, $2, $3)", unproven, limit, after_tenant_id
        )

    async def claim_webhook(self, key: WebhookKey, claim_id: UUID) -> Sequence[asyncpg.Record]:
        """Raises HeadLocked."""
        rows = await self._fetch("SELECT * FROM jobs.claim_webhook($1, $2, $3)", *key, claim_id)
        if rows and rows[0]["position"] is None:
            raise HeadLocked
        return rows

    async def store_delivery(
        self,
        key: WebhookKey,
        claim_id: UUID,
        position: int,
        result: DeliveryResult,
        *,
        retry_seconds: float,
        is_last: bool,
    ) -> asyncpg.Record:
        (row,) = await self._fetch(
            "SELECT * FROM jobs.store_delivery($1, $2, $3, $4, $5, $6, $7, $8)",
            *(*key, claim_id, position, result.status, result.error, retry_seconds, is_last),
        )
        return row

    async def release_webhook(self, key: WebhookKey, claim_id: UUID, delay_seconds: float) -> None:
        await self._fetch(
            "SELECT jobs.release_webhook($1, $2, $3, $4)", *key, claim_id, delay_seconds
        )

    async def sequence_queued_events(self, tenant_id: str) -> bool | None:
        ((more,),) = await self._fetch("SELECT jobs.sequence_queued_events($1)", tenant_id)
        return more  # type: ignore[no-any-return]

    async def count_webhooks(self, limit: int) -> asyncpg.Record:
        (row,) = await self._fetch("SELECT * FROM jobs.count_webhooks($1)", limit)
        return row
