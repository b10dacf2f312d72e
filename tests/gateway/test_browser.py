"""The pages and the watch of a job in a real headless Chromium."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.gateway.browser import running_browser
from tests.gateway.support import ROOT, Gateway, RestClient, running_gateway
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("job")]

expect.set_options(timeout=TIMEOUT * 1000)

READ = """async ([url, tenant]) => {
  const { watchJob } = await import(SOURCE);
  const headers = { "X-Tenant-Id": tenant };
  const job = await watchJob(url, headers, (job) => report(job.status));
  await report("returned " + job.status);
  await watchJob(url.replace("/a:", "/none:"), headers, () => {}).catch((e) => report(e.reason));
}"""

EVENT_SOURCE = """() => {
  const source = new EventSource("/customer/jobs/a:watch");
  source.onmessage = (event) => report(JSON.parse(event.data).status);
  // After the last state, it connects again with Last-Event-ID, gets 204 and stops.
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) report("closed");
  };
}"""


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
async def context(browser: Browser) -> BrowserContext:
    # The scripts of the tests are not in the policy of the pages.
    return await browser.new_context(bypass_csp=True)


@pytest.fixture
async def page(context: BrowserContext) -> AsyncIterator[Page]:
    page = await context.new_page()
    yield page
    await page.close()


@pytest.fixture
async def reports(page: Page) -> asyncio.Queue[str]:
    """What the page reports with `report(text)`."""
    queue = asyncio.Queue[str]()
    await page.expose_function("report", queue.put_nowait)
    return queue


async def reported(reports: asyncio.Queue[str]) -> str:
    return await asyncio.wait_for(reports.get(), TIMEOUT)


async def test_fetch_based_reader_follows_a_job_of_another_origin(
    gateway_binary: Path,
    gateway: Gateway,
    server: Server,
    rest: RestClient,
    page: Page,
    reports: asyncio.Queue[str],
) -> None:
    source = (ROOT / "examples" / "watch_job.js").read_text(encoding="utf-8")
    async with running_gateway(gateway_binary, server.address, CORS_ORIGINS=gateway.url) as other:
        await page.goto(f"{gateway.url}/healthz")
        await page.evaluate("(source) => { window.source = source; }", source)
        module = "URL.createObjectURL(new Blob([window.source], { type: 'text/javascript' }))"
        url = f"{other.url}/customer/jobs/a:watch"
        read = page.evaluate(READ.replace("SOURCE", module), [url, rest.tenant])
        reading = asyncio.ensure_future(read)

        assert await reported(reports) == "IN_PROGRESS"
        await rest.as_device("d00001", "PATCH", "/a", {"status": "SUCCEEDED"})
        await reading

    rest_of = [reports.get_nowait() for _ in range(reports.qsize())]
    assert rest_of == ["COMPLETED", "returned COMPLETED", "JOB_NOT_FOUND"]


async def test_event_source_follows_a_job_when_a_proxy_sets_the_tenant(
    gateway: Gateway, rest: RestClient, page: Page, reports: asyncio.Queue[str]
) -> None:
    await page.set_extra_http_headers({"X-Tenant-Id": rest.tenant})
    await page.goto(f"{gateway.url}/healthz")
    await page.evaluate(EVENT_SOURCE)

    assert await reported(reports) == "IN_PROGRESS"
    await rest.as_device("d00001", "PATCH", "/a", {"status": "SUCCEEDED"})
    assert await reported(reports) == "COMPLETED"
    assert await reported(reports) == "closed"


async def test_docs_page_authorizes_and_calls_within_its_content_security_policy(
    gateway: Gateway, rest: RestClient, browser: Browser
) -> None:
    async with await browser.new_page(extra_http_headers={"X-Tenant-Id": rest.tenant}) as page:
        blocked: list[str] = []
        page.on("console", lambda m: blocked.append(m.text) if "Policy" in m.text else None)
        await page.goto(f"{gateway.url}/docs")
        await page.locator(".btn.authorize").click()
        bearer = page.locator("form", has=page.get_by_label("auth-bearer-value"))
        await bearer.get_by_label("auth-bearer-value").fill("token-of-test")
        await bearer.locator("button.authorize").click()
        await page.locator(".btn-done").first.click()
        operation = page.locator("#operations-jobs-ListJobs")
        await operation.locator(".opblock-summary-control").click()
        await operation.locator(".execute").click()

        # The server does not use tokens, so it rejects the one that Authorize added.
        status = operation.locator(".live-responses-table tbody .response-col_status")
        await expect(status).to_contain_text("401")
        reasons = await operation.locator(".responses-inner li code").all_inner_texts()
    assert {"INVALID_PAGE_TOKEN", "TENANT_REQUIRED", "OVERLOADED"} <= set(reasons)
    assert blocked == []
