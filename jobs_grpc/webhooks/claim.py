"""Delivers the events of one claim of a webhook."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg

from jobs_grpc.db.outage import describe
from jobs_grpc.db.owner_pool import is_transient
from jobs_grpc.observability.histogram import Histogram
from jobs_grpc.observability.log_throttle import LogThrottle
from jobs_grpc.webhooks.claim_store import ClaimStore, HeadLocked, WebhookKey
from jobs_grpc.webhooks.payload import TEST_TYPE, event_body, message_id, test_message
from jobs_grpc.webhooks.replay_limiter import ReplayLimiter
from jobs_grpc.webhooks.retry_delay import retry_delay
from jobs_grpc.webhooks.secrets import MasterKeys, UnknownKey
from jobs_grpc.webhooks.sender import DeliveryResult, Sender
from jobs_grpc.webhooks.signature import signed_headers

logger = logging.getLogger(__name__)

# claim_webhook leases for 30 s; store_delivery leaves at least 20 s.
_LEASE_SECONDS = 30.0
_RENEWED_LEASE_SECONDS = 20.0
# A delivery takes at most 15 s. Without this much of the lease left, none is sent.
_NEEDED_LEASE_SECONDS = 17.0

# After this time, a claim ends, so that other webhooks get the slot even if the endpoint is slow.
_MAX_CLAIM_SECONDS = 5.0

_UNKNOWN_KEY_DELAY_SECONDS = 300.0
# After an internal error: the next claim would probably fail in the same way.
_INTERNAL_ERROR_DELAY_SECONDS = 60.0
_STORE_RETRY_SECONDS = 0.5
_RELEASE_TIMEOUT_SECONDS = 2.0

_LAG_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0, 3600.0)


class DeliveryLog:
    """Counts the results of deliveries, and logs failures. Never logs a URL or a secret."""

    def __init__(self) -> None:
        self.results = Counter({"SUCCESS": 0})
        """Deliveries by result; docs/reference/metrics.md lists the results."""
        self.lag_seconds = Histogram(_LAG_SECONDS)
        """The age of events at their delivery."""
        self._failures = LogThrottle[str](self._log_others, lambda _: "other errors")

    def note(self, key: WebhookKey, result: DeliveryResult, failure_count: int) -> None:
        """Count a delivery. The first failure after a success is logged."""
        self.results[result.error or "SUCCESS"] += 1
        if result.error and not failure_count and self._failures.should_log(result.error):
            self._warn("webhook deliveries fail", key, error=result.error, status=result.status)

    def note_disabled(self, key: WebhookKey, cause: str) -> None:
        """Log that a webhook was disabled."""
        self._warn("webhook was disabled", key, cause=cause)

    def note_unknown_key(self, key: WebhookKey, error: UnknownKey) -> None:
        """Count and log that a delivery can't be signed."""
        self.results["UNKNOWN_KEY"] += 1
        if self._failures.should_log(str(error)):
            self._warn(str(error), key)

    def note_failed_claim(self, key: WebhookKey, error: Exception) -> None:
        """Log that a claim ended with an error; count it unless it is a transient one."""
        transient = is_transient(error)
        if not transient:
            self.results["INTERNAL_ERROR"] += 1
        if self._failures.should_log(describe(error)):
            logger.log(
                logging.WARNING if transient else logging.ERROR,
                "the claim of a webhook failed; retrying: %s",
                describe(error),
                exc_info=None if transient else error,
                extra={"tenant": key.tenant_id, "webhook": key.webhook_id},
            )

    def flush(self) -> None:
        """Log the failures that were only counted so far."""
        self._failures.flush()

    def _warn(self, message: str, key: WebhookKey, **fields: object) -> None:
        extra = {"tenant": key.tenant_id, "webhook": key.webhook_id, **fields}
        logger.warning("%s", message, extra=extra)

    def _log_others(self, kind: str, others: int) -> None:
        logger.warning("%d more webhooks fail: %s", others, kind)


class Claim:
    """One claim of a webhook by this process. Call `deliver` once.

    `claim_id` is the fencing token: after another dispatcher has claimed the webhook, the database
    ignores the results of this claim.
    """

    def __init__(
        self,
        key: WebhookKey,
        store: ClaimStore,
        sender: Sender,
        keys: Callable[[], MasterKeys],
        log: DeliveryLog,
        replays: ReplayLimiter,
        is_stopping: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = key
        self._store = store
        self._sender = sender
        self._keys = keys
        self._log = log
        self._replays = replays
        self._is_stopping = is_stopping
        self._clock = clock
        self._id = uuid4()
        self._lease_ends = 0.0
        self._is_open = False
        self.event_time: datetime | None = None
        """The time of the event that is being sent."""

    async def deliver(self) -> bool:
        """Send the events of the webhook in order, each after the result of the one before it.

        Returns whether more events may follow at once. Raises HeadLocked and errors of the
        database.
        """
        self._lease_ends = self._clock() + _LEASE_SECONDS
        # If the statement fails, it may have been committed nevertheless.
        self._is_open = True
        delay = 0.0
        try:
            return await self._deliver()
        except Exception as e:
            if not is_transient(e):
                delay = _INTERNAL_ERROR_DELAY_SECONDS
            raise
        finally:
            if self._is_open:
                with suppress(Exception):
                    await asyncio.wait_for(self._release(delay), _RELEASE_TIMEOUT_SECONDS)

    async def _deliver(self) -> bool:
        ends = self._clock() + _MAX_CLAIM_SECONDS
        try:
            rows = await self._store.claim_webhook(self._key, self._id)
        except HeadLocked:
            self._is_open = False
            raise
        if not rows:
            self._is_open = False
            return False
        failure_count = rows[0]["failure_count"]
        for number, row in enumerate(rows, start=1):
            # If this process was frozen, another dispatcher may have sent the event meanwhile.
            if self._clock() + _NEEDED_LEASE_SECONDS > self._lease_ends:
                return False
            if row["is_replay"] and (delay := self._replays.delay(self._key.tenant_id)):
                await self._release(delay)
                return False
            result = await self._send(row)
            if result is None:
                return False
            self._log.note(self._key, result, failure_count)
            if result.error is None and row["type"] != TEST_TYPE:
                age = (datetime.now(UTC) - row["occurred_at"]).total_seconds()
                self._log.lag_seconds.observe(max(0.0, age))
            is_last = number == len(rows) or self._clock() > ends or self._is_stopping()
            stored = await self._store_result(row, result, failure_count, is_last=is_last)
            if not stored or result.error:
                return False
            failure_count = 0
            if is_last:
                return True
        return False

    async def _send(self, row: asyncpg.Record) -> DeliveryResult | None:
        """Send one event. Returns None if it can't be signed; then the claim has ended."""
        tenant_id, webhook_id = self._key
        try:
            secrets = self._keys().signing_secrets(tenant_id, webhook_id, row)
        except UnknownKey as e:
            self._log.note_unknown_key(self._key, e)
            await self._release(_UNKNOWN_KEY_DELAY_SECONDS)
            return None
        if row["type"] == TEST_TYPE:
            message, body = test_message(webhook_id)
        else:
            message, body = message_id(tenant_id, row["position"]), event_body(dict(row))
        headers = signed_headers(message, int(time.time()), body, secrets)
        self.event_time = row["occurred_at"]
        return await self._sender.send(tenant_id, row["url"], headers, body)

    async def _store_result(
        self, row: asyncpg.Record, result: DeliveryResult, failure_count: int, *, is_last: bool
    ) -> bool:
        """Store a result, after an outage of the database if necessary.

        `failure_count` failures came directly before it. Returns False if the claim was lost.
        """
        while True:
            stored_at = self._clock()
            try:
                stored = await self._store.store_delivery(
                    self._key,
                    self._id,
                    row["position"],
                    result,
                    retry_seconds=retry_delay(failure_count + 1, result.retry_after),
                    is_last=is_last,
                )
                break
            except Exception as e:
                if not is_transient(e):
                    raise
            await asyncio.sleep(_STORE_RETRY_SECONDS)
        self._lease_ends = max(self._lease_ends, stored_at + _RENEWED_LEASE_SECONDS)
        self._is_open = stored["stored"] and not (is_last or result.error)
        if cause := stored["disabled_cause"]:
            self._log.note_disabled(self._key, cause)
        return bool(stored["stored"])

    async def _release(self, delay_seconds: float) -> None:
        await self._store.release_webhook(self._key, self._id, delay_seconds)
        self._is_open = False
