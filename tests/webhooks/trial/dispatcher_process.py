"""A dispatcher in a process of its own. Arguments: the DSN of the owner, the endpoint's port."""

import asyncio
import sys

from tests.webhooks.support import open_dispatcher


async def main(owner_dsn: str, port: str) -> None:
    """Deliver until the process is killed."""
    async with open_dispatcher(owner_dsn, int(port)) as dispatcher:
        await dispatcher.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
