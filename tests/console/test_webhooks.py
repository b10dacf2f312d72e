"""Webhooks: an admin creates, changes, tests, moves and deletes them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from jobs_grpc.webhooks.sender import DeliveryResult
from tests.console.browser import Console, open_console
from tests.gateway.support import Gateway, running_gateway
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.server import Server
from tests.support.webhooks import RecordingSender, WebhookCaller, running_webhook_server

URL = "https://hooks.example.com/jobs"


@dataclass
class Stack:
    """An open page of events, and what the server sends."""

    console: Console
    webhooks: WebhookCaller
    sender: RecordingSender
    operator: Operator


@pytest.fixture(scope="module")
async def sending(
    gateway_binary: Path, database: Database, webhook_keys: Path
) -> AsyncIterator[tuple[Server, Gateway, RecordingSender]]:
    """A server that can send webhooks, a gateway in front of it, and what is sent."""
    sender = RecordingSender()
    async with (
        running_webhook_server(database, webhook_keys, sender) as server,
        running_gateway(gateway_binary, server.address) as gateway,
    ):
        yield server, gateway, sender


@pytest.fixture
async def stack(
    browser: Browser,
    database: Database,
    tenant: str,
    sending: tuple[Server, Gateway, RecordingSender],
) -> AsyncIterator[Stack]:
    """Open the page of events."""
    server, gateway, sender = sending
    sender.result = RecordingSender().result
    await database.add_devices(tenant, ["pump-1"])
    async with open_console(browser, gateway.url, tenant=tenant) as console:
        await console.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await console.open("/events?tab=webhooks")
        operator = server.operator(tenant, "olivia")
        yield Stack(console, WebhookCaller.on(server, tenant), sender, operator)


async def test_webhook_is_created_and_its_secret_is_shown_once(stack: Stack) -> None:
    page = stack.console.page
    await page.get_by_role("button", name="New webhook").click()
    dialog = page.get_by_role("dialog")
    create = dialog.get_by_role("button", name="Create webhook")
    await expect(create).to_be_disabled()
    url = dialog.get_by_label("URL of the endpoint")
    await expect(url).to_be_focused()
    await url.fill("http://hooks.example.com/jobs")
    await create.click()
    await expect(dialog.get_by_role("alert")).to_contain_text("https")
    assert await stack.console.findings() == []
    await url.fill(URL)
    await dialog.get_by_role("checkbox", name="job.paused").check()
    await dialog.get_by_role("checkbox", name="job.tripped").check()
    await dialog.get_by_text("Command line equivalent").click()
    await expect(dialog).to_contain_text(
        f"jobs-grpc webhooks create {URL} --type job.tripped job.paused"
    )
    await create.click()
    await expect(dialog).to_have_count(0)
    (webhook,) = await stack.webhooks.list()
    assert (webhook.url, [*webhook.types]) == (URL, ["job.paused", "job.tripped"])

    secret = page.locator(".notice code")
    await expect(secret).to_contain_text("whsec_")
    text = await secret.inner_text()
    await page.get_by_role("button", name="Copy secret").click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == text
    assert await stack.console.findings() == []

    await page.get_by_role("button", name="Rotate secret").click()
    await dialog.get_by_role("button", name="Rotate secret").click()
    await expect(secret).to_have_count(2)
    await expect(secret.first).to_have_text(text)
    await page.get_by_role("button", name="I have stored it").first.click()
    await expect(page.get_by_text(text)).to_have_count(0)
    await expect(secret).to_contain_text("whsec_")
    await page.reload()
    await expect(page.get_by_text(URL)).to_be_visible()
    await expect(secret).to_have_count(0)


async def test_webhook_is_changed_tested_moved_and_deleted(stack: Stack) -> None:
    await stack.operator.create(job_id="past", target_all=True)
    created = (await stack.webhooks.create(url=URL, types=["job.paused"])).webhook
    page = stack.console.page
    dialog = page.get_by_role("dialog")
    item = page.get_by_role("listitem", name=URL)

    await item.get_by_role("button", name="Change").click()
    save = dialog.get_by_role("button", name="Save")
    await expect(save).to_be_disabled()
    await dialog.get_by_role("checkbox", name="job.paused").uncheck()
    await dialog.get_by_role("checkbox", name="Enabled").uncheck()
    await dialog.get_by_text("Command line equivalent").click()
    await expect(dialog).to_contain_text("--all-types --disable")
    await save.click()
    await expect(item).to_contain_text("Disabled")
    await expect(item).to_contain_text("all events")

    await item.get_by_role("button", name="Test").click()
    stack.sender.result = DeliveryResult(500, "HTTP_STATUS", 0.1)
    await dialog.get_by_role("button", name="Send test event").click()
    await expect(item.get_by_role("status")).to_contain_text("did not accept it (status 500)")

    await item.get_by_role("button", name="Replay").click()
    await dialog.get_by_label("Which events").select_option("of the last hour")
    await dialog.get_by_role("button", name="Replay").click()
    await expect(item).to_contain_text("Not verified")
    assert (await stack.webhooks.get(created.webhook_id)).position < created.position

    await item.get_by_role("button", name="Delete").click()
    await dialog.get_by_role("button", name="Delete webhook").click()
    await expect(item).to_have_count(0)
    assert not await stack.webhooks.list()


@pytest.mark.parametrize("has_events", [False, True])
async def test_replay_never_moves_the_position_forward(stack: Stack, has_events: bool) -> None:
    created = (await stack.webhooks.create(url=URL)).webhook
    if has_events:
        await stack.operator.create(job_id="missed", target_all=True)
    stopped = await stack.webhooks.update(created.webhook_id, enabled=False, position=0)
    page = stack.console.page
    dialog = page.get_by_role("dialog")
    item = page.get_by_role("listitem", name=URL)
    await expect(item).to_contain_text("Disabled")

    await item.get_by_role("button", name="Replay").click()
    await dialog.get_by_label("Which events").select_option("of the last hour")
    await dialog.get_by_role("button", name="Replay").click()
    await expect(item).to_contain_text("Not verified")
    assert (await stack.webhooks.get(created.webhook_id)).position == stopped.position
