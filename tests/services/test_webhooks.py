"""The calls that manage webhooks."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from fleet.jobs.v1 import events_pb2 as pb
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from jobs_grpc.auth.policy import POLICY
from jobs_grpc.auth.roles import Role
from jobs_grpc.webhooks.sender import DeliveryResult
from tests.support.database import Database
from tests.support.failures import expect_error, invalid_fields
from tests.support.server import Server
from tests.support.webhooks import (
    URL,
    DispatcherWithCalls,
    RecordingSender,
    WebhookCaller,
    add_events,
    create_webhook,
    running_webhook_server,
    write_keys,
)

ACCEPTED = DeliveryResult(204, None, 0.25)


@pytest.fixture(scope="module")
def sender() -> RecordingSender:
    return RecordingSender()


@pytest.fixture(scope="module")
async def server(
    database: Database, webhook_keys: Path, sender: RecordingSender
) -> AsyncIterator[Server]:
    async with running_webhook_server(database, webhook_keys, sender) as running:
        yield running


@pytest.fixture
def caller(server: Server, tenant: str, sender: RecordingSender) -> WebhookCaller:
    sender.sent.clear()
    sender.result = ACCEPTED
    return WebhookCaller.on(server, tenant)


@pytest.fixture
async def hook(database: Database, caller: WebhookCaller) -> DispatcherWithCalls:
    """A new webhook, whose URL is verified."""
    return await create_webhook(database, caller)


@pytest.fixture
async def unverified(database: Database, caller: WebhookCaller) -> DispatcherWithCalls:
    return await create_webhook(database, caller, verified=False)


async def test_create_returns_webhook_and_secret(database: Database, caller: WebhookCaller) -> None:
    response = await caller.create(description="pager", types=["job.tripped", "job.completed"])

    webhook = response.webhook
    assert re.fullmatch("wh_[0-9a-f]{16}", webhook.webhook_id)
    # Other tests move the time of the database.
    now = await database.owner.fetchval("SELECT jobs.clock_time()")
    assert abs(webhook.created_at.seconds - now.timestamp()) < 60
    assert len(base64.b64decode(response.secret.removeprefix("whsec_"))) == 32
    assert await caller.get(webhook.webhook_id) == webhook
    assert webhook == pb.Webhook(
        webhook_id=webhook.webhook_id,
        url=URL,
        description="pager",
        enabled=True,
        types=["job.completed", "job.tripped"],
        created_at=webhook.created_at,
        position=webhook.position,
    )


async def test_new_webhook_skips_earlier_events(database: Database, caller: WebhookCaller) -> None:
    earlier = await add_events(database, caller.tenant, 2)

    hook = await create_webhook(database, caller)

    assert (await hook.get()).position == earlier[-1]
    assert not await hook.is_due()
    later = await hook.add_events()
    assert await hook.positions() == later


async def test_list_returns_the_webhooks_oldest_first(caller: WebhookCaller) -> None:
    responses = [await caller.create() for _ in range(3)]

    assert await caller.list() == [response.webhook for response in responses]
    assert len({response.secret for response in responses}) == 3


async def test_seventeenth_webhook_is_rejected_until_one_is_deleted(
    hook: DispatcherWithCalls,
) -> None:
    for _ in range(15):
        await hook.caller.create()

    failure = await expect_error("LIMIT_EXCEEDED", hook.caller.create())

    assert failure.message == "The tenant has 16 webhooks, which is the maximum; delete one"
    assert failure.retry_after is None
    await hook.caller.delete(hook.webhook_id)
    await hook.database.pass_time(10)
    await hook.caller.create()


def test_only_admins_manage_webhooks() -> None:
    calls = [call for call in POLICY if "Webhook" in call]

    assert len(calls) == 7
    assert {POLICY[call] for call in calls} == {frozenset({Role.ADMIN})}


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "url is required"),
        ("https://user:hunter2@hooks.example/", "url must not contain a user name or password"),
        ("https://hooks.example:8443/", "url must have an allowed port: 443"),
        ("https://10.0.0.1/", "url must not contain an address that is not public"),
    ],
)
async def test_url_must_be_allowed(hook: DispatcherWithCalls, url: str, problem: str) -> None:
    failure = await expect_error("INVALID_FIELD", hook.caller.create(url=url))

    assert failure.violations == {"url": problem}
    assert "hunter2" not in failure.message
    assert await invalid_fields(hook.update(url=url)) == ["webhook.url"]


async def test_update_checks_and_changes_only_the_fields_of_the_mask(
    hook: DispatcherWithCalls,
) -> None:
    expected = await hook.update(types=["job.paused"])
    webhook = pb.Webhook(description="new", url="ftp://x", types=["A"], position=-1)
    request = pb.UpdateWebhookRequest(webhook_id=hook.webhook_id, webhook=webhook)

    async def update(*paths: str) -> pb.Webhook:
        request.update_mask.paths[:] = paths
        call = hook.caller.stub.UpdateWebhook(request, metadata=hook.caller.metadata)
        return (await call).webhook

    expected.description = "new"
    assert await update("description") == await hook.get() == expected
    invalid = await invalid_fields(update("types", "position"))
    assert {*invalid} == {"webhook.types[0]", "webhook.position"}
    assert await invalid_fields(update("failure_count")) == ["update_mask"]


async def test_position_sends_events_again_and_skips_some(hook: DispatcherWithCalls) -> None:
    positions = await hook.add_events(3)
    assert await hook.positions() == positions
    assert await hook.succeed(positions[0])

    assert (await hook.update(position=positions[0] - 1)).position == positions[0] - 1

    assert await hook.positions() == positions
    await hook.update(position=positions[1])
    (row,) = await hook.claim()
    assert (row["previous_position"], row["position"]) == (positions[1], positions[2])
    await hook.update(position=0)
    assert (await hook.positions())[-3:] == positions


async def test_unknown_and_purged_positions_are_rejected(hook: DispatcherWithCalls) -> None:
    first, second, last = await hook.add_events(3)

    failure = await expect_error("POSITION_UNKNOWN", hook.update(position=last + 1))
    assert failure.metadata == {"position": str(last + 1), "lastPosition": str(last)}

    await purge(hook, second)
    failure = await expect_error("EVENTS_PURGED", hook.update(position=first))
    assert failure.metadata == {"position": str(first), "purgedPosition": str(second)}
    assert (await hook.update(position=0)).position == second


async def purge(hook: DispatcherWithCalls, position: int) -> None:
    for sql in (
        "UPDATE jobs.event_heads SET purged_position = $2 WHERE tenant_id = $1",
        "DELETE FROM jobs.events WHERE tenant_id = $1 AND position <= $2",
    ):
        await hook.connection.execute(sql, hook.tenant, position)


async def test_disabled_webhook_keeps_its_position_and_continues_there(
    hook: DispatcherWithCalls,
) -> None:
    disabled = await hook.update(enabled=False)
    assert (disabled.enabled, disabled.disabled_cause) == (False, pb.Webhook.OPERATOR)
    positions = await hook.add_events(2)
    assert not await hook.is_due()
    assert await hook.positions() == []

    enabled = await hook.update(enabled=True)

    unspecified = pb.Webhook.DISABLED_CAUSE_UNSPECIFIED
    assert (enabled.enabled, enabled.disabled_cause) == (True, unspecified)
    assert await hook.positions() == positions


async def test_failures_are_shown_and_reset_when_it_is_enabled_again(
    hook: DispatcherWithCalls,
) -> None:
    (position,) = await hook.add_events()
    await hook.claim()
    await hook.fail(position, 503, retry_seconds=100)

    failing = await hook.get()

    assert (failing.failure_count, failing.last_http_status) == (1, 503)
    assert failing.last_error == pb.Webhook.HTTP_STATUS
    delay = failing.next_attempt_at.seconds - failing.last_attempt_at.seconds
    assert 99 <= delay <= 101
    await hook.update(enabled=False)
    enabled = await hook.update(enabled=True)
    assert enabled.failure_count == 0
    assert not enabled.HasField("next_attempt_at")
    assert (enabled.last_http_status, enabled.last_error) == (503, pb.Webhook.HTTP_STATUS)
    assert await hook.positions() == [position]


async def test_new_url_forgets_the_deliveries_to_the_old_one(hook: DispatcherWithCalls) -> None:
    created = await hook.get()
    first, second = await hook.add_events(2)
    await hook.claim()
    await hook.succeed(first)
    await hook.fail(second, 0, "TIMEOUT")

    updated = await hook.update(url="https://new.example/")

    created.url = "https://new.example/"
    created.position = first
    created.ClearField("verified_at")
    updated.ClearField("due_since")
    assert updated == created
    (test,) = await hook.claim()
    assert test["type"] == "webhook.test"
    await hook.succeed(test["position"], is_last=True)
    assert await hook.positions() == [second]


async def test_deleted_webhook_is_gone(hook: DispatcherWithCalls) -> None:
    await hook.caller.delete(hook.webhook_id)

    assert not await hook.caller.list()
    await expect_error("WEBHOOK_NOT_FOUND", hook.get())
    await expect_error("WEBHOOK_NOT_FOUND", hook.caller.delete(hook.webhook_id))


def verifies(secret: str, sent: tuple[str, Mapping[str, str], bytes]) -> bool:
    """Return whether the reference implementation accepts a delivery."""
    try:
        Webhook(secret).verify(sent[2], dict(sent[1]))
    except WebhookVerificationError:
        return False
    return True


async def test_test_sends_a_signed_event_and_returns_the_result(
    hook: DispatcherWithCalls, sender: RecordingSender
) -> None:
    before = await hook.get()
    sender.result = DeliveryResult(302, "REDIRECT", 1.5)

    response = await hook.test()

    assert (response.http_status, response.error) == (302, pb.Webhook.REDIRECT)
    assert response.duration.ToMilliseconds() == 1500
    ((url, headers, body),) = sender.sent
    assert url == URL
    assert {*headers} == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    payload = json.loads(body)
    assert (payload["type"], payload["data"]) == ("webhook.test", {"webhook_id": hook.webhook_id})
    assert verifies(hook.secret, sender.sent[0])
    # The state of the deliveries does not change.
    assert await hook.get() == before
    await hook.update(enabled=False)
    await hook.database.pass_time(10)
    assert (await hook.test()).http_status == 302


async def test_second_test_is_rejected(hook: DispatcherWithCalls, sender: RecordingSender) -> None:
    await hook.test()

    failure = await expect_error("LIMIT_EXCEEDED", hook.test())

    assert failure.retry_after == 10
    assert len(sender.sent) == 1
    await hook.caller.test((await hook.caller.create()).webhook.webhook_id)
    await hook.database.pass_time(10)
    await hook.test()


async def restart_times(hook: DispatcherWithCalls, seconds: float) -> None:
    """Let the tenant have used this many of the ten seconds in which it can make 16 restarts."""
    await hook.connection.execute(
        "UPDATE jobs.event_heads SET restarts_until = jobs.clock_time() + make_interval(secs => $2)"
        " WHERE tenant_id = $1",
        hook.tenant,
        seconds,
    )


async def restart(hook: DispatcherWithCalls, kind: str) -> None:
    """Let the server send to the URL of the webhook at once."""
    match kind:
        case "create":
            await hook.caller.create()
        case "test":
            await hook.test()
        case "position":
            await hook.update(position=0)
        case "current position":
            await hook.update(position=(await hook.get()).position)
        case "url":
            await hook.update(url="https://new.example/")
        case "types":
            await hook.update(types=["job.paused"])
        case "enabled":
            await hook.update(enabled=True)


@pytest.mark.parametrize(
    "kind", ["create", "test", "position", "current position", "url", "types", "enabled"]
)
async def test_restarts_and_tests_take_from_one_allowance(
    hook: DispatcherWithCalls, kind: str
) -> None:
    await hook.add_events()
    if kind == "enabled":
        await hook.update(enabled=False)
    else:
        await hook.claim()
    until = "SELECT restarts_until FROM jobs.event_heads WHERE tenant_id = $1"
    await restart_times(hook, 10)
    before = await hook.caller.list()

    failure = await expect_error("LIMIT_EXCEEDED", restart(hook, kind))

    assert failure.retry_after == 10
    limit = "Per tenant: at most 16 webhook creations, restarts and tests "
    assert failure.message.startswith(limit)
    assert await hook.caller.list() == before
    await restart_times(hook, 5)
    earlier = await hook.connection.fetchval(until, hook.tenant)
    await restart(hook, kind)
    taken = await hook.connection.fetchval(until, hook.tenant) - earlier
    assert taken.total_seconds() == 10 / 16


async def test_change_that_sends_nothing_is_not_limited(hook: DispatcherWithCalls) -> None:
    await restart_times(hook, 10)

    await hook.caller.rotate(hook.webhook_id)
    await hook.update(description="new", url=URL, enabled=True)
    await hook.update(enabled=False)
    await hook.update(position=0, url="https://new.example/")
    await expect_error("LIMIT_EXCEEDED", hook.update(enabled=True))
    await hook.caller.delete(hook.webhook_id)


async def test_tenant_can_restart_webhooks_16_times_in_ten_seconds(
    hook: DispatcherWithCalls,
) -> None:
    async def restart_times(count: int) -> None:
        for _ in range(count):
            await hook.update(position=0)

    await restart_times(15)
    # 1.6 times per second are free again.
    await expect_error("LIMIT_EXCEEDED", restart_times(16))
    await hook.database.pass_time(10)
    await restart_times(1)


async def test_events_follow_a_test_event_that_was_accepted(
    unverified: DispatcherWithCalls,
) -> None:
    hook = unverified
    webhook = await hook.get()
    assert not webhook.HasField("verified_at")
    positions = await hook.add_events(2)

    (test,) = await hook.claim()
    assert (test["type"], test["position"]) == ("webhook.test", webhook.position)
    await hook.fail(test["position"], 401, retry_seconds=100)

    failing = await hook.get()
    assert (failing.failure_count, failing.last_http_status) == (1, 401)
    assert failing.HasField("next_attempt_at")
    assert not failing.HasField("verified_at")
    await hook.database.pass_time(100)
    assert [row["type"] for row in await hook.claim()] == ["webhook.test"]
    await hook.succeed(test["position"], is_last=True)
    assert (await hook.get()).HasField("verified_at")
    first, second = await hook.claim()
    assert [first["position"], second["position"]] == positions
    assert first["previous_position"] == webhook.position


async def test_unverified_webhook_is_disabled_like_others(unverified: DispatcherWithCalls) -> None:
    await unverified.add_events()
    (test,) = await unverified.claim()

    assert await unverified.fail(test["position"], 410) == (True, "GONE")


@pytest.mark.parametrize("accepted", [True, False])
async def test_url_is_verified_when_it_accepts_a_test(
    unverified: DispatcherWithCalls, sender: RecordingSender, accepted: bool
) -> None:
    positions = await unverified.add_events()
    (test,) = await unverified.claim()
    await unverified.fail(test["position"], 401, retry_seconds=3600)
    if not accepted:
        sender.result = DeliveryResult(401, "HTTP_STATUS", 0.25)

    await unverified.test()

    tested = await unverified.get()
    state = (tested.HasField("verified_at"), tested.failure_count)
    assert state == ((True, 0) if accepted else (False, 1))
    assert await unverified.positions() == (positions if accepted else [])


async def test_test_of_the_old_url_does_not_verify_the_new_one(
    unverified: DispatcherWithCalls, sender: RecordingSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def change_url(*_: object) -> DeliveryResult:
        await unverified.update(url="https://new.example/")
        return ACCEPTED

    monkeypatch.setattr(sender, "send", change_url)
    await unverified.test()

    assert not (await unverified.get()).HasField("verified_at")


async def test_events_are_replays_when_the_position_moves_back(hook: DispatcherWithCalls) -> None:
    first, second, _ = await hook.add_events(3)
    await hook.claim()
    await hook.succeed(second, is_last=True)

    async def replays() -> list[bool]:
        return [row["is_replay"] for row in await hook.claim()]

    assert await replays() == [False]
    for position, expected in (
        (second, [False]),
        (first - 1, [True, True, False]),
        (first - 2, [True, True, False]),
        (second, [False]),
    ):
        await hook.update(position=position)
        assert await replays() == expected


async def test_four_tests_of_a_tenant_run_at_once(
    caller: WebhookCaller, server: Server, sender: RecordingSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, release = asyncio.Semaphore(0), asyncio.Event()

    async def wait(*_: object) -> DeliveryResult:
        started.release()
        await release.wait()
        return ACCEPTED

    monkeypatch.setattr(sender, "send", wait)
    webhook_ids = [(await caller.create()).webhook.webhook_id for _ in range(5)]
    tests = [asyncio.create_task(caller.test(webhook_id)) for webhook_id in webhook_ids[:4]]
    for _ in tests:
        await started.acquire()

    await expect_error("LIMIT_EXCEEDED", caller.test(webhook_ids[4]))

    other = WebhookCaller.on(server, f"{caller.tenant}-other")
    tests.append(asyncio.create_task(other.test((await other.create()).webhook.webhook_id)))
    await started.acquire()
    release.set()
    assert [test.http_status for test in await asyncio.gather(*tests)] == [204] * 5
    assert (await caller.test(webhook_ids[4])).http_status == 204


async def test_rotation_during_a_delivery_is_counted_but_never_refused(
    hook: DispatcherWithCalls,
) -> None:
    await hook.add_events()
    await hook.claim()
    await restart_times(hook, 9.9)

    await hook.caller.rotate(hook.webhook_id)

    await expect_error("LIMIT_EXCEEDED", hook.caller.create())


async def sign_test(
    hook: DispatcherWithCalls, sender: RecordingSender, *secrets: str
) -> list[bool]:
    """Send a test in a time in which one is allowed; return whether each secret signs it."""
    await hook.database.pass_time(11)
    await hook.test()
    return [verifies(secret, sender.sent[-1]) for secret in secrets]


async def test_rotation_signs_with_both_secrets_for_a_day(
    hook: DispatcherWithCalls, sender: RecordingSender
) -> None:
    before = await hook.get()

    rotated = await hook.caller.rotate(hook.webhook_id)

    assert rotated.secret != hook.secret
    assert rotated.webhook == before
    assert await sign_test(hook, sender, rotated.secret, hook.secret) == [True, True]
    twice = await hook.caller.rotate(hook.webhook_id)
    secrets = (twice.secret, rotated.secret, hook.secret)
    assert await sign_test(hook, sender, *secrets) == [True, True, False]
    await hook.database.pass_time(86_400)
    assert await sign_test(hook, sender, *secrets) == [True, False, False]


async def test_master_keys_can_be_replaced(database: Database, tenant: str, tmp_path: Path) -> None:
    """New secrets use the newest key. The others still sign while the file contains their key."""
    sender = RecordingSender()
    keys = write_keys(tmp_path / "keys", "old")
    async with running_webhook_server(database, keys, sender) as server:
        hook = await create_webhook(database, WebhookCaller.on(server, tenant))
        write_keys(tmp_path / "new", "new", "old").replace(keys)
        assert await sign_test(hook, sender, hook.secret) == [True]
        new = (await hook.caller.rotate(hook.webhook_id)).secret
        assert await sign_test(hook, sender, hook.secret, new) == [True, True]

        # Without the old key, the secret that is derived from it no longer signs.
        write_keys(tmp_path / "new", "new").replace(keys)
        assert await sign_test(hook, sender, hook.secret, new) == [False, True]

        write_keys(tmp_path / "new", "third").replace(keys)
        await expect_error("WEBHOOKS_UNAVAILABLE", sign_test(hook, sender))
        stored = "SELECT key_id FROM jobs.webhooks WHERE webhook_id = $1"
        assert await database.owner.fetchval(stored, hook.webhook_id) == "new"


async def test_webhooks_are_unavailable_without_master_keys(hook: DispatcherWithCalls) -> None:
    async with running_webhook_server(hook.database, None, RecordingSender()) as without:
        same = WebhookCaller.on(without, hook.tenant)

        for call in (same.create(), same.rotate(hook.webhook_id), same.test(hook.webhook_id)):
            await expect_error("WEBHOOKS_UNAVAILABLE", call)
        assert len(await same.list()) == 1
        assert not (await same.update(hook.webhook_id, enabled=False)).enabled
        await same.delete(hook.webhook_id)


async def test_secrets_and_urls_are_not_logged_and_secrets_are_not_stored(
    database: Database, caller: WebhookCaller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    path = "secret-path"
    created = await caller.create(url=f"{URL}/{path}")
    webhook_id = created.webhook.webhook_id
    rotated = await caller.rotate(webhook_id)
    await caller.test(webhook_id)
    await invalid_fields(caller.update(webhook_id, url=f"http://hooks.example/{path}"))
    await invalid_fields(caller.create(url=f"{URL}/{path}{'x' * 2048}"))

    stored = await database.owner.fetchval(
        "SELECT to_jsonb(w)::text FROM jobs.webhooks w WHERE w.webhook_id = $1", webhook_id
    )
    texts = [record.getMessage() + str(vars(record)) for record in caplog.records]
    for secret in (created.secret, rotated.secret):
        bare = secret.removeprefix("whsec_")
        for hidden in (bare, base64.b64decode(bare).hex()):
            assert hidden not in stored
            assert not [text for text in texts if hidden in text]
    assert not [text for text in texts if path in text]
    audited = [text for text in texts if "audit CreateWebhook" in text]
    assert any(webhook_id in text for text in audited)
