"""Why a device does not start: its queue, and the jobs that hold it back."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import Browser, expect

from tests.console.browser import Console, open_console
from tests.gateway.support import Gateway
from tests.support.callers import Operator
from tests.support.database import Database


async def test_device_page_says_why_each_pending_execution_does_not_start(
    console: Console, database: Database, operator: Operator, tenant: str
) -> None:
    await database.add_devices(tenant, ["pump-1", "pump-2"])
    fields = {"document_type": "reboot", "target_device_ids": {"device_ids": ["pump-1", "pump-2"]}}
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    await operator.create(job_id="due", **fields)
    await operator.create(job_id="later", **fields, start_at=tomorrow)
    await operator.create(job_id="paused", **fields)
    await operator.pause("paused", reason="the plant is busy")
    staged = await operator.create(
        job_id="staged",
        **fields,
        rollout={
            "stages": [
                {"device_count": 1, "display_name": "Canary"},
                {"remainder": True, "display_name": "Rest"},
            ]
        },
    )
    assert staged.job_id == "staged"
    executions = (await operator.executions("staged")).executions
    held = next(e.device_id for e in executions if e.stage == 1)

    page = await console.open(f"/devices/{held}")
    item = page.get_by_role("region", name="Queue, in order").get_by_role("listitem")
    for job_id, reason in {
        "due": "has not asked for the execution yet. It has never been seen.",
        "later": "The job has not started yet. It starts in 24 h.",
        "paused": "olivia paused the job: the plant is busy",
        "staged": "Rest is not open. In stage 0 (Canary), 1 of 1 executions are not finished.",
    }.items():
        link = page.get_by_role("link", name=job_id, exact=True)
        await expect(item.filter(has=link).first).to_contain_text(reason)
    await expect(page.get_by_role("heading", name="Held back by their jobs")).to_be_visible()
    assert await console.findings() == []

    await page.get_by_role("link", name="staged", exact=True).first.click()
    await expect(page.get_by_role("region", name="Why it has not started")).to_contain_text(
        "Rest is not open. In stage 0 (Canary), 1 of 1 executions are not finished."
    )


@pytest.fixture
async def dated(database: Database, operator: Operator, tenant: str) -> None:
    """The job "dated", which has just been created."""
    await database.add_devices(tenant, ["pump-1"])
    await operator.create(job_id="dated", target_all=True)


@pytest.mark.usefixtures("dated")
async def test_times_are_shown_exactly_in_the_chosen_zone(console: Console) -> None:
    session = await console.page.context.new_cdp_session(console.page)
    await session.send("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kolkata"})
    page = await console.open("/jobs/dated")
    created = page.locator(".heading time").first
    await expect(created).to_contain_text("ago")
    title = await created.get_attribute("title")
    await page.get_by_role("button", name="Show exact times").click()
    await expect(created).to_have_text(title or "")
    assert (title or "").endswith(" GMT+5:30")
    instant = datetime.fromisoformat(await created.get_attribute("datetime") or "")
    in_utc = f"{instant:%Y-%m-%d %H:%M:%S} UTC"
    await page.get_by_role("button", name="Use UTC").click()
    await expect(created).to_have_text(in_utc)
    await page.reload()
    await expect(created).to_have_attribute("title", in_utc)
    await expect(page.get_by_text("Times in UTC")).to_be_visible()
    await page.get_by_role("button", name="Use Asia/").click()
    await expect(created).to_have_attribute("title", title or "")


@pytest.mark.usefixtures("dated")
async def test_times_follow_the_clock_of_the_service(console: Console) -> None:
    page = console.page
    await page.clock.install(time=datetime.now(UTC) + timedelta(hours=3))
    await console.open("/jobs/dated")
    await expect(page.locator(".heading time").first).to_have_text(re.compile(r"^(now|\d+ s ago)$"))


async def test_label_of_a_device_narrows_the_list(
    console: Console, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["pump-1", "pump-2", "pump-3"])
    labels = {"model": "x200", "site": "Zürich, west"}
    await database.add_labels(tenant, {"pump-1": labels, "pump-2": {"model": "x200"}})
    await database.add_facts(tenant, {"pump-1": {"version": "1.4"}})
    page = await console.open("/devices")
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(3)
    await page.get_by_role("link", name="model=x200").first.click()
    await expect(rows).to_have_count(2)
    await page.get_by_role("link", name="site=Zürich, west").click()
    await expect(rows).to_have_count(1)
    await expect(page.get_by_label("Groups and labels")).to_have_value(
        'model=x200,site="Zürich, west"'
    )
    await console.open("/devices/pump-1")
    await page.get_by_role("link", name="fact.version=1.4").click()
    await expect(page.get_by_label("Groups and labels")).to_have_value("fact.version=1.4")


async def test_selector_fields_suggest_labels_and_mark_unknown_ones(
    console: Console, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["pump-1", "pump-2"], group="north")
    await database.add_devices(tenant, ["pump-2"], group="south")
    labels = {"model": "x200", "site": "Oslo, west"}
    await database.add_labels(tenant, {"pump-1": labels, "pump-2": {"model": "x300"}})
    page = await console.open("/devices")
    field = page.get_by_label("Groups and labels")

    for text, suggested in {
        "mo": ["model=x200", "model=x300"],
        "model=x2": ["model=x200"],
        "model!=": ["model!=x200", "model!=x300"],
        "model=x200, s": ['model=x200, site="Oslo, west"'],
        "group in (south,n": ["group in (south,north"],
        "!m": ["!model"],
    }.items():
        await field.fill(text)
        await expect(page.locator("datalist option")).to_have_count(len(suggested))
        values = await page.locator("datalist option").evaluate_all("all => all.map(o => o.value)")
        assert values == suggested
    unknown = "No device had the label modell when the labels were last read."
    for text, problem in {
        "modell=x200": unknown,
        "modell=x200,mo": unknown,
        'model in (a,b),site="ring,b",group=north,!site': "",
    }.items():
        await field.fill(text)
        await expect(page.locator("form").get_by_role("status")).to_have_text(problem)
    assert await console.findings() == []


async def test_header_says_that_no_user_name_is_set(
    browser: Browser, gateway: Gateway, tenant: str
) -> None:
    async with open_console(browser, gateway.url, tenant=tenant, user="") as console:
        page = await console.open("/devices")
        await page.get_by_role("button", name="set user name").click()
        await page.get_by_label("User name").fill("bob")
        await page.get_by_role("button", name="Use", exact=True).click()
        await expect(page.locator(".who")).to_contain_text("· bob (admin")
