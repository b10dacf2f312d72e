"""What operators do: create, watch, stop, retry, approve, cancel."""

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from playwright.async_api import Browser, expect

from tests.console.browser import Console, open_console
from tests.console.fleet import running_fleet
from tests.gateway.support import Gateway
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.server import Server

DEVICES = [f"pump-{n:02}" for n in range(40)]


@pytest.fixture(autouse=True)
async def devices(database: Database, tenant: str) -> None:
    """Give the tenant 40 devices in the group north."""
    await database.add_devices(tenant, DEVICES, group="north")


async def test_operator_creates_a_staged_job_and_watches_it_finish(
    console: Console, server: Server, tenant: str
) -> None:
    page = console.page
    await console.open()
    await page.get_by_role("link", name="New job").click()
    await page.get_by_label("Job ID").fill("fw-2")
    await page.get_by_label("Document type").fill("firmware")
    await page.get_by_label("Document parameters").fill('{"version": "2"')
    await expect(page.locator("#document-problem")).to_contain_text("Line 1:")
    await page.get_by_label("Document parameters").fill('{"version": "2"}')
    await page.get_by_label("Group", exact=True).fill("north")
    await expect(page.get_by_text("pump-00, pump-01")).to_be_visible()
    await page.get_by_role("button", name="Add stage").click()
    await page.get_by_role("group", name="Stage 0").get_by_label("Value").fill("10")
    await expect(page.get_by_text("4 devices first, then 36 if 95 % succeed")).to_be_visible()
    await page.get_by_role("button", name="Create job for 40 devices").click()

    await expect(page.get_by_role("heading", name="fw-2")).to_be_visible()
    async with running_fleet(server, tenant, DEVICES):
        await expect(page.locator(".badge").first).to_have_text("Completed")
    await expect(page.locator(".numbers dd").first).to_have_text("40")


async def test_bad_release_pauses_and_completes_after_a_retry(
    console: Console, server: Server, operator: Operator, tenant: str
) -> None:
    page = console.page
    fixed = False

    def outcome(device: str, _execution: device_pb.DeviceExecution) -> str:
        return "" if fixed or int(device[-2:]) % 4 else "BOOT_LOOP"

    await operator.create(
        job_id="bad",
        document_type="firmware",
        target_all=True,
        failure_criteria=[{"percent": 10, "min_finished": 10}],
    )
    await console.open("/jobs/bad")
    async with running_fleet(server, tenant, DEVICES, outcome):
        await expect(page.get_by_role("heading", name="Paused: ")).to_be_visible()
        await expect(page.get_by_role("row", name="BOOT_LOOP").first).to_be_visible()
        await page.get_by_role("button", name="Retry these").click()
        fixed = True
        await page.get_by_role("dialog").get_by_role("button", name="Retry").click()
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await page.get_by_role("button", name="Resume").click()
        await page.get_by_role("dialog").get_by_role("button", name="Resume").click()
        await expect(page.locator(".badge").first).to_have_text("Completed")
    await expect(page.locator(".numbers dd").last).to_have_text("0")


async def test_stage_is_approved_by_another_user(
    console: Console,
    browser: Browser,
    gateway: Gateway,
    server: Server,
    tenant: str,
) -> None:
    ann = server.operator(tenant, "ann")
    await ann.create(
        job_id="careful",
        document_type="firmware",
        target_all=True,
        rollout={
            "stages": [
                {"device_count": 2, "gate": {"require_approval": True}},
                {"remainder": True},
            ]
        },
    )
    async with running_fleet(server, tenant, DEVICES):
        page = console.page
        await console.open("/approvals")
        await page.get_by_role("button", name="Approve").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_role("button", name="Approve").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("another user")

        async with open_console(browser, gateway.url, tenant=tenant, user="bob") as other:
            await other.open("/approvals")
            await other.page.get_by_label("Comment").fill("seen on the bench")
            await other.page.get_by_role("button", name="Approve").click()
            await other.page.get_by_role("dialog").get_by_role("button", name="Approve").click()
            await expect(other.page.get_by_text("No stage waits for an approval")).to_be_visible()
            await other.open("/jobs/careful?tab=history")
            await expect(other.page.locator(".timeline")).to_contain_text("approved by bob")
            await expect(other.page.locator(".badge").first).to_have_text("Completed")


async def test_cancel_of_a_large_job_asks_for_its_id(
    console: Console, database: Database, operator: Operator, tenant: str
) -> None:
    page = console.page
    await database.add_devices(tenant, [f"meter-{n:04}" for n in range(1000)])
    await operator.create(job_id="large", document_type="reboot", target_all=True)
    await console.open("/jobs/large")
    await page.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("1,040 devices will never start")
    confirm = dialog.get_by_role("button", name="Cancel job")
    await expect(confirm).to_be_disabled()
    await dialog.get_by_role("textbox").fill("large")
    await confirm.click()
    await expect(page.locator(".badge").first).to_have_text("Canceled")


async def test_filters_are_in_the_url_and_survive_a_reload(
    console: Console, browser: Browser, gateway: Gateway, operator: Operator, tenant: str
) -> None:
    await operator.create(job_id="fw-1", document_type="firmware", target_all=True)
    await operator.create(job_id="reboot-1", document_type="reboot", target_all=True)
    await operator.cancel("fw-1")
    page = console.page
    await console.open()
    await expect(page.locator(".jobs .id")).to_have_text(["reboot-1", "fw-1"])
    await page.get_by_label("Status").select_option("Canceled")
    await page.get_by_label("Job starts with").fill("fw")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.locator(".jobs .id")).to_have_text(["fw-1"])
    await page.reload()
    await expect(page.get_by_label("Status")).to_have_value("CANCELED")
    await expect(page.locator(".jobs .id")).to_have_text(["fw-1"])

    async with open_console(browser, gateway.url, tenant=tenant, user="bob") as other:
        await other.page.goto(page.url)
        await expect(other.page.locator(".jobs .id")).to_have_text(["fw-1"])
    await page.go_back()
    await expect(page.get_by_label("Job starts with")).to_have_value("")


async def test_conflict_shows_what_has_changed(console: Console, operator: Operator) -> None:
    page = console.page
    await operator.create(job_id="shared", document_type="firmware", target_all=True)
    await console.open("/jobs/shared")
    await page.get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog")
    await operator.update("shared", "description", description="by another")
    await dialog.get_by_role("button", name="Pause").click()
    alert = dialog.get_by_role("alert")
    await expect(alert).to_contain_text("has changed since this page showed it")
    await expect(alert).to_contain_text("changed by olivia: description")
    await dialog.get_by_role("button", name="Back").click()
    await page.get_by_role("button", name="Pause").click()
    await dialog.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("heading", name="Paused by ann")).to_be_visible()


async def test_request_id_of_an_error_can_be_copied(console: Console) -> None:
    page = console.page
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await console.open("/jobs/none")
    await page.get_by_role("alert").get_by_role("button", name="Copy request ID").click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    request_id = await page.get_by_role("alert").locator("code").inner_text()
    assert await page.evaluate("navigator.clipboard.readText()") == request_id


async def test_several_jobs_are_paused_and_canceled_together(
    console: Console, operator: Operator
) -> None:
    page = console.page
    for job_id in ("a", "b", "c"):
        await operator.create(job_id=job_id, document_type="reboot", target_all=True)
    await operator.cancel("c")
    await console.open()
    for job_id in ("a", "b", "c"):
        await page.get_by_label(f"Select {job_id}").check()
    await page.get_by_role("button", name="Pause 2 of them").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Pause 2 jobs?")
    await expect(dialog).to_contain_text("80 devices")
    await dialog.get_by_text("Same in a terminal").click()
    commands = "jobs-grpc pause b && jobs-grpc pause a"
    await expect(dialog.get_by_text(commands, exact=True)).to_be_visible()
    await dialog.get_by_role("button", name="Pause 2 jobs").click()
    await expect(page.get_by_text("Paused", exact=True)).to_have_count(3)  # and the filter

    for job_id in ("a", "b"):
        await page.get_by_label(f"Select {job_id}").check()
    await page.get_by_role("button", name="Cancel").click()
    await dialog.get_by_role("button", name="Cancel 2 jobs").click()
    await expect(page.locator(".jobs .badge", has_text="Canceled")).to_have_count(3)
