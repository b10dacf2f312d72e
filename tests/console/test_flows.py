"""What operators do: create, watch, stop, retry, approve, cancel."""

import re

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1.jobs_pb2 import Job, JobExecution
from playwright.async_api import Browser, Route, expect

from tests.console.browser import Console, open_console
from tests.console.fleet import running_fleet
from tests.gateway.support import Gateway
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.joins import join
from tests.support.server import Server
from tests.support.world import World

DEVICES = [f"pump-{n:02}" for n in range(40)]


@pytest.fixture(autouse=True)
async def devices(database: Database, tenant: str) -> None:
    """Give the tenant 40 devices in the group north."""
    await database.add_devices(tenant, DEVICES, group="north")


async def test_operator_creates_a_staged_job_and_watches_it_finish(
    console: Console, server: Server, operator: Operator, tenant: str
) -> None:
    await operator.create(job_id="fw-1", target_all=True)
    page = await console.open("/jobs")
    await page.get_by_role("link", name="New job").click()
    await page.get_by_label("Job ID").fill("fw-2")
    await page.get_by_label("Replaces job").fill("fw-1")
    await page.get_by_label("Document type").fill("firmware")
    await page.get_by_label("Document parameters").fill('{"version": "2"')
    await expect(page.locator("#document-problem")).to_contain_text("Line 1:")
    document = page.get_by_role("textbox", name="Document parameters")
    await expect(document).to_have_accessible_name("Document parameters (JSON)")
    await page.get_by_label("Document parameters").fill('{"version": "2"}')
    await page.get_by_label("Group", exact=True).fill("north")
    await expect(page.get_by_text("pump-00, pump-01")).to_be_visible()
    await page.get_by_role("button", name="Add stage").click()
    await page.get_by_role("group", name="Stage 0").get_by_label("Name").fill("canary")
    percent = page.get_by_role("group", name="canary").get_by_role("textbox", name="Percent")
    await percent.fill("101")
    mistake = "Stage canary: percent must be from 1 to 100"
    await expect(page.get_by_role("alert")).to_contain_text(mistake)
    await expect(percent).to_have_accessible_description(mistake)
    await percent.fill("10")
    await expect(page.get_by_text("4 devices first, then 36 if 95 % succeed")).to_be_visible()
    await expect(page.get_by_text("failures from 20 finished devices on")).to_be_visible()
    late = page.get_by_text("it can't act in the first stage, which has 4 devices")
    await expect(late).to_be_visible()
    await page.get_by_label("Not before this many devices finished").fill("41")
    await expect(page.get_by_text("never act, because the job has 40 devices")).to_be_visible()
    await page.get_by_label("Not before this many devices finished").fill("4")
    await expect(page.get_by_text("failures from 4 finished devices on")).to_be_visible()
    await expect(late).to_have_count(0)
    replaced = "Cancels fw-1, which 40 devices have not started: 4 in canary, 36 in stage 1."
    await expect(page.get_by_text(replaced)).to_be_visible()
    await page.get_by_label("Replaces job").fill("")

    # The section with a problem stays open while the person types.
    timeout = page.get_by_label("Timeout of an execution")
    await page.get_by_text("When to start, retries, timeouts").click()
    await timeout.fill("x")
    await expect(timeout).to_have_attribute("aria-invalid", "true")
    await timeout.fill("")
    await expect(timeout).not_to_have_attribute("aria-invalid", "true")
    await expect(timeout).to_be_visible()

    # The draft survives a reload, another page and another user.
    await page.reload()
    await page.get_by_role("link", name="Events").click()
    await page.locator(".who button").click()
    await page.get_by_label("User name").fill("bob")
    await page.get_by_role("button", name="Use", exact=True).click()
    await expect(page.locator(".who")).to_contain_text(f"{tenant} · bob (")
    await page.get_by_role("link", name="Jobs", exact=True).click()
    await page.get_by_role("link", name="New job").click()
    job_id = page.get_by_label("Job ID")
    await expect(job_id).to_have_value("fw-2")
    await page.get_by_role("button", name="Discard draft").click()
    await expect(job_id).to_have_value("")
    await page.get_by_role("button", name="Restore draft").click()
    await page.get_by_role("button", name="Create job for 40 devices").click()

    await expect(page.get_by_role("heading", name="fw-2")).to_be_visible()
    async with running_fleet(server, tenant, DEVICES):
        await expect(page.locator(".badge").first).to_have_text("Completed")
    await expect(page.locator(".numbers dd").first).to_have_text("40")

    await page.get_by_role("link", name="Copy job").click()
    await job_id.fill("fw-2")
    await page.get_by_role("button", name="Create job for 40 devices").click()
    repeated = re.compile(r"fw-2 already exists \(created by bob, \d+ s ago\); nothing was created")
    await expect(page.get_by_role("alert")).to_have_text(repeated)


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
        await expect(page.get_by_role("heading", name="A failure criterion paused")).to_be_visible()
        await expect(page.get_by_role("row", name="BOOT_LOOP").first).to_be_visible()
        trip = (await operator.get("bad")).trip
        tripped = f"tripped at {trip.failure_count} of {trip.basis_count}"
        await expect(page.get_by_text(tripped)).to_be_visible()
        await page.get_by_role("button", name="Retry these").click()
        fixed = True
        await page.get_by_role("dialog").get_by_role("button", name="Retry").click()
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await page.get_by_role("button", name="Resume").click()
        await page.get_by_role("dialog").get_by_role("button", name="Resume").click()
        await expect(page.locator(".badge").first).to_have_text("Completed")
    await expect(page.locator(".numbers dd").last).to_have_text("0")
    # The counts began again when the job was resumed.
    await expect(page.get_by_text(tripped)).to_have_count(0)


async def test_gate_that_is_not_met_offers_a_retry_instead_of_resume(
    console: Console, server: Server, operator: Operator, tenant: str
) -> None:
    page = console.page
    stages = [
        {"device_count": 2, "display_name": "Canary", "gate": {"min_succeeded_percent": 90}},
        {"remainder": True, "display_name": "Rest"},
    ]
    await operator.create(
        job_id="stuck",
        document_type="firmware",
        target_all=True,
        rollout={"stages": stages},
        failure_criteria=[{"percent": 5, "min_finished": 20}],
    )
    async with running_fleet(server, tenant, DEVICES, lambda _device, _execution: "FLASH"):
        await console.open("/jobs/stuck")
        notice = page.get_by_role("region", name="What to do next")
        await expect(notice.locator("button.primary")).to_have_text("Retry 2 failures…")
    await expect(notice.get_by_role("button", name="Resume")).to_have_count(0)
    # The failures do not count for the criterion yet.
    await expect(page.get_by_text("counts from 20 finished devices, 2 so far")).to_be_visible()
    await expect(page.locator(".gauge.tripped")).to_have_count(0)

    await notice.get_by_role("link", name="change the gate").press("Enter")
    await expect(page.get_by_role("tab", name="Settings")).to_be_focused()
    await expect(page.get_by_label("Succeeded, at least (%)")).to_have_value("90")

    await page.get_by_role("link", name="2 failures in Canary").click()
    panel = page.get_by_role("tabpanel")
    await expect(panel.get_by_text("2 devices", exact=True)).to_be_visible()
    await expect(panel.get_by_role("cell", name="Canary")).to_have_count(2)
    await expect(panel.get_by_role("cell", name="FLASH")).to_have_count(2)
    await page.get_by_role("combobox", name="Stage").select_option("Rest")
    await expect(panel.get_by_text("No device matches.")).to_be_visible()
    await page.get_by_role("link", name="Devices of Canary with FLASH").click()
    await expect(page.get_by_role("textbox", name="Code")).to_have_value("FLASH")
    await expect(panel.get_by_text("2 devices", exact=True)).to_be_visible()
    device = panel.locator("tbody a").first
    name = await device.inner_text()
    await device.click()
    await expect(page.get_by_role("heading", name=name)).to_be_visible()
    await expect(page.locator(".heading")).to_contain_text("Canary")
    await page.get_by_role("link", name="← stuck").click()
    await expect(panel.get_by_text("2 devices", exact=True)).to_be_visible()

    await page.get_by_role("button", name="Retry 2 failures").click()
    await page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    await expect(page.locator("main").get_by_role("status").first).to_contain_text(
        "2 devices that failed will get another attempt, after the job is resumed."
    )
    # The devices of the stage are queued: the gate does not pause the job again.
    await expect(notice.locator("button.primary")).to_have_text("Resume…")
    await notice.get_by_role("button", name="Resume").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text(
        "2 devices can start. 38 more devices must wait: "
        "The gate of stage 0 (Canary): 0 % succeeded, 90 % required."
    )
    await dialog.get_by_role("button", name="Back").click()
    await operator.cancel("stuck")
    rest = page.get_by_role("row", name="Rest")
    await expect(rest.get_by_role("img", name="38 canceled or rejected")).to_be_visible()
    await expect(rest.get_by_role("cell").nth(3)).to_have_text("0")


async def test_stage_is_approved_by_another_user(
    console: Console, browser: Browser, gateway: Gateway, server: Server, tenant: str
) -> None:
    ann = server.operator(tenant, "ann")
    await ann.create(
        job_id="careful",
        document_type="firmware",
        target_all=True,
        rollout={
            "stages": [
                {"device_count": 2, "display_name": "Canary", "gate": {"require_approval": True}},
                {"remainder": True},
            ]
        },
    )
    async with running_fleet(server, tenant, DEVICES):
        page = await console.open("/approvals")
        problem = "You can't approve it: you created the job."
        await expect(page.get_by_text(problem)).to_be_visible()
        await expect(page.get_by_role("button", name="Approve")).to_have_count(0)
        await expect(page.locator("header .count")).to_have_count(0)
        await page.get_by_label("Comment").fill("too hot")
        await page.get_by_role("button", name="Reject").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("This pauses the job: 38 devices will not start")
        await expect(dialog).to_contain_text("Comment: “too hot”")
        await dialog.get_by_role("button", name="Reject").click()
        rejected = page.get_by_role("region", name="careful")
        await expect(rejected).to_contain_text(
            "Paused ann rejected a stage of the rollout: too hot"
        )
        await expect(rejected).to_contain_text("opens with 38 devices when the job is resumed")
        await expect(rejected.get_by_label("Comment")).to_have_count(0)
        await page.get_by_role("link", name="careful", exact=True).first.click()
        await expect(
            page.get_by_role("heading", name="ann rejected a stage of the rollout: too hot")
        ).to_be_visible()
        await page.get_by_role("button", name="Resume").click()
        await dialog.get_by_role("button", name="Resume").click()
        await expect(page.get_by_role("heading", name="Approval needed")).to_be_visible()
        # Without a rate, and without a time left.
        await expect(page.get_by_role("heading", name="Timeline", exact=True)).to_be_visible()

        async with open_console(browser, gateway.url, tenant=tenant, user="bob") as other:
            await other.open("/approvals")
            await expect(other.page.locator("header .count")).to_have_text("1")
            await other.page.get_by_label("Comment").fill("seen on the bench")
            await other.page.get_by_role("button", name="Approve").click()
            await other.page.get_by_role("dialog").get_by_role("button", name="Approve").click()
            await expect(other.page.get_by_text("No job waits for an approval")).to_be_visible()
            status = other.page.locator("main").get_by_role("status").first
            await expect(status).to_contain_text("opens (38 devices). careful")
            await other.open("/jobs/careful?tab=history")
            await expect(other.page.locator("#panel .events")).to_contain_text(
                "the gate of Canary was approved by bob"
            )
            await expect(other.page.locator(".badge").first).to_have_text("Completed")


async def test_start_is_approved_or_rejected_by_another_user(
    console: Console, browser: Browser, gateway: Gateway, server: Server, tenant: str
) -> None:
    ann = server.operator(tenant, "ann")
    await ann.create(
        job_id="fw-1", document_type="firmware", target_all=True, require_start_approval=True
    )
    page = await console.open("/new?copy=fw-1")
    needed = page.get_by_label("Another user must approve before the first device starts")
    await expect(needed).to_be_checked()
    await page.get_by_label("Job ID").fill("fw-2")
    await expect(page.get_by_text("nothing starts before another user approves")).to_be_visible()
    await expect(page.locator(".terminal")).to_contain_text("--require-start-approval")
    await page.get_by_role("button", name="Create job").click()
    heading = "The start of the job needs an approval from a user other than ann."
    await expect(page.get_by_role("heading", name=heading)).to_be_visible()
    problem = page.get_by_text("You can't approve it: you created the job.")
    await expect(problem).to_be_visible()
    await expect(page.get_by_role("button", name="Approve start")).to_have_count(0)

    async with open_console(browser, gateway.url, tenant=tenant, user="bob") as other:
        await other.open("/approvals")
        card = other.page.get_by_role("region", name="fw-1, start")
        await expect(card).to_contain_text("ann created it for 40 devices.")
        await card.get_by_label("Comment").fill("change 4711")
        await card.get_by_role("button", name="Approve start").click()
        await other.page.get_by_role("dialog").get_by_role("button", name="Approve start").click()
        await expect(card).to_have_count(0)
        await other.open("/jobs/fw-2")
        await other.page.get_by_role("button", name="Reject start").click()
        await other.page.get_by_role("dialog").get_by_role("button", name="Reject start").click()
        await expect(other.page.locator(".badge").first).to_have_text("Canceled")
    jobs = {job.job_id: job for job in (await ann.list()).jobs}
    assert jobs["fw-1"].start_approval.comment == "change 4711"
    assert (jobs["fw-1"].status, jobs["fw-2"].status) == (Job.IN_PROGRESS, Job.CANCELED)


async def test_notice_shows_that_a_paused_job_needs_its_start_approved(
    console: Console, operator: Operator
) -> None:
    await operator.create(job_id="fw-1", target_all=True, require_start_approval=True)
    await operator.pause("fw-1", reason="the plant is busy")
    page = await console.open("/jobs/fw-1")
    notice = page.get_by_role("region", name="What to do next")
    await expect(notice).to_contain_text(": the plant is busy. Nothing starts until the start is")
    await expect(notice).to_contain_text("approved and the job is resumed")
    await console.open("/jobs")
    row = page.get_by_role("row", name="fw-1")
    await expect(row).to_contain_text("the plant is busy; the start needs an approval")


async def test_continuous_job_shows_joined_devices_and_that_the_brake_paused_it(
    console: Console, world: World
) -> None:
    page = await console.open("/new")
    await page.get_by_label("Job ID").fill("fw-1")
    await page.get_by_label("Document type").fill("firmware")
    await page.get_by_label("Document parameters").fill("{}")
    await page.get_by_label("Group", exact=True).fill("north")
    await page.get_by_label("Continuous: devices that match later join the job").check()
    await page.get_by_label("Pause if more join in an hour").fill("2")
    await page.get_by_label("Not before this many devices finished").fill("50")
    summary = page.locator(".create [aria-live]")
    await expect(summary).to_contain_text("devices that match later join")
    await expect(summary).to_contain_text("from 50 finished devices on.")
    await expect(summary.locator(".caution")).to_have_count(0)
    await page.get_by_role("button", name="Create job for 40 devices").click()
    about = page.locator(".heading p").first
    await expect(about).to_contain_text("group north (40 devices, continuous, 0 joined)")

    await world.add_devices(["pump-40"], group="north")
    assert await join(world, job_id="fw-1") == 1
    await expect(about).to_contain_text("(41 devices, continuous, 1 joined)")
    await world.add_devices(["pump-41", "pump-42"], group="north")
    assert await join(world, job_id="fw-1") == 1
    await expect(about).to_contain_text(
        "(42 devices, continuous, 2 joined, some may not have joined yet)"
    )
    notice = page.get_by_role("region", name="What to do next")
    await expect(notice).to_contain_text("The join brake paused the job")
    await expect(page.locator(".badge").first).to_have_text("Paused")


async def test_comment_of_an_approval_is_not_kept_for_the_next_one(
    console: Console, server: Server, operator: Operator, tenant: str
) -> None:
    gate = {"require_approval": True, "allow_self_approval": True}
    await operator.create(
        job_id="careful",
        document_type="firmware",
        target_all=True,
        rollout={
            "stages": [
                {"device_count": 1, "display_name": "Bench", "gate": gate},
                {"device_count": 1, "display_name": "Canary", "gate": gate},
                {"remainder": True, "display_name": "Rest"},
            ]
        },
    )
    page = console.page
    async with running_fleet(server, tenant, DEVICES):
        await console.open("/jobs/careful")
        comment = page.get_by_label("Comment")
        await comment.fill("seen on the bench")
        await page.get_by_role("button", name="Approve").click()
        await page.get_by_role("dialog").get_by_role("button", name="Approve").click()
        await expect(page.get_by_role("heading", name="needed to open Rest")).to_be_visible()
        await expect(comment).to_have_value("")


async def test_dialog_does_not_stay_on_the_page_of_another_job(
    console: Console, operator: Operator
) -> None:
    for job_id in ("a", "b"):
        await operator.create(job_id=job_id, target_all=True)
    page = await console.open("/jobs/a")
    await expect(page.get_by_role("heading", name="a", exact=True)).to_be_visible()
    await page.evaluate("history.pushState(null, '', '/console/jobs/b')")
    await page.evaluate("dispatchEvent(new PopStateEvent('popstate'))")
    await expect(page.get_by_role("heading", name="b", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog", name="Pause b?")
    await expect(dialog).to_be_visible()
    await page.go_back()
    await expect(page.get_by_role("heading", name="a", exact=True)).to_be_visible()
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_dialog_that_was_closed_does_not_close_the_next_one(
    console: Console, operator: Operator
) -> None:
    await operator.create(job_id="busy", target_all=True)
    page = await console.open("/jobs/busy")
    async with console.held("**/customer/jobs/busy:pause") as released:
        await console.pause_and_leave()
        await page.get_by_role("button", name="Cancel").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("Cancel busy?")
        # The job is read after the pause, and the first dialog is done then.
        async with page.expect_response("**/customer/jobs/busy?executions_limit=0"):
            released.set()
        await expect(page.locator(".badge").first).to_have_text("Paused")
        await expect(dialog).to_contain_text("Cancel busy?")


async def test_failure_is_shown_when_its_dialog_was_closed(
    console: Console, operator: Operator
) -> None:
    await operator.create(job_id="busy", target_all=True)
    page = await console.open("/jobs/busy")
    async with console.held("**/customer/jobs/busy:pause"):
        await console.pause_and_leave()
        await operator.cancel("busy")
    failure = page.get_by_role("alert")
    await expect(failure).to_contain_text("“Pause busy” failed:")
    await expect(page.locator(".badge").first).to_have_text("Canceled")
    await page.get_by_role("link", name="Jobs").first.click()
    await expect(failure).to_be_visible()
    await failure.get_by_role("button", name="Close").click()
    await expect(failure).to_have_count(0)


async def test_cancel_of_a_large_job_asks_for_its_id(
    console: Console, database: Database, operator: Operator, tenant: str
) -> None:
    page = console.page
    await database.add_devices(tenant, [f"meter-{n:04}" for n in range(1000)])
    await operator.create(job_id="large", target_all=True)
    await console.open("/jobs/large")
    await page.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_have_accessible_description(
        "1,040 devices will never start. This can't be undone."
    )
    confirm = dialog.get_by_role("button", name="Cancel job")
    await expect(confirm).to_be_disabled()
    await dialog.get_by_label("to confirm").fill("large")
    await dialog.get_by_label("Reason").fill("wrong release")
    await confirm.click()
    await expect(page.get_by_role("heading", name="Canceled: wrong release")).to_be_visible()
    canceled = page.get_by_text("canceled by ann: wrong release")
    await expect(canceled.first).to_be_visible()


async def test_filters_are_in_the_url_and_survive_a_reload(
    console: Console, browser: Browser, gateway: Gateway, operator: Operator, tenant: str
) -> None:
    await operator.create(job_id="fw-1", document_type="firmware", target_all=True)
    await operator.create(job_id="reboot-1", target_all=True)
    await operator.cancel("fw-1")
    page = await console.open("/jobs")
    await expect(page.locator(".jobs .id")).to_have_text(["reboot-1", "fw-1"])
    await page.get_by_label("Status").select_option("Canceled")
    await page.get_by_label("Job starts with").fill("fw")
    await page.get_by_role("button", name="Filter", exact=True).click()
    await expect(page.locator(".jobs .id")).to_have_text(["fw-1"])
    await page.reload()
    await expect(page.get_by_label("Status")).to_have_value("CANCELED")
    await expect(page.locator(".jobs .id")).to_have_text(["fw-1"])

    async with open_console(browser, gateway.url, tenant=tenant, user="bob") as other:
        await other.page.goto(page.url)
        await expect(other.page.locator(".jobs .id")).to_have_text(["fw-1"])
    await page.get_by_role("button", name="Save filter…").click()
    await page.get_by_label("Name", exact=True).fill("canceled firmware")
    await page.get_by_role("button", name="Save", exact=True).click()
    saved = page.get_by_role("link", name="canceled firmware")
    await expect(saved).to_have_attribute("aria-current", "true")
    await page.go_back()
    await expect(page.get_by_label("Job starts with")).to_have_value("")
    await saved.click()
    await expect(page.locator(".jobs .id")).to_have_text(["fw-1"])
    await console.open("/devices")
    await expect(page.get_by_text("pump-00", exact=True)).to_be_visible()
    await expect(saved).to_have_count(0)
    await console.open("/jobs")
    await page.get_by_role("button", name="Delete the filter canceled firmware").click()
    await expect(saved).to_have_count(0)
    others = "Array.from({length: 200}, (_, n) => ({ tenant: `t${n}`, path: '/', name: '' }))"
    await page.evaluate(f"localStorage.setItem('filters', JSON.stringify({others}))")
    await page.get_by_label("Status").select_option("Canceled")
    await page.get_by_role("button", name="Save filter…").click()
    await page.get_by_label("Name", exact=True).fill("one more")
    await page.get_by_role("button", name="Save", exact=True).click()
    full = "This browser stores at most 200 saved filters: delete one first"
    await expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text(full)
    await page.evaluate("localStorage.setItem('filters', 'null')")
    await console.open("/jobs")
    await page.reload()
    await expect(page.locator(".jobs .id")).to_have_text(["reboot-1", "fw-1"])


async def test_list_shows_what_each_job_is_in_columns_that_do_not_move(
    console: Console, operator: Operator
) -> None:
    identifier = "0f8fad5b-d9cb-469f-a165-70867728950e"
    await operator.create(job_id="canceled", document_type="firmware", target_all=True)
    await operator.cancel("canceled")
    await operator.create(
        job_id=identifier, document_type="reboot", target_all=True, description="After the storm"
    )
    page = await console.open("/jobs")
    table = page.get_by_role("table", name="Jobs")
    await expect(table.get_by_role("columnheader")).to_have_text(
        ["Job", "Status", "Progress", "Devices ended", "Created by", "Created"]
    )
    row = table.get_by_role("row").filter(has_text=identifier)
    await expect(row).to_contain_text("reboot · all devices · After the storm")
    link = row.get_by_role("link")
    await expect(link).to_have_attribute("title", identifier)
    assert await link.evaluate("(link) => link.scrollWidth > link.clientWidth")
    fill = "(rect) => getComputedStyle(rect).fill"
    fills = [await page.locator(f".jobs rect.{name}").first.evaluate(fill) for name in BARS]
    assert len(set(fills)) == len(BARS)

    columns = """(table) => [...table.querySelectorAll(".row")].map((row) =>
        [...row.children].map((cell) => cell.getBoundingClientRect().x).join())"""
    before = await table.evaluate(columns)
    assert len(set(before)) == 1
    await operator.pause(identifier, reason="The plant is busy until Monday. " * 5)
    await expect(row).to_contain_text("Paused The plant")
    assert await table.evaluate(columns) == before


BARS = ("queued", "held", "canceled")


async def test_conflict_shows_what_has_changed(console: Console, operator: Operator) -> None:
    page = console.page
    await operator.create(job_id="shared", document_type="firmware", target_all=True)
    await console.open("/jobs/shared")
    dialog = page.get_by_role("dialog")
    for action in ("Cancel", "Pause"):
        await page.get_by_role("button", name=action).click()
        await operator.update("shared", "description", description=f"before {action}")
        await dialog.get_by_role("button", name=action).click()
        alert = dialog.get_by_role("alert")
        await expect(alert).to_contain_text("has changed since this page showed it")
        await expect(alert).to_contain_text("changed by olivia: description")
        await dialog.get_by_role("button", name="Back").click()
    await page.get_by_role("button", name="Pause").click()
    await dialog.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("heading", name="ann paused the job")).to_be_visible()


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
        await operator.create(job_id=job_id, target_all=True)
    await operator.cancel("c")
    await console.open("/jobs")
    for job_id in ("a", "b", "c"):
        await page.get_by_label(f"Select {job_id}", exact=True).check()
    await page.get_by_role("button", name="Pause 2 of them").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Pause 2 jobs?")
    await expect(dialog).to_contain_text("80 devices will not start until they are resumed.")
    await expect(dialog).to_contain_text("in its history and in webhooks.")
    await dialog.get_by_label("Reason").fill("bad weather")
    await dialog.get_by_text("Command line equivalent").click()
    options = f"--reason 'bad weather' --tenant {operator.tenant}"
    commands = f"jobs-grpc pause b {options} && jobs-grpc pause a {options}"
    await expect(dialog.get_by_text(commands, exact=True)).to_be_visible()
    await dialog.get_by_role("button", name="Pause 2 jobs").click()
    await expect(page.get_by_text("Paused bad weather", exact=True)).to_have_count(2)

    for job_id in ("a", "b"):
        await page.get_by_label(f"Select {job_id}", exact=True).check()
    await page.get_by_role("button", name="Cancel").click()
    await expect(dialog).to_contain_text("80 devices will never start. This can't be undone.")
    await dialog.get_by_role("button", name="Cancel 2 jobs").click()
    await expect(page.locator(".jobs .state")).to_have_text(["Canceled "] * 3)


async def test_cancel_with_force_ends_what_a_pause_does_not_stop(
    console: Console, server: Server, operator: Operator, tenant: str
) -> None:
    await operator.create(job_id="started", target_all=True)
    await server.device(tenant, "pump-00").start("started")
    page = await console.open("/jobs/started")
    await page.get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("39 devices will not start until the job is resumed.")
    await expect(dialog).to_contain_text("does not stop executions in progress (1 device);")
    await dialog.get_by_role("button", name="Back").click()

    await page.get_by_role("button", name="Cancel").click()
    await expect(dialog).to_contain_text("executions in progress (1 device) can still finish.")
    await dialog.get_by_label("With force").check()
    await expect(dialog).to_contain_text("executions in progress (1 device) end now;")
    await dialog.get_by_text("Command line equivalent").click()
    await expect(dialog).to_contain_text("jobs-grpc cancel started --force")
    await dialog.get_by_role("button", name="Cancel job").click()
    await expect(page.get_by_role("heading", name="Canceled", exact=True)).to_be_visible()
    await expect(page.locator("tbody .badge").first).to_have_text("Canceled with the job")
    assert (await operator.get("started")).execution_counts.rejected == 40


async def test_problem_of_one_job_does_not_hide_what_happened_to_the_others(
    console: Console, operator: Operator
) -> None:
    page = console.page
    for job_id in ("a", "b"):
        await operator.create(job_id=job_id, target_all=True)
    await console.open("/jobs")
    await page.get_by_label("Select all on this page").check()
    await page.get_by_role("button", name="Pause").click()
    await operator.update("b", "description", description="by another")
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Pause 2 jobs").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("1 of 2 jobs done. b: ")
    assert (await operator.get("a")).pause.paused_by == "ann"
    assert not (await operator.get("b")).HasField("pause")


async def test_failures_without_a_code_are_retried_alone(
    console: Console, server: Server, operator: Operator, tenant: str
) -> None:
    await operator.create(job_id="mixed", target_all=True)
    for name, code, details in (
        ("pump-30", "", {"step": "verify", "tries": 3}),
        ("pump-31", "DISK_FULL", {"reason": "no space left"}),
    ):
        device = server.device(tenant, name)
        await device.start("mixed")
        await device.update("mixed", JobExecution.FAILED, failure_code=code, status_details=details)
    await operator.pause("mixed")
    page = console.page

    async def shorten(route: Route) -> None:
        await route.continue_(url=route.request.url.replace("limit=100", "limit=20"))

    await page.route("**/executions?limit=100*", shorten)
    await console.open("/jobs/mixed")
    rows = page.get_by_role("region", name="Devices of the job").locator("tbody tr")
    await expect(rows.nth(0)).to_have_text(re.compile(r"pump-30Failedstep: verify, tries: 31\d+ s"))
    await expect(rows.nth(1)).to_have_text(re.compile(r"pump-31FailedDISK_FULLno space left1\d+ s"))
    await expect(rows.nth(2)).to_contain_text("pump-00Queued1")
    await page.get_by_role("button", name="Next page").click()
    await expect(rows).to_have_count(18)
    await page.get_by_role("button", name="First page").click()
    row = page.get_by_role("row", name="no code")
    await expect(row.get_by_role("link")).to_have_text(["pump-30"])
    await row.get_by_role("button", name="Retry these").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("1 device that failed without a code")
    await dialog.get_by_role("button", name="Retry 1").click()
    await expect(row).to_have_count(0)
    await page.get_by_role("link", name="1 device with DISK_FULL").click()
    await expect(page.get_by_role("combobox", name="Status")).to_have_value("FAILED")
    devices = page.get_by_role("region", name="Devices of the job").locator("tbody a")
    await expect(devices).to_have_text(["pump-31"])

    await devices.first.click()
    await expect(page.get_by_role("heading", name="pump-31")).to_be_visible()
    await page.get_by_role("button", name="Retry").click()
    await dialog.get_by_role("button", name="Retry 1").click()
    await expect(page.get_by_text("attempt 2")).to_be_visible()
    await page.get_by_role("button", name="Cancel").click()
    await dialog.get_by_label("Reason").fill("in repair")
    await dialog.get_by_role("button", name="Cancel execution").click()
    await expect(page.get_by_role("region", name="Why it ended")).to_contain_text("in repair")


async def test_list_of_jobs_says_how_many_devices_failed(
    console: Console, server: Server, operator: Operator, tenant: str
) -> None:
    await operator.create(job_id="failing", target_all=True)
    device = server.device(tenant, "pump-00")
    await device.start("failing")
    await device.update("failing", JobExecution.FAILED)
    await console.open("/jobs")
    await expect(console.page.locator(".jobs .state")).to_have_text("In progress 1 device failed")


async def test_number_of_failures_is_that_of_the_rows(
    console: Console, server: Server, operator: Operator, tenant: str
) -> None:
    await operator.create(job_id="failing", target_all=True)
    for name in ("pump-00", "pump-01"):
        device = server.device(tenant, name)
        await device.start("failing")
        await device.update("failing", JobExecution.FAILED, failure_code="DISK_FULL")

    async def answer_late(route: Route) -> None:
        """As of the first failure."""
        failure = {"status": "FAILED", "failure_code": "DISK_FULL", "execution_count": 1}
        await route.fulfill(
            json={"failures": [failure | {"device_ids": ["pump-00"]}], "other_failure_count": 0}
        )

    page = console.page
    await page.route("**/customer/jobs/failing/failures", answer_late)
    await console.open("/jobs/failing")
    await expect(page.locator(".numbers dd").last).to_have_text("2")
    failures = page.get_by_role("region", name="Failures by code")
    await expect(failures.get_by_role("heading")).to_contain_text("1 device")


async def test_copy_of_a_job_keeps_what_the_form_does_not_show(
    console: Console, operator: Operator
) -> None:
    settings = {
        "document_type": "firmware",
        "target_device_ids": {"device_ids": DEVICES[:3]},
        "rollout": {
            "stages": [
                {
                    "device_count": 1,
                    "gate": {"require_approval": True, "allow_self_approval": True},
                },
                {"remainder": True},
            ],
            "seed": "same order",
        },
        "failure_criteria": [
            {"percent": 5, "basis": "TARGETED", "statuses": ["FAILED"]},
            {"count": 3, "failure_codes": ["BOOT_LOOP"]},
        ],
        "retry_policy": {"rules": [{"max_attempts": 3, "initial_backoff": {"seconds": 90}}]},
    }
    await operator.create(job_id="first", **settings)
    page = await console.open("/jobs/first")
    await page.get_by_role("link", name="Copy job").click()
    await page.get_by_label("Job ID").fill("second")
    await page.get_by_role("button", name="Create job for 3 devices").click()
    await expect(page.get_by_role("heading", name="second")).to_be_visible()
    first, second = await operator.get("first"), await operator.get("second")
    for field in ("rollout", "failure_criteria", "retry_policy", "target_device_count"):
        assert getattr(first, field) == getattr(second, field), field


async def test_job_is_created_once_when_the_response_is_lost(
    console: Console, operator: Operator
) -> None:
    await operator.create(job_id="first", document_type="firmware", target_all=True)
    page = console.page
    # As without TLS.
    await page.add_init_script("delete Crypto.prototype.randomUUID")

    ids = set()

    async def lose_response(route: Route) -> None:
        ids.add((route.request.post_data_json or {})["job_id"])
        if "validate_only" in (route.request.post_data or ""):
            await route.continue_()
            return
        await route.fetch()
        await route.abort()

    await page.route("**/customer/jobs", lose_response)
    await console.open("/new?copy=first")
    create = page.get_by_role("button", name="Create job for 40 devices")
    await create.click()
    await expect(page.get_by_role("alert")).to_contain_text("can't be reached")
    await page.unroute_all()
    await page.reload()
    await create.click()

    await expect(page.get_by_role("link", name="Copy job")).to_be_visible()
    assert {job.job_id for job in (await operator.list()).jobs} == {"first", *ids}
    # The check shows the random order of the job that is created.
    assert len(ids) == 1


async def test_settings_of_a_job_are_changed(console: Console, operator: Operator) -> None:
    await operator.create(
        job_id="slow",
        document_type="firmware",
        target_all=True,
        rollout={
            "stages": [{"percent": 10, "releases_per_minute": 1}, {"remainder": True}],
            "max_in_progress": 2,
        },
        failure_criteria=[{"percent": 5}],
    )
    page = await console.open("/jobs/slow?tab=settings")
    save = page.get_by_role("button", name="Save changes")
    await expect(save).to_be_disabled()
    await page.get_by_label("Maximum devices in progress").fill("20")
    stage = page.get_by_role("group", name="Stage 0")
    await stage.get_by_label("Starts per minute").fill("60")
    await stage.get_by_label("Succeeded, at least (%)").fill("101")
    await save.click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Save changes").click()
    mistake = "Stage 0: succeeded percentage must be from 1 to 100"
    await expect(dialog.get_by_role("alert")).to_contain_text(mistake)
    await dialog.get_by_role("button", name="Back").click()
    await stage.get_by_label("Succeeded, at least (%)").fill("80")
    await save.click()
    await expect(dialog).to_contain_text("changes the stages, the maximum of devices in progress.")
    await dialog.get_by_text("Command line equivalent").click()
    await expect(dialog).to_contain_text("jobs-grpc update slow --max-in-progress 20 --rollout")
    await dialog.get_by_role("button", name="Save changes").click()
    await expect(dialog).to_have_count(0)
    await expect(page.get_by_text("at most 20 devices in progress")).to_be_visible()
    rollout = (await operator.get("slow")).rollout
    assert (rollout.max_in_progress, rollout.stages[0].releases_per_minute) == (20, 60)
    assert rollout.stages[0].gate.min_succeeded_percent == 80

    # Another person changes the job while the form is open.
    await operator.update("slow", "description", description="by another")
    await page.get_by_label("Maximum devices in progress").fill("30")
    await expect(page.get_by_text("has changed since this form was opened")).to_be_visible()
    await save.click()
    await dialog.get_by_role("button", name="Save changes").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("changed by olivia: description")
    await dialog.get_by_role("button", name="Back").click()
    await page.get_by_role("button", name="Load the settings again").click()
    await expect(page.get_by_label("Description")).to_have_value("by another")

    # The command line can't remove a limit.
    await page.get_by_label("Maximum devices in progress").fill("")
    await save.click()
    await dialog.get_by_text("Command line equivalent").click()
    await expect(dialog).to_contain_text("curl")
    await expect(dialog).not_to_contain_text("jobs-grpc")


async def test_labels_with_spaces_and_commas_are_kept(console: Console, operator: Operator) -> None:
    await operator.create(
        job_id="labeled", target_all=True, labels={"note": "two words, and=more", "release": "2.1"}
    )
    page = await console.open("/jobs/labeled?tab=settings")
    labels = page.get_by_label("Labels, one per line")
    assert (await labels.input_value()).splitlines() == ["note=two words, and=more", "release=2.1"]
    await labels.fill("note=two words, and=more\nrelease=2.2\n")
    await page.get_by_role("button", name="Save changes").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("This changes the labels.")
    await dialog.get_by_role("button", name="Save changes").click()
    await expect(dialog).to_have_count(0)
    changed = await operator.get("labeled")
    assert changed.labels == {"note": "two words, and=more", "release": "2.2"}
    await page.get_by_role("link", name="note=two words, and=more").click()
    await expect(page.locator(".jobs .id")).to_have_text(["labeled"])


async def test_deleted_job_leads_to_the_list_without_a_reload(
    console: Console, operator: Operator
) -> None:
    await operator.create(job_id="over", target_all=True)
    await operator.cancel("over")
    page = await console.open("/jobs/over")
    await page.evaluate("window.isSamePage = true")
    await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete job").click()
    await expect(page.get_by_text("This tenant has no jobs yet.")).to_be_visible()
    assert await page.evaluate("window.isSamePage")
