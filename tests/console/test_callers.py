"""What callers see by their roles, and what happens when their token ends."""

import time
from pathlib import Path

from fleet.jobs.v1.jobs_pb2 import JobExecution
from playwright.async_api import Browser, Page, expect

from tests.auth.support import JWT_SETTINGS
from tests.console.browser import Console, open_console
from tests.gateway.support import running_gateway
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.identities import claims, jwks, new_key, token
from tests.support.server import Server, running_server

KEY = new_key()
LIFETIME = 4


async def test_viewer_sees_no_button_that_changes_something(
    browser: Browser, gateway_binary: Path, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["pump-1"])
    async with (
        running_server(database.request_dsn, JOBS_DEFAULT_ROLES="viewer") as server,
        running_gateway(gateway_binary, server.address) as gateway,
        open_console(browser, gateway.url, tenant=tenant) as console,
    ):
        admin = server.caller(
            ("x-tenant-id", tenant), ("x-user-id", "olivia"), ("x-roles", "admin,bridge")
        )
        await admin.create(
            job_id="careful",
            target_all=True,
            rollout={"stages": [{"device_count": 1}, {"remainder": True}]},
        )
        page = console.page
        for path, text in (
            ("/jobs", "careful"),
            ("/jobs/careful", "careful"),
            ("/jobs/careful/devices/pump-1", "pump-1"),
            ("/approvals", "No job waits for an approval"),
            ("/devices", "pump-1"),
            ("/devices/pump-1", "pump-1"),
            ("/events", "created by olivia"),
        ):
            await console.open(path)
            await expect(page.locator("main").get_by_text(text).first).to_be_visible()
            assert await _actions(page) == [], path
        await console.open("/new")
        await expect(page.get_by_role("alert")).to_contain_text("do not allow you to create jobs")


async def _actions(page: Page) -> list[str]:
    """Return the buttons and links of the page that change something."""
    texts = await page.locator("main button, main a.button").all_inner_texts()
    return [text for text in texts if text and text not in READING]


READING = {"Filter", "Filters", "Events", "Devices", "History", "Document", "Copy"}


async def test_approvals_are_those_of_the_chosen_tenant(
    console: Console, server: Server, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["pump-1", "pump-2"])
    await server.operator(tenant, "olivia").create(
        job_id="careful",
        target_all=True,
        rollout={
            "stages": [{"device_count": 1, "gate": {"require_approval": True}}, {"remainder": True}]
        },
    )
    for name in ("pump-1", "pump-2"):
        device = server.device(tenant, name)
        if execution := await device.start_next():
            await device.update(execution.job_id, JobExecution.SUCCEEDED)
    page = await console.open("/devices")
    count = page.locator("header .count")
    await expect(count).to_have_text("1")

    async with console.held("**/customer/jobs?awaiting_approval=true*"):
        await _choose_other_tenant(page)
        await expect(count).to_have_count(0)


async def _choose_other_tenant(page: Page) -> None:
    await page.locator(".who button").click()
    await page.get_by_label("Tenant").fill("other")
    await page.get_by_role("button", name="Use", exact=True).click()
    await expect(page.locator(".who")).to_contain_text("other · ann (")


async def test_failure_after_a_change_of_the_caller_is_not_shown(
    console: Console, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["pump-1"])
    await operator.create(job_id="busy", target_all=True)
    page = await console.open("/jobs/busy")
    async with console.held("**/customer/jobs/busy:pause") as released:
        await console.pause_and_leave()
        await _choose_other_tenant(page)
        await operator.cancel("busy")
        async with page.expect_response("**/customer/jobs/busy:pause") as response:
            released.set()
    assert (await (await response.value).json())["reason"] == "JOB_CHANGED"
    # The page has handled the response when it has read another one.
    await page.get_by_role("link", name="Devices").first.click()
    await expect(page.get_by_role("heading", name="Devices")).to_be_visible()
    await expect(page.get_by_text("failed:")).to_have_count(0)


async def test_action_in_several_calls_stops_when_the_caller_changes(
    console: Console, server: Server, database: Database, tenant: str
) -> None:
    for name in (tenant, "other"):
        await database.add_devices(name, 150)
    page = await console.open("/devices")
    await page.get_by_label("Select d00001").check()
    await page.get_by_role("button", name="Select up to 1,000 that match").click()
    await expect(page.get_by_text("150 devices selected")).to_be_visible()
    await page.get_by_role("button", name="Delete…").click()
    dialog = page.get_by_role("dialog")
    calls = "**/customer/fleet/devices:delete"
    async with console.held(calls) as released:
        await dialog.get_by_role("button", name="Delete 150 devices").click()
        await dialog.get_by_role("button", name="Back").click()
        await _choose_other_tenant(page)
        async with page.expect_response(calls) as response:
            released.set()
    assert (await (await response.value).json())["deleted_count"] == 100
    # The page has handled the response when it has read another one.
    await page.get_by_role("link", name="Fleet").first.click()
    await expect(page.get_by_role("heading", name="Fleet", exact=True)).to_be_visible()
    assert len((await server.fleet(tenant).list(limit=1000)).devices) == 50
    assert len((await server.fleet("other").list(limit=1000)).devices) == 150


async def test_expired_token_is_asked_for_again_and_the_page_continues(
    browser: Browser, gateway_binary: Path, database: Database, tenant: str, tmp_path: Path
) -> None:
    await database.add_devices(tenant, ["pump-1"])
    keys = tmp_path / "jwks.json"
    keys.write_text(jwks(KEY))
    async with (
        running_server(
            database.request_dsn, JOBS_JWT_KEYS=str(keys), JOBS_JWT_LEEWAY="0", **JWT_SETTINGS
        ) as server,
        running_gateway(gateway_binary, server.address, REQUIRE_TOKEN="true") as gateway,
        open_console(browser, gateway.url) as console,
    ):
        valid = token(KEY, claims(tenant, "admin", exp=int(time.time()) + 600))
        operator = server.bearer(valid)
        await operator.create(job_id="long", target_all=True)
        page = await console.open("/jobs/long?tab=history")
        brief = token(KEY, claims(tenant, "admin", exp=int(time.time()) + LIFETIME))
        await _sign_in(page, brief)
        await expect(page.get_by_role("heading", name="long")).to_be_visible()
        await expect(page.get_by_text("Your session has ended")).to_be_visible()
        assert page.url.endswith("/console/jobs/long?tab=history")

        await _sign_in(page, "not a token")
        await expect(page.get_by_text("was not accepted")).to_be_visible()
        await _sign_in(page, valid)
        await expect(page.locator("#panel .events")).to_contain_text("created by olivia")
        assert page.url.endswith("/console/jobs/long?tab=history")

        stored = await page.evaluate(
            "JSON.stringify([localStorage, sessionStorage, document.cookie])"
        )
        assert stored == '[{},{},""]'

        await page.get_by_role("link", name="Copy job").click()
        await page.get_by_label("Job ID").fill("the draft")
        await page.route("**/customer/**", lambda route: route.fulfill(status=401, json={}))
        await expect(page.get_by_text("Your session has ended")).to_be_visible()
        await page.unroute_all(behavior="wait")
        await _sign_in(page, valid)
        await expect(page.get_by_label("Job ID")).to_have_value("the draft")

        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Access token")).to_have_value("")
        assert await page.evaluate("sessionStorage.length") == 0


async def _sign_in(page: Page, text: str) -> None:
    await page.get_by_label("Access token").fill(text)
    await page.get_by_role("button", name="Sign in").click()
