"""The page of a large job shows its devices page by page, and keeps little in memory."""

import pytest
from playwright.async_api import Browser, expect

from tests.console.browser import open_console
from tests.gateway.support import Gateway
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.scale import SCALE

DEVICES = 1_000_000 if SCALE > 1 else 20_000
PAGES = 20
MAX_HEAP = 150 * 1024 * 1024


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_page_of_a_large_job_is_fast_and_small(
    browser: Browser, gateway: Gateway, database: Database, operator: Operator, tenant: str
) -> None:
    await database.add_devices(tenant, DEVICES)
    await operator.create(job_id="large", target_all=True)
    async with open_console(browser, gateway.url, tenant=tenant) as console:
        page = console.page
        await console.open("/jobs")
        await page.get_by_role("link", name="large").click()
        table = page.get_by_role("region", name="Devices of the job")
        await expect(table.locator("tbody tr")).to_have_count(100)
        seen: set[str] = set()
        for _ in range(PAGES):
            names = await table.locator("tbody tr a").all_inner_texts()
            assert len(names) == 100
            assert seen.isdisjoint(names)
            seen |= set(names)
            await page.get_by_role("button", name="Next page").click()
            await expect(table.locator("tbody tr a").first).not_to_have_text(names[0])
        session = await page.context.new_cdp_session(page)
        await session.send("HeapProfiler.collectGarbage")
        await session.send("Performance.enable")
        metrics = await session.send("Performance.getMetrics")
        heap = {m["name"]: m["value"] for m in metrics["metrics"]}["JSHeapTotalSize"]
        assert heap < MAX_HEAP
