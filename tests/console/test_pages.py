"""Every page in light and dark, on a phone and on a large screen, and with hostile text."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from fleet.jobs.v1.jobs_pb2 import JobExecution
from playwright.async_api import Browser, Page, Route, expect

from tests.console.browser import Console, open_console
from tests.gateway.support import Gateway, running_gateway
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.server import Server

PAGES = {
    # The path, and a text that shows that the page has been loaded.
    "jobs": ("/jobs", "a typo"),
    "fleet": ("", "BOOT_LOOP"),
    "job": ("/jobs/paused", "BOOT_LOOP"),
    "stages": ("/jobs/staged", "stage 2 · not open yet"),
    "job history": (
        "/jobs/staged?tab=history",
        "the gate of stage 0 (1 device) waits for approval",
    ),
    "job document": ("/jobs/staged?tab=document", "Timeout of an execution"),
    "job settings": ("/jobs/staged?tab=settings", "Stages that have not passed"),
    "execution": ("/jobs/paused/devices/pump-00", "Attempts"),
    "new job": ("/new?copy=staged", "pump-00, pump-01"),
    "approvals": ("/approvals", "1 device succeeded"),
    "devices": ("/devices", "pump-09"),
    "device": ("/devices/pump-01", "Queue, in order"),
    "events": ("/events", "paused: 1 execution failed"),
    "unknown job": ("/jobs/none", "Copy request ID"),
    "unknown page": ("/jobs/none/of/these", "Show all jobs"),
}
NARROW = 390
WIDTHS = [NARROW, 1600]
# Only the colors differ between light and dark.
COLOR_RULES = ("color-contrast", "link-in-text-block")
DEVICES = [f"pump-{n:02}" for n in range(10)]
# The parts of the page that scroll down.
SCROLLERS = """[...document.querySelectorAll("main *")]
    .filter((e) => e.scrollHeight > e.clientHeight && !e.matches("input, textarea, select")
        && /auto|scroll/.test(getComputedStyle(e).overflowY))
    .map((e) => `${e.tagName} ${e.className} scrolls`)"""
# Between two counters of a row, in px.
LEAST_GAP = """(() => {
    const counters = [...document.querySelectorAll(".numbers > div")];
    const boxes = counters.map((e) => e.getBoundingClientRect());
    const next = boxes.slice(1).map((box, i) => [boxes[i], box]).filter(([a, b]) => a.y === b.y);
    return Math.min(...next.map(([a, b]) => b.left - a.right));
})()"""


@pytest.fixture
async def jobs(server: Server, database: Database, operator: Operator, tenant: str) -> None:
    """Create a staged job that waits for an approval, a paused job and a canceled one."""
    await database.add_devices(tenant, DEVICES, group="north")
    await database.add_labels(tenant, {device: {"model": "x200"} for device in DEVICES})
    await operator.create(
        job_id="staged",
        document_type="firmware",
        labels={"release": "2.1"},
        target_group_id="north",
        rollout={
            "stages": [
                {
                    "device_count": 1,
                    "gate": {"require_approval": True, "min_succeeded_percent": 95},
                },
                {"percent": 50},
                {"remainder": True},
            ]
        },
        start_windows=[{"start_time": "00:00", "duration": {"seconds": 86_340}}],
    )
    for name in DEVICES:
        device = server.device(tenant, name)
        if execution := await device.start_next():
            await device.update(execution.job_id, JobExecution.SUCCEEDED)
    await operator.create(
        job_id="paused",
        target_device_ids={"device_ids": DEVICES[:2]},
        priority="HIGH",
        failure_criteria=[{"count": 1}],
    )
    device = server.device(tenant, DEVICES[0])
    await device.start("paused")
    await device.update("paused", JobExecution.FAILED, failure_code="BOOT_LOOP")
    await operator.create(job_id="canceled", target_all=True)
    await operator.cancel("canceled", reason="a typo")


async def findings_in_light_and_dark(console: Console) -> list[str]:
    """Return what axe finds on the page."""
    found = await console.findings()
    await console.page.emulate_media(color_scheme="dark")
    found += [f"dark: {finding}" for finding in await console.findings(*COLOR_RULES)]
    await console.page.emulate_media(color_scheme="light")
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.usefixtures("jobs")
async def test_pages_are_accessible_and_fit_the_screen(
    browser: Browser, gateway: Gateway, tenant: str, width: int
) -> None:
    faults: list[str] = []
    async with open_console(browser, gateway.url, tenant=tenant, width=width) as console:
        for name, (path, text) in PAGES.items():
            await console.open(path)
            await expect(console.page.locator("main").get_by_text(text).first).to_be_visible()
            found = [*await findings_in_light_and_dark(console), *await overflow(console.page)]
            if width == NARROW:
                found += await console.page.evaluate(SCROLLERS)
            faults += [f"{name}: {fault}" for fault in found]
        assert faults == []

        page = await console.open("/jobs/paused")
        await expect(page.get_by_text("BOOT_LOOP").first).to_be_visible()
        await page.set_viewport_size({"width": 800, "height": 900})
        assert await page.evaluate(LEAST_GAP) >= 16
        await page.set_viewport_size({"width": NARROW, "height": 900})
        await expect(page.get_by_label("Device starts with")).to_be_hidden()
        await page.keyboard.press("/")
        prefix = page.get_by_label("Job starts with")
        await expect(prefix).to_be_focused()
        await page.get_by_role("button", name="Filters").click()
        await expect(prefix).to_be_hidden()


@pytest.mark.parametrize("width", WIDTHS)
async def test_sign_in_is_accessible_and_fits_the_screen(
    browser: Browser, gateway_binary: Any, server: Server, width: int
) -> None:
    async with (
        running_gateway(gateway_binary, server.address, REQUIRE_TOKEN="true") as gateway,
        open_console(browser, gateway.url, width=width) as console,
    ):
        await console.open("/jobs")
        await expect(console.page.get_by_label("Access token")).to_be_focused()
        assert await findings_in_light_and_dark(console) == []
        assert await overflow(console.page) == []


@pytest.mark.usefixtures("jobs")
async def test_every_control_is_reached_with_the_keyboard(console: Console) -> None:
    faults: list[str] = []
    for path, text in PAGES.values():
        await console.open(path)
        await expect(console.page.locator("main").get_by_text(text).first).to_be_visible()
        faults += [f"{path}: {control}" for control in await console.unreached()]
    assert faults == []


async def overflow(page: Page) -> list[str]:
    """Return how far the page can be scrolled to the side."""
    wider: int = await page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return [f"{wider} px wider than the screen"] if wider else []


@pytest.mark.usefixtures("jobs")
async def test_dialogs_are_used_with_the_keyboard(console: Console, operator: Operator) -> None:
    page = await console.open("/jobs/staged")
    pause = page.get_by_role("button", name="Pause")
    await expect(pause).to_be_visible()
    for _ in range(30):
        await page.keyboard.press("Tab")
        if await pause.evaluate("(button) => button === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_be_visible()
    assert await console.findings() == []
    # The page behind it is inert.
    assert [text for text in await console.unreached() if "dialog" in text] == []
    inside = "() => [...reached.keys()].every((e) => e.closest('dialog'))"
    assert await page.evaluate(inside)
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(pause).to_be_focused()

    # It opens before a frame is drawn: no key reaches the page behind it.
    opened = await pause.evaluate(
        "async (button) => {"
        "    button.click(); await new Promise(requestAnimationFrame);"
        "    return !!document.querySelector('dialog[open]'); }"
    )
    assert opened
    action = dialog.get_by_role("button", name="Pause")
    for _ in range(10):
        await page.keyboard.press("Tab")
        if await action.evaluate("(button) => button === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    await expect(page.locator(".badge").first).to_have_text("Paused")
    assert (await operator.get("staged")).pause.paused_by == "ann"
    # The button is gone: the keyboard continues at the page.
    await expect(page.locator("#main")).to_be_focused()


@pytest.mark.usefixtures("jobs")
async def test_focus_stays_where_the_person_works(console: Console) -> None:
    page = await console.open("/jobs")
    status = page.get_by_label("Status")
    await status.focus()
    await status.select_option("Canceled")
    await expect(page.locator(".jobs .id")).to_have_text(["canceled"])
    await expect(status).to_be_focused()
    prefix = page.get_by_label("Job starts with")
    await prefix.fill("x")
    await prefix.press("Enter")
    await expect(page.get_by_text("No job matches")).to_be_visible()
    await expect(prefix).to_be_focused()

    # A page that is reached by a link begins at its top.
    await page.get_by_role("link", name="Devices").press("Enter")
    await expect(page.locator("#main")).to_be_focused()
    await expect(page).to_have_title("Devices · Fleet Jobs")

    for keys, title in {"gj": "Jobs", "ge": "Events", "ga": "Approvals", "gf": "Fleet"}.items():
        for key in keys:
            await page.keyboard.press(key)
        await expect(page).to_have_title(f"{title} · Fleet Jobs")
    await page.keyboard.press("/")
    await expect(prefix).to_be_focused()
    await page.keyboard.type("/?gd")
    await expect(prefix).to_have_value("/?gd")
    await page.get_by_role("link", name="Jobs", exact=True).focus()
    await page.keyboard.press("?")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("g dDevices")
    assert await console.findings() == []
    await dialog.get_by_label("Use keyboard shortcuts").uncheck()
    await page.keyboard.press("Escape")
    await page.keyboard.press("?")
    await expect(dialog).to_have_count(0)

    who = page.locator(".who button")
    await who.press("Enter")
    await expect(page.get_by_label("Tenant")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_label("Tenant")).to_have_count(0)
    await expect(who).to_be_focused()


IMAGE = "<img src=x onerror=alert(1)>"
HOSTILE = f"{IMAGE}\u202etxt.exe\u200b'\"&amp;{{}}"
SHOWN = f"{IMAGE}\\u202etxt.exe\\u200b'\"&amp;{{}}"
LONG = "W" * (256 - len(HOSTILE)) + HOSTILE
# A name that metadata of gRPC can have, so that the device can call.
CALLING = "V" * (256 - len(IMAGE)) + IMAGE
LONG_SHOWN = LONG.replace("\u202e", "\\u202e").replace("\u200b", "\\u200b")


async def test_hostile_text_is_shown_as_text(
    browser: Browser, gateway: Gateway, server: Server, database: Database, tenant: str
) -> None:
    job_id = "j" * (128 - 5) + ".:-_1"
    operator = server.operator(tenant, "olivia")
    await database.add_devices(tenant, [LONG, CALLING], group=LONG)
    await database.add_labels(tenant, {LONG: {"model": "W" * 63}})
    await operator.create(
        job_id=job_id,
        document_type="custom",
        document_params={"text": f"{HOSTILE}\u0001\x7f", HOSTILE: [HOSTILE]},
        description=f"{HOSTILE}\n\u0007",
        labels={"release": "W" * 63},
        target_group_id=LONG,
    )
    device = server.device(tenant, CALLING)
    await device.start(job_id)
    await device.update(
        job_id,
        JobExecution.FAILED,
        failure_code="W" * 64,
        status_details={"output": f"{HOSTILE}\u001b[31m"},
    )
    await operator.create(job_id="reason", target_group_id=LONG)
    await operator.pause("reason", reason=f"{HOSTILE}\u0001")
    expected = {
        "/jobs": f"{SHOWN}\\u0001",
        f"/jobs/{job_id}": LONG_SHOWN,
        f"/jobs/{job_id}?tab=document": SHOWN.replace('"', '\\"') + "\\u0001\\u007f",
        f"/jobs/{job_id}/devices/{_quoted(LONG)}": LONG_SHOWN,
        f"/jobs/{job_id}/devices/{_quoted(CALLING)}": f"{SHOWN}\\u001b[31m".replace('"', '\\"'),
        "/devices": LONG_SHOWN,
        f"/devices/{_quoted(LONG)}": LONG_SHOWN,
        "/jobs/reason": f"olivia paused the job: {SHOWN}\\u0001",
        "/jobs/reason?tab=history": f"paused by olivia: {SHOWN}\\u0001",
        "/events": f"paused by olivia: {SHOWN}\\u0001",
    }
    async with open_console(browser, gateway.url, tenant=tenant, width=390) as console:
        page = console.page
        page.on("dialog", lambda dialog: console.errors.append(f"dialog {dialog.message}"))
        for path, text in expected.items():
            await console.open(path)
            await expect(page.get_by_text(text).first).to_be_visible()
            assert await page.locator("main img").count() == 0, path
            assert await overflow(page) == [], path
            raw = await page.evaluate("document.body.textContent")
            assert not set(raw) & set("\u202e\u200b\u0001\u0007\u001b\x7f"), (path, json.dumps(raw))


def _quoted(segment: str) -> str:
    return quote(segment, safe="")


async def test_events_begin_with_the_oldest_if_earlier_ones_were_purged(
    console: Console, database: Database, operator: Operator, tenant: str
) -> None:
    await database.add_devices(tenant, DEVICES)
    await operator.create(job_id="kept", target_all=True)

    async def refuse(route: Route) -> None:
        problem = {"detail": "purged", "reason": "EVENTS_PURGED", "field_violations": []}
        await route.fulfill(status=410, json=problem)

    await console.page.route("**/customer/events:watch?from_time=*", refuse)
    await console.open("/events")
    await expect(console.page.get_by_role("link", name="kept").first).to_be_visible()
    await expect(console.page.get_by_role("alert")).to_have_count(0)


async def test_events_are_filtered_by_type_time_and_user(
    console: Console, server: Server, database: Database, operator: Operator, tenant: str
) -> None:
    await database.add_devices(tenant, DEVICES[:2])
    await operator.create(job_id="first", target_all=True)
    for name, result in zip(DEVICES, (JobExecution.SUCCEEDED, JobExecution.FAILED), strict=False):
        device = server.device(tenant, name)
        await device.start("first")
        await device.update("first", result)
    await server.operator(tenant, "bob").create(job_id="later", target_all=True)
    await console.page.add_init_script("localStorage.setItem('zone', 'UTC')")
    page = await console.open("/events")
    events = page.locator(".events li")
    completed = events.filter(has_text="completed: 1 succeeded, 1 failed")
    await expect(completed.locator(".dot")).to_have_class(re.compile("warn"))
    by = page.get_by_label("By", exact=True)
    await by.fill("bob")
    await by.press("Enter")
    await expect(events).to_have_count(1)
    await expect(events).to_contain_text("later created by bob")
    await by.fill("")
    await by.press("Enter")
    await page.get_by_label("Type").select_option("created")
    await expect(events).to_have_count(2)

    to = (await operator.get("later")).created_at.ToDatetime(UTC)
    await console.open(f"/events?time=range&to={to:%Y-%m-%dT%H:%M:%S.%fZ}")
    await expect(page.get_by_label("To", exact=True)).to_have_value(f"{to:%Y-%m-%dT%H:%M}")
    await expect(events).to_have_count(2)
    await expect(events.filter(has_text="later")).to_have_count(0)
    async with page.expect_request("**/customer/events:watch*") as request:
        await page.get_by_label("When").select_option("yesterday")
    await expect(page.get_by_text("No events yesterday.", exact=True)).to_be_visible()
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert f"from_time={yesterday:%Y-%m-%d}T00%3A00%3A00.000Z" in (await request.value).url
