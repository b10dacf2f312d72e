"""Opens the keys, the senders and the dispatcher of webhooks."""

import importlib.util
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from jobs_grpc.config import Config, ConfigError, EventsConfig
from jobs_grpc.db.outage import Outage
from jobs_grpc.services.webhooks import WebhookDelivery
from jobs_grpc.webhooks.dispatcher import (
    PROVEN_SLOTS,
    SLOW_SLOTS,
    UNPROVEN_SLOTS,
    Dispatcher,
)
from jobs_grpc.webhooks.secrets import MalformedKeys, MasterKeysFile
from jobs_grpc.webhooks.sender import Sender


@asynccontextmanager
async def webhook_delivery(
    config: EventsConfig, sender: Sender | None = None
) -> AsyncIterator[WebhookDelivery | None]:
    """Load the master keys, and open a sender unless `sender` is given.

    Yields None without JOBS_WEBHOOK_KEYS_FILE. Raises ConfigError if the keys are not usable or the
    extra `webhooks` is not installed.
    """
    if config.webhook_keys_file is None:
        yield None
        return
    try:
        keys = MasterKeysFile(Path(config.webhook_keys_file))
    except (OSError, MalformedKeys) as e:
        raise ConfigError(f"JOBS_WEBHOOK_KEYS_FILE is not usable: {e}") from None
    if sender:
        yield WebhookDelivery(keys, sender)
        return
    if importlib.util.find_spec("aiohttp") is None:
        raise ConfigError(
            "JOBS_WEBHOOK_KEYS_FILE needs the extra webhooks (aiohttp can't be imported): "
            'pip install "jobs-grpc[webhooks]"'
        )
    from jobs_grpc.webhooks.delivery import http_sender

    async with http_sender(config) as opened:
        yield WebhookDelivery(keys, opened)


@asynccontextmanager
async def webhook_dispatcher(
    config: Config, keys: MasterKeysFile, outage: Outage, sender: Sender | None = None
) -> AsyncIterator[Dispatcher]:
    """Open the dispatcher. Needs JOBS_OWNER_DATABASE_URL. `sender` replaces both HTTP senders."""
    async with AsyncExitStack() as stack:
        if sender:
            proven = unproven = sender
        else:
            from jobs_grpc.webhooks.delivery import http_sender

            proven, unproven = [
                await stack.enter_async_context(http_sender(config.events, max_connections=slots))
                for slots in (PROVEN_SLOTS + SLOW_SLOTS, UNPROVEN_SLOTS)
            ]
        yield await stack.enter_async_context(
            Dispatcher(
                config.maintenance.owner_database_url or "",
                keys.current,
                proven,
                unproven,
                statement_cache_size=config.database.statement_cache_size,
                outage=outage,
            )
        )
