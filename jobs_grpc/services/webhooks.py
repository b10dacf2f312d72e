"""Implements the calls of EventService that manage webhooks."""

import logging
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fleet.jobs.v1 import events_pb2 as pb

from jobs_grpc.auth.principal import current_principal
from jobs_grpc.config import EventsConfig
from jobs_grpc.contract.field_rules import check
from jobs_grpc.db.sqlstates import TooManyWebhookRestarts
from jobs_grpc.db.store import Row, Store
from jobs_grpc.errors import Violation, WebhooksUnavailable
from jobs_grpc.services import validation
from jobs_grpc.services.audited_changes import note_changed_fields
from jobs_grpc.services.row_conversions import MessageFields, timestamp_fields
from jobs_grpc.webhooks.addresses import AllowedAddresses
from jobs_grpc.webhooks.payload import test_message
from jobs_grpc.webhooks.secrets import MasterKeysFile, UnknownKey, encoded
from jobs_grpc.webhooks.sender import DeliveryResult, Sender
from jobs_grpc.webhooks.signature import signed_headers
from jobs_grpc.webhooks.slots import SlotPool
from jobs_grpc.webhooks.urls import check_url

logger = logging.getLogger(__name__)

# Maximum number of concurrent tests.
_TEST_SLOTS = 64
_TEST_SLOTS_PER_TENANT = 4

# Of the random part of an ID. IDs are unique in a tenant, and short enough for tables.
_ID_BYTES = 8

# A newer version may have written causes and errors that this version does not know.
_DISABLED_CAUSE_NUMBERS = dict(pb.Webhook.DisabledCause.items())
_ERROR_NUMBERS = dict(pb.Webhook.DeliveryError.items())


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """Derives secrets and sends deliveries."""

    keys: MasterKeysFile
    sender: Sender


class Webhooks:
    """The methods of EventService about webhooks.

    Without `delivery`, calls that need a secret fail with WEBHOOKS_UNAVAILABLE.
    """

    def __init__(
        self, store: Store, config: EventsConfig, delivery: WebhookDelivery | None
    ) -> None:
        self._store = store
        self._config = config
        self._addresses = AllowedAddresses(config.webhook_allowed_networks)
        self._optional_delivery = delivery
        self._tests = SlotPool(_TEST_SLOTS, _TEST_SLOTS_PER_TENANT)

    async def CreateWebhook(
        self, request: pb.CreateWebhookRequest, context: object
    ) -> pb.CreateWebhookResponse:
        violations = check(request)
        if not violations:
            violations += self._check_url("url", request.url)
        validation.raise_for_violations(violations)
        keys = self._delivery.keys.current()
        tenant_id = current_principal().tenant_id
        row = await self._store.create_webhook(
            tenant_id,
            webhook_id=f"wh_{secrets.token_hex(_ID_BYTES)}",
            url=request.url,
            description=request.description,
            types=_types(request),
            key_id=keys.newest_id,
        )
        secret = keys.secret(tenant_id, row["webhook_id"], row["secret_number"], row["key_id"])
        return pb.CreateWebhookResponse(webhook=webhook_fields(row), secret=encoded(secret))

    async def ListWebhooks(
        self, request: pb.ListWebhooksRequest, context: object
    ) -> pb.ListWebhooksResponse:
        rows = await self._store.list_webhooks(current_principal().tenant_id)
        return pb.ListWebhooksResponse(webhooks=map(_webhook, rows))

    async def GetWebhook(
        self, request: pb.GetWebhookRequest, context: object
    ) -> pb.GetWebhookResponse:
        validation.require_valid(request)
        row = await self._store.get_webhook(
            current_principal().tenant_id, webhook_id=request.webhook_id
        )
        return pb.GetWebhookResponse(webhook=webhook_fields(row))

    async def UpdateWebhook(
        self, request: pb.UpdateWebhookRequest, context: object
    ) -> pb.UpdateWebhookResponse:
        validation.raise_for_violations(self._check_update(request))
        webhook = request.webhook
        row, before = await self._store.update_webhook(
            current_principal().tenant_id,
            webhook_id=request.webhook_id,
            fields=[*request.update_mask.paths],
            url=webhook.url,
            description=webhook.description,
            types=_types(webhook),
            enabled=webhook.enabled,
            position=webhook.position,
        )
        note_changed_fields(
            request.update_mask.paths, _without_secrets(before), _without_secrets(row)
        )
        return pb.UpdateWebhookResponse(webhook=webhook_fields(row))

    async def DeleteWebhook(
        self, request: pb.DeleteWebhookRequest, context: object
    ) -> pb.DeleteWebhookResponse:
        validation.require_valid(request)
        await self._store.delete_webhook(
            current_principal().tenant_id, webhook_id=request.webhook_id
        )
        return pb.DeleteWebhookResponse()

    async def RotateWebhookSecret(
        self, request: pb.RotateWebhookSecretRequest, context: object
    ) -> pb.RotateWebhookSecretResponse:
        validation.require_valid(request)
        keys = self._delivery.keys.current()
        tenant_id = current_principal().tenant_id
        row = await self._store.rotate_webhook_secret(
            tenant_id, webhook_id=request.webhook_id, key_id=keys.newest_id
        )
        secret = keys.secret(tenant_id, row["webhook_id"], row["secret_number"], row["key_id"])
        return pb.RotateWebhookSecretResponse(webhook=webhook_fields(row), secret=encoded(secret))

    async def TestWebhook(
        self, request: pb.TestWebhookRequest, context: object
    ) -> pb.TestWebhookResponse:
        validation.require_valid(request)
        delivery = self._delivery
        tenant_id = current_principal().tenant_id
        if not self._tests.try_take(tenant_id):
            raise TooManyWebhookRestarts
        try:
            result = await self._test(delivery, tenant_id, request.webhook_id)
        finally:
            self._tests.release(tenant_id)
        response = pb.TestWebhookResponse(
            http_status=result.status, error=_error_number(result.error)
        )
        response.duration.FromMicroseconds(round(result.duration * 1_000_000))
        return response

    async def _test(
        self, delivery: WebhookDelivery, tenant_id: str, webhook_id: str
    ) -> DeliveryResult:
        row = await self._store.test_webhook(tenant_id, webhook_id=webhook_id)
        try:
            signing = delivery.keys.current().signing_secrets(tenant_id, webhook_id, row)
        except UnknownKey as e:
            logger.error("%s", e)
            raise WebhooksUnavailable from e
        message_id, body = test_message(webhook_id)
        headers = signed_headers(message_id, int(time.time()), body, signing)
        result = await delivery.sender.send(tenant_id, row["url"], headers, body)
        if not (result.error or row["is_verified"]):
            await self._store.verify_webhook(tenant_id, webhook_id=webhook_id, url=row["url"])
        return result

    @property
    def _delivery(self) -> WebhookDelivery:
        if self._optional_delivery is None:
            raise WebhooksUnavailable
        return self._optional_delivery

    def _check_update(self, request: pb.UpdateWebhookRequest) -> list[Violation]:
        """Check the update_mask and the fields that it names; other fields are ignored."""
        fields = {*request.update_mask.paths}
        checked = ("webhook_id", "update_mask", *(f"webhook.{field}" for field in fields))
        violations = [v for v in check(request) if v.field.startswith(checked)]
        if not violations and "url" in fields:
            violations += self._check_url("webhook.url", request.webhook.url)
        return violations

    def _check_url(self, field: str, url: str) -> list[Violation]:
        try:
            check_url(
                url,
                ports=self._config.webhook_allowed_ports,
                allow_http=self._config.webhook_allow_http,
                is_allowed=self._addresses.allows,
            )
        except ValueError as e:
            return [Violation(field, f"{field} {e}")]
        return []


def _without_secrets(row: Row) -> pb.Webhook:
    """Convert a row for the audit log: instead of the URL, which can be a secret, its host."""
    return pb.Webhook(**webhook_fields(row) | {"url": urlsplit(row["url"]).hostname})


def webhook_fields(row: Row) -> MessageFields:
    """The fields of a Webhook, from a row of jobs.webhooks."""
    # While the webhook is claimed, due_at is the end of the lease.
    is_retry = row["failure_count"] > 0 and row["claim_id"] is None
    return {
        "webhook_id": row["webhook_id"],
        "url": row["url"],
        "description": row["description"],
        "types": row["types"],
        "enabled": row["enabled"],
        "disabled_cause": _DISABLED_CAUSE_NUMBERS.get(row["disabled_cause"] or ""),
        "position": row["position"],
        "purged_position": row["purged_position"],
        "created_at": timestamp_fields(row["created_at"]),
        "last_success_at": timestamp_fields(row["last_success_at"]),
        "last_attempt_at": timestamp_fields(row["last_attempt_at"]),
        "last_http_status": row["last_http_status"],
        "last_error": _error_number(row["last_error"]),
        "failure_count": row["failure_count"],
        "next_attempt_at": timestamp_fields(row["due_at"]) if is_retry else None,
        "due_since": _due_since(row),
        "verified_at": timestamp_fields(row["verified_at"]),
    }


def _due_since(row: Row) -> Any:
    # If the time has not come, it is that of the next attempt, or the end of a lease.
    due_at = timestamp_fields(row["due_at"])
    return due_at if due_at and due_at["seconds"] < time.time() else None


def _error_number(name: str | None) -> Any:
    """The number of a DeliveryError; None if the name is None or unknown."""
    return _ERROR_NUMBERS.get(name or "")


def _webhook(row: Row) -> pb.Webhook:
    return pb.Webhook(**webhook_fields(row))


def _types(message: pb.CreateWebhookRequest | pb.Webhook) -> list[str] | None:
    """The types to deliver, as update_webhook.sql stores them; None: all."""
    return sorted({*message.types}) or None
