"""How often pages are loaded again: soon while something changes, rarely while nothing does."""

import asyncio
from urllib.parse import urlsplit

import pytest
from fleet.jobs.v1.jobs_pb2 import JobExecution
from playwright.async_api import Page, Request, Route, expect

from tests.console.browser import Console
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.server import Server

# Milliseconds. A list is loaded every 3 s, and every 15 s while nothing changes. Up to a tenth is
# randomly added or subtracted, so these are more than 3 s, more than 15 s and less than 15 s.
POLL = 3_400
AT_REST, WITHIN_REST = 16_600, 13_000


def _is_list(url: str) -> bool:
    return urlsplit(url).query == "limit=50"


async def _pass_time(page: Page, milliseconds: int) -> None:
    """Run the timers that are due. Their requests are reported before this returns."""
    await page.clock.run_for(milliseconds)
    # A request is reported after those that were sent before it.
    await page.evaluate("fetch('/console/config.json')")


async def _count_lists(page: Page, milliseconds: int) -> int:
    """Let time pass. Return how often the list is loaded.

    Responses wait until the time has passed: otherwise one may set a timer that is due within it.
    """
    sent: list[Request] = []
    has_passed = asyncio.Event()

    async def hold(route: Route) -> None:
        sent.append(route.request)
        await has_passed.wait()
        await route.continue_()

    await page.route(_is_list, hold)
    await _pass_time(page, milliseconds)
    has_passed.set()
    for request in sent:
        response = await request.response()
        assert response
        await response.finished()
    await page.unroute(_is_list)
    return len(sent)


@pytest.fixture
async def job(database: Database, operator: Operator, tenant: str) -> str:
    """A job for two devices."""
    await database.add_devices(tenant, 2)
    await operator.create(job_id="first", target_all=True)
    return "first"


@pytest.mark.usefixtures("job")
async def test_list_is_loaded_rarely_until_it_changes(console: Console, operator: Operator) -> None:
    page = console.page
    await page.clock.install()
    await console.open("/jobs")
    await expect(page.get_by_role("link", name="first")).to_be_visible()

    assert await _count_lists(page, POLL) == 1
    for _ in range(5):
        assert await _count_lists(page, AT_REST) == 1
    assert await _count_lists(page, WITHIN_REST) == 0

    await operator.create(job_id="second", target_all=True)
    assert await _count_lists(page, AT_REST - WITHIN_REST) == 1
    await expect(page.get_by_role("link", name="second")).to_be_visible()
    assert await _count_lists(page, POLL) == 1


@pytest.mark.usefixtures("job")
async def test_approvals_are_loaded_once_for_the_page_and_the_navigation(console: Console) -> None:
    sent: list[str] = []
    console.page.on("request", lambda request: sent.append(request.url))
    await console.open("/approvals")
    await expect(console.page.get_by_text("No job waits for an approval")).to_be_visible()

    assert len([url for url in sent if "awaiting_approval=true" in url]) == 1


async def test_page_of_a_job_loads_its_parts_only_when_the_job_changes(
    server: Server, console: Console, job: str, tenant: str
) -> None:
    page = console.page
    await page.clock.install()
    await console.open(f"/jobs/{job}")
    table = page.get_by_role("region", name="Devices of the job")
    await expect(table.get_by_text("queued")).to_have_count(2)
    await expect(page.get_by_role("region", name="Last events")).to_be_visible()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(urlsplit(request.url).path))
    # Less than the silence after which the page opens its watch again.
    await _pass_time(page, 2 * AT_REST)
    # The navigation asks for jobs that wait for an approval.
    assert set(sent) == {"/customer/jobs", "/console/config.json"}

    device = server.device(tenant, "d00001")
    await device.start(job)
    await device.update(job, JobExecution.SUCCEEDED)
    await expect(page.locator(".numbers")).to_contain_text("Succeeded1")
    await page.clock.run_for(5_000)
    await expect(table.get_by_text("succeeded")).to_have_count(1)
