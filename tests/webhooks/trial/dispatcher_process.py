"""A dispatcher in a process of its own. Arguments: the DSN of the owner, the endpoint's port."""

import asyncio
import ipaddress
import sys

from jobs_grpc.config import EventsConfig
from jobs_grpc.webhooks.delivery import http_sender
from jobs_grpc.webhooks.dispatcher import PROVEN_SLOTS, SLOW_SLOTS, UNPROVEN_SLOTS, Dispatcher
from tests.webhooks.support import KEYS


async def main(owner_dsn: str, port: str) -> None:
    """Deliver until the process is killed."""
    config = EventsConfig(
        webhook_allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),),
        webhook_allowed_ports=(int(port),),
        webhook_allow_http=True,
    )
    async with (
        http_sender(config, max_connections=PROVEN_SLOTS + SLOW_SLOTS) as proven,
        http_sender(config, max_connections=UNPROVEN_SLOTS) as unproven,
        Dispatcher(owner_dsn, lambda: KEYS, proven, unproven) as dispatcher,
    ):
        await dispatcher.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
