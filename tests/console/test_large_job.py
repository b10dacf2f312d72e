"""The page of a large job shows its devices page by page, and keeps little in memory."""

import pytest
from playwright.async_api import Browser

from tests.console.browser import open_console, retained_memory
from tests.console.large_job import ROWS, open_job, read_pages
from tests.gateway.support import Gateway
from tests.support.database import Database
from tests.support.scale import SCALE

DEVICES = 1_000_000 if SCALE > 1 else 20_000
PAGES = 20
# On a busy machine, creating a job for a million devices exceeds the deadline of a call.
CREATE = """
    SELECT jobs.create_job(
        $1, 'large', '{"document_type": "reboot", "target_all": true}', '{}', NULL, $2, NULL, 24)
"""
# From the first page to the last. A browser itself may use any memory.
MAX_GROWTH = 50 * 1024 * 1024


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_page_of_a_large_job_keeps_little_in_memory(
    browser: Browser, gateway: Gateway, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, DEVICES)
    await database.owner.execute(CREATE, tenant, DEVICES)
    async with open_console(browser, gateway.url, tenant=tenant) as console:
        await open_job(console, "large")
        names = await read_pages(console.page, 1)
        memory, nodes = await retained_memory(browser, console.page)
        names |= await read_pages(console.page, PAGES - 1)
        last_memory, last_nodes = await retained_memory(browser, console.page)

    assert len(names) == PAGES * ROWS
    assert last_memory - memory < MAX_GROWTH
    assert last_nodes < 2 * nodes
