"""The pages and the watch of a job in a real headless Chromium."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.browser import Proxy, open_page, require_browser, running_proxy
from tests.gateway.support import ROOT, Gateway, RestClient, running_gateway
from tests.support.database import Database
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

pytestmark = pytest.mark.slow

REPORT = b"""
const report = (value) => fetch("/report", { method: "POST", body: JSON.stringify(value) });
"""

READER = b"""<script type="module">
import { watchJob } from "/watch_job.js";
%s
const [url, tenant] = decodeURIComponent(location.hash.slice(1)).split("|");
const job = await watchJob(url, { "X-Tenant-Id": tenant }, (job) => report(job.status));
await report("returned " + job.status);
try {
  await watchJob(url.replace("/a:", "/none:"), { "X-Tenant-Id": tenant }, () => {});
} catch (error) {
  await report(error.reason);
}
</script>"""

EVENT_SOURCE = b"""<script>
%s
const source = new EventSource("/customer/jobs/a:watch");
source.onmessage = (event) => report(JSON.parse(event.data).status);
// After the last state, it connects again with Last-Event-ID, gets 204 and stops.
source.onerror = () => {
  if (source.readyState === EventSource.CLOSED) report("closed");
};
</script>"""

AUTHORIZE = b"""
%s
const sleep = () => new Promise((wake) => setTimeout(wake, 50));
const find = async (selector) => {
  for (;;) {
    const found = document.querySelector(selector);
    if (found) return found;
    await sleep();
  }
};
const type = (input, text) => {
  const { set } = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value");
  set.call(input, text);
  input.dispatchEvent(new Event("input", { bubbles: true }));
};
document.addEventListener("securitypolicyviolation", (e) => report("blocked " + e.blockedURI));
(async () => {
  (await find(".btn.authorize")).click();
  type(await find('[aria-label="auth-bearer-value"]'), "token-of-test");
  document.querySelector('[aria-label="auth-bearer-value"]').closest("form")
    .querySelector("button.authorize").click();
  (await find(".btn-done")).click();
  (await find("#operations-jobs-ListJobs .opblock-summary-control")).click();
  (await find("#operations-jobs-ListJobs .execute")).click();
  const list = "#operations-jobs-ListJobs ";
  const status = await find(list + ".live-responses-table tbody .response-col_status");
  await report(status.textContent.trim().slice(0, 3));
  const listed = document.querySelectorAll(list + ".responses-inner li code");
  await report([...listed].map((code) => code.textContent));
})();
"""


@pytest.fixture(autouse=True)
def browser() -> None:
    require_browser()


@pytest.fixture
async def proxy(gateway: Gateway, tenant: str) -> AsyncIterator[Proxy]:
    async with running_proxy(gateway.url, tenant) as proxy:
        yield proxy


async def reported(proxy: Proxy) -> object:
    return await asyncio.wait_for(proxy.reports.get(), TIMEOUT)


async def test_fetch_based_reader_follows_a_job_of_another_origin(
    gateway_binary: Path, server: Server, database: Database, tenant: str, tmp_path: Path
) -> None:
    await database.add_devices(tenant, 1)
    async with running_proxy("", tenant) as pages:
        origins = {"CORS_ORIGINS": pages.url}
        async with (
            running_gateway(gateway_binary, server.address, **origins) as gateway,
            httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as http,
        ):
            rest = RestClient(http, tenant)
            await rest.create(job_id="a", target_all=True)
            pages.files["/"] = READER % REPORT
            pages.files["/watch_job.js"] = (ROOT / "examples" / "watch_job.js").read_bytes()
            url = f"{pages.url}/#{gateway.url}/customer/jobs/a:watch|{tenant}"

            async with open_page(url, tmp_path):
                assert await reported(pages) == "IN_PROGRESS"
                await rest.as_device("d00001", "PATCH", "/a", {"status": "SUCCEEDED"})
                assert await reported(pages) == "COMPLETED"
                assert await reported(pages) == "returned COMPLETED"
                assert await reported(pages) == "JOB_NOT_FOUND"


async def test_event_source_follows_a_job_when_a_proxy_sets_the_tenant(
    proxy: Proxy, rest: RestClient, database: Database, tmp_path: Path
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    proxy.files["/"] = EVENT_SOURCE % REPORT

    async with open_page(f"{proxy.url}/", tmp_path):
        assert await reported(proxy) == "IN_PROGRESS"
        await rest.as_device("d00001", "PATCH", "/a", {"status": "SUCCEEDED"})
        assert await reported(proxy) == "COMPLETED"
        assert await reported(proxy) == "closed"


async def test_docs_page_authorizes_and_calls_within_its_content_security_policy(
    proxy: Proxy, gateway: Gateway, tmp_path: Path
) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as http:
        page = await http.get("/docs")
    policy = page.headers["content-security-policy"]
    # The same page with one more script, which is allowed because it is a file of the host.
    html = page.content.replace(b"</body>", b'<script src="/test.js"></script></body>')
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    proxy.files["/docs"] = html.replace(b"<head>", b"<head>" + meta.encode())
    proxy.files["/test.js"] = AUTHORIZE % REPORT

    async with open_page(f"{proxy.url}/docs", tmp_path) as log:
        # The server does not use tokens, so it rejects the one that Authorize added.
        assert await reported(proxy) == "401"
        reasons = await reported(proxy)
    assert isinstance(reasons, list)
    assert {"INVALID_PAGE_TOKEN", "TENANT_REQUIRED", "OVERLOADED"} <= set(reasons)
    blocked = [line for line in log.read_text().splitlines() if "Content Security Policy" in line]
    assert not [line for line in blocked if "frame-ancestors" not in line]  # ignored in <meta>
