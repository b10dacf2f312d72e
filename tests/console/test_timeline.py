"""The timeline of a job, on its page."""

import re

from fleet.jobs.v1.jobs_pb2 import JobExecution
from playwright.async_api import expect

from tests.console.browser import Console
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.server import Server


async def test_plot_starts_with_the_timeline_and_continues_with_the_watch(
    console: Console, server: Server, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 4)
    await operator.create(job_id="j", target_all=True)
    await server.device(operator.tenant, "d00001").update("j", JobExecution.SUCCEEDED)
    await operator.pause("j", reason="too hot")
    await operator.resume("j")
    page = console.page
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    await console.open("/jobs/j")
    progress = page.get_by_role("region", name="Timeline")
    plot = progress.get_by_role("img")
    await expect(progress.get_by_label("1 of 4 executions finished")).to_be_visible()

    for device, status in (("d00002", JobExecution.FAILED), ("d00003", JobExecution.SUCCEEDED)):
        await server.device(operator.tenant, device).update("j", status)

    await expect(progress.get_by_label("3 of 4 executions finished")).to_be_visible()
    assert "2 succeeded, 1 failed" in (await plot.get_attribute("aria-label") or "")
    assert len([url for url in requests if url.endswith("/timeline")]) == 1
    await progress.get_by_role("button", name="paused by").focus()
    await expect(progress.get_by_role("listitem").first).to_contain_text("too hot")
    assert await console.findings() == []

    await operator.retry("j", "FAILED")

    await expect(progress.get_by_label("2 of 4 executions finished")).to_be_visible()
    await expect(progress).to_contain_text("a retried device counts when its current attempt ends")

    # The counts do not say that a device was canceled, so the timeline is asked again.
    await page.route("**/timeline", lambda route: route.fulfill(status=429), times=2)
    await operator.cancel_execution("j", "d00004")

    canceled = progress.get_by_label("3 of 4 executions finished")
    await expect(canceled).to_have_attribute(
        "aria-label", re.compile("2 succeeded, 1 canceled or expired")
    )
    await expect(page.locator(".outage")).to_have_count(0)
    assert await console.violations() == []
