"""A restart of the server and of the gateway under an open page."""

from contextlib import AsyncExitStack
from pathlib import Path

from fleet.jobs.v1.jobs_pb2 import JobExecution
from playwright.async_api import Browser, expect

from tests.console.browser import open_console
from tests.gateway.support import running_gateway
from tests.support.database import Database
from tests.support.server import reserved_address, running_server


async def test_open_job_page_continues_after_restarts(
    browser: Browser, gateway_binary: Path, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["pump-1", "pump-2"])
    async with AsyncExitStack() as stack:
        address = stack.enter_context(reserved_address())
        gateway_address = stack.enter_context(reserved_address())
        first = await stack.enter_async_context(AsyncExitStack())
        server = await first.enter_async_context(
            running_server(database.request_dsn, JOBS_LISTEN=address, JOBS_SHUTDOWN_GRACE="0")
        )
        gateway = await first.enter_async_context(
            running_gateway(gateway_binary, address, LISTEN=gateway_address, SHUTDOWN_GRACE="1s")
        )
        await server.operator(tenant).create(job_id="long", target_all=True)
        console = await stack.enter_async_context(open_console(browser, gateway.url, tenant=tenant))
        page = await console.open("/jobs/long")
        succeeded = page.locator(".numbers dd").first
        await expect(succeeded).to_have_text("0")
        banner = page.locator(".outage")
        await expect(banner).to_have_count(0)

        await first.aclose()
        await expect(banner).to_contain_text("can't be reached")
        await expect(banner).to_contain_text("updates when the service responds")
        # A screen reader reads what changes: not the seconds.
        await expect(banner.locator("[aria-hidden=true]")).to_contain_text("(for ")
        await expect(page.get_by_role("heading", name="long")).to_be_visible()

        await stack.enter_async_context(
            running_gateway(gateway_binary, address, LISTEN=gateway_address)
        )
        # A page that is opened now loads by itself, as soon as it can.
        other = await page.context.new_page()
        await other.route("**/console/config.json", lambda route: route.fulfill(body="<p>"))
        await other.goto(page.url)
        await expect(other.get_by_text("The gateway can't be reached. This page")).to_be_visible()
        await other.unroute_all()
        await expect(other.get_by_text("This page loads when it responds.")).to_be_visible()
        await expect(other.get_by_role("link", name="Jobs").first).to_be_visible()
        server = await stack.enter_async_context(
            running_server(database.request_dsn, JOBS_LISTEN=address)
        )
        await expect(other.get_by_role("heading", name="long")).to_be_visible()
        device = server.device(tenant, "pump-1")
        await device.start("long")
        await device.update("long", JobExecution.SUCCEEDED)
        await expect(succeeded).to_have_text("1")
        await expect(banner).to_have_count(0)
