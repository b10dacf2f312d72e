"""The calls that manage webhooks."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from fleet.jobs.v1 import events_pb2 as pb
from grpc import StatusCode
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from jobs_grpc.webhooks.sender import DeliveryResult
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server
from tests.support.webhooks import (
    URL,
    Dispatcher,
    RecordingSender,
    WebhookCaller,
    add_events,
    running_webhook_server,
    set_verified,
    write_keys,
)

INVALID = StatusCode.INVALID_ARGUMENT
UNKNOWN_ID = "wh_0"


@pytest.fixture(scope="module")
def sender() -> RecordingSender:
    """The sender of the module's server."""
    return RecordingSender()


@pytest.fixture(scope="module")
async def server(
    database: Database, webhook_keys: Path, sender: RecordingSender
) -> AsyncIterator[Server]:
    """A server that sends webhooks."""
    async with running_webhook_server(database, webhook_keys, sender) as running:
        yield running


@pytest.fixture
def caller(server: Server, tenant: str, sender: RecordingSender) -> WebhookCaller:
    """An admin."""
    sender.sent.clear()
    sender.result = DeliveryResult(204, None, 0.25)
    return WebhookCaller.on(server, tenant)


@pytest.fixture
async def dispatcher(database: Database, caller: WebhookCaller) -> Dispatcher:
    """A dispatcher of a new webhook, whose URL is verified."""
    created = await caller.create()
    await set_verified(database, created.webhook.webhook_id)
    return Dispatcher(database.owner, caller.tenant, created.webhook.webhook_id)


async def test_create_returns_an_enabled_webhook_and_its_secret(
    database: Database, caller: WebhookCaller
) -> None:
    response = await caller.create(description="pager", types=["job.tripped", "job.completed"])

    webhook = response.webhook
    assert re.fullmatch("wh_[0-9a-f]{16}", webhook.webhook_id)
    assert (webhook.url, webhook.description, webhook.enabled) == (URL, "pager", True)
    assert [*webhook.types] == ["job.completed", "job.tripped"]
    # Other tests move the time of the database.
    now = await database.owner.fetchval("SELECT jobs.clock_time()")
    assert abs(webhook.created_at.seconds - now.timestamp()) < 60
    assert not webhook.HasField("last_attempt_at")
    assert not webhook.HasField("last_success_at")
    assert not webhook.HasField("next_attempt_at")
    assert (webhook.failure_count, webhook.last_http_status, webhook.purged_position) == (0, 0, 0)
    assert len(base64.b64decode(response.secret.removeprefix("whsec_"))) == 32
    assert await caller.get(webhook.webhook_id) == webhook


async def test_each_webhook_has_its_own_secret(server: Server, caller: WebhookCaller) -> None:
    other = WebhookCaller.on(server, f"{caller.tenant}-b")

    responses = [await caller.create(), await caller.create(), await other.create()]

    assert len({response.secret for response in responses}) == 3


async def test_new_webhook_skips_earlier_events(database: Database, caller: WebhookCaller) -> None:
    earlier = await add_events(database, caller.tenant, 2)

    created = await caller.create()

    assert created.webhook.position == earlier[-1]
    await set_verified(database, created.webhook.webhook_id)
    dispatcher = Dispatcher(database.owner, caller.tenant, created.webhook.webhook_id)
    assert not await dispatcher.is_due()
    later = await add_events(database, caller.tenant)
    assert await dispatcher.positions() == later


async def test_list_returns_the_webhooks_oldest_first(caller: WebhookCaller) -> None:
    created = [(await caller.create()).webhook for _ in range(3)]

    assert await caller.list() == created


async def test_seventeenth_webhook_is_rejected_until_one_is_deleted(
    database: Database, caller: WebhookCaller
) -> None:
    created = [(await caller.create()).webhook.webhook_id for _ in range(16)]

    with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as failure:
        await caller.create()

    assert failure.message == "The tenant has 16 webhooks, which is the maximum; delete one"
    assert failure.retry_after is None
    await caller.delete(created[0])
    await database.pass_time(10)
    await caller.create()


async def test_calls_do_not_find_the_webhook_of_another_tenant(
    server: Server, caller: WebhookCaller
) -> None:
    webhook = (await caller.create()).webhook
    stranger = WebhookCaller.on(server, f"{caller.tenant}-b")

    for call in (
        stranger.get(webhook.webhook_id),
        stranger.update(webhook.webhook_id, description="mine"),
        stranger.delete(webhook.webhook_id),
        stranger.rotate(webhook.webhook_id),
        stranger.test(webhook.webhook_id),
    ):
        with expect_failure(StatusCode.NOT_FOUND, "WEBHOOK_NOT_FOUND") as failure:
            await call
        assert failure.metadata == {"webhookId": webhook.webhook_id}
    assert not await stranger.list()
    assert await caller.get(webhook.webhook_id) == webhook


@pytest.mark.parametrize("role", ["viewer", "operator", "bridge", "device"])
async def test_only_admins_manage_webhooks(server: Server, tenant: str, role: str) -> None:
    caller = WebhookCaller.on(server, tenant, ("x-roles", role))

    for call in (
        caller.create(),
        caller.list(),
        caller.get(UNKNOWN_ID),
        caller.update(UNKNOWN_ID, enabled=True),
        caller.delete(UNKNOWN_ID),
        caller.rotate(UNKNOWN_ID),
        caller.test(UNKNOWN_ID),
    ):
        with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
            await call


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "url is required"),
        ("http://hooks.example/", "url must begin with https://"),
        ("https://user:hunter2@hooks.example/", "url must not contain a user name or password"),
        ("https://hooks.example/#part", "url must not contain a fragment"),
        ("https:///path", "url must contain a host name or an IP address"),
        ("https://hooks.example:8443/", "url must have an allowed port: 443"),
        ("https://10.0.0.1/", "url must not contain an address that is not public"),
        ("https://[::1]/", "url must not contain an address that is not public"),
    ],
)
async def test_url_that_is_not_allowed_is_a_violation(
    caller: WebhookCaller, url: str, problem: str
) -> None:
    with expect_failure(INVALID, "INVALID_FIELD") as failure:
        await caller.create(url=url)

    assert failure.violations == {"url": problem}
    assert "hunter2" not in failure.message
    webhook_id = (await caller.create()).webhook.webhook_id
    with expect_failure(INVALID, "INVALID_FIELD") as failure:
        await caller.update(webhook_id, url=url)
    assert [*failure.violations] == ["webhook.url"]


async def test_update_changes_only_the_fields_of_the_mask(caller: WebhookCaller) -> None:
    created = (await caller.create(description="old", types=["job.paused"])).webhook

    updated = await caller.update(created.webhook_id, description="new")

    created.description = "new"
    assert updated == created
    assert await caller.get(created.webhook_id) == created


async def test_update_checks_only_the_fields_of_the_mask(
    server: Server, caller: WebhookCaller
) -> None:
    webhook_id = (await caller.create()).webhook.webhook_id
    request = pb.UpdateWebhookRequest(
        webhook_id=webhook_id, webhook=pb.Webhook(url="ftp://x", types=["A"], position=-1)
    )
    request.update_mask.paths.append("description")
    await caller.stub.UpdateWebhook(request, metadata=caller.metadata)

    request.update_mask.paths[:] = ["types", "position"]
    with expect_failure(INVALID, "INVALID_FIELD") as failure:
        await caller.stub.UpdateWebhook(request, metadata=caller.metadata)
    assert {*failure.violations} == {"webhook.types[0]", "webhook.position"}
    request.update_mask.paths[:] = ["failure_count"]
    with expect_failure(INVALID, "INVALID_FIELD") as failure:
        await caller.stub.UpdateWebhook(request, metadata=caller.metadata)
    assert [*failure.violations] == ["update_mask"]


async def test_position_sends_events_again_and_skips_some(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    positions = await add_events(database, caller.tenant, 3)
    assert await dispatcher.positions() == positions
    assert await dispatcher.succeed(positions[0])

    again = await caller.update(dispatcher.webhook_id, position=positions[0] - 1)

    assert again.position == positions[0] - 1
    assert await dispatcher.positions() == positions
    await caller.update(dispatcher.webhook_id, position=positions[1])
    (row,) = await dispatcher.claim()
    assert (row["previous_position"], row["position"]) == (positions[1], positions[2])
    await caller.update(dispatcher.webhook_id, position=0)
    assert (await dispatcher.positions())[-3:] == positions


async def test_unknown_and_purged_positions_are_rejected(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    positions = await add_events(database, caller.tenant, 3)

    with expect_failure(StatusCode.OUT_OF_RANGE, "POSITION_UNKNOWN") as failure:
        await caller.update(dispatcher.webhook_id, position=positions[2] + 1)
    assert failure.metadata == {
        "position": str(positions[2] + 1),
        "lastPosition": str(positions[2]),
    }

    await purge(database, caller.tenant, positions[1])
    with expect_failure(StatusCode.OUT_OF_RANGE, "EVENTS_PURGED") as failure:
        await caller.update(dispatcher.webhook_id, position=positions[0])
    assert failure.metadata == {
        "position": str(positions[0]),
        "purgedPosition": str(positions[1]),
    }
    assert (await caller.update(dispatcher.webhook_id, position=0)).position == positions[1]


async def purge(database: Database, tenant: str, position: int) -> None:
    """Purge the events up to a position."""
    async with database.owner.transaction():
        await database.owner.execute(
            "UPDATE jobs.event_heads SET purged_position = $2 WHERE tenant_id = $1",
            tenant,
            position,
        )
        await database.owner.execute(
            "DELETE FROM jobs.events WHERE tenant_id = $1 AND position <= $2", tenant, position
        )


async def test_disabled_webhook_keeps_its_position_and_continues_there(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    disabled = await caller.update(dispatcher.webhook_id, enabled=False)
    assert (disabled.enabled, disabled.disabled_cause) == (False, pb.Webhook.OPERATOR)
    positions = await add_events(database, caller.tenant, 2)
    assert not await dispatcher.is_due()
    assert await dispatcher.positions() == []

    enabled = await caller.update(dispatcher.webhook_id, enabled=True)

    assert enabled.enabled
    assert enabled.disabled_cause == pb.Webhook.DISABLED_CAUSE_UNSPECIFIED
    assert await dispatcher.positions() == positions


async def test_failures_are_shown_and_reset_when_webhook_is_enabled_again(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    (position,) = await add_events(database, caller.tenant)
    await dispatcher.claim()
    await dispatcher.fail(position, 503, retry_seconds=100)

    failing = await caller.get(dispatcher.webhook_id)

    assert (failing.failure_count, failing.last_http_status) == (1, 503)
    assert failing.last_error == pb.Webhook.HTTP_STATUS
    assert failing.HasField("last_attempt_at")
    delay = failing.next_attempt_at.seconds - failing.last_attempt_at.seconds
    assert 99 <= delay <= 101
    await caller.update(dispatcher.webhook_id, enabled=False)
    enabled = await caller.update(dispatcher.webhook_id, enabled=True)
    assert enabled.failure_count == 0
    assert not enabled.HasField("next_attempt_at")
    assert (enabled.last_http_status, enabled.last_error) == (503, pb.Webhook.HTTP_STATUS)
    assert await dispatcher.positions() == [position]


async def test_new_url_forgets_the_deliveries_to_the_old_one(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    first, second = await add_events(database, caller.tenant, 2)
    await dispatcher.claim()
    await dispatcher.succeed(first)
    await dispatcher.fail(second, 0, "TIMEOUT")

    updated = await caller.update(dispatcher.webhook_id, url="https://new.example/")

    assert updated.url == "https://new.example/"
    for field in ("last_success_at", "last_attempt_at", "next_attempt_at"):
        assert not updated.HasField(field)
    assert (updated.failure_count, updated.last_error) == (0, 0)
    assert not updated.HasField("verified_at")
    (test,) = await dispatcher.claim()
    assert test["type"] == "webhook.test"
    await dispatcher.succeed(test["position"], is_last=True)
    assert await dispatcher.positions() == [second]


async def test_deleted_webhook_is_gone(caller: WebhookCaller, dispatcher: Dispatcher) -> None:
    await caller.delete(dispatcher.webhook_id)

    assert not await caller.list()
    with expect_failure(StatusCode.NOT_FOUND, "WEBHOOK_NOT_FOUND"):
        await caller.get(dispatcher.webhook_id)
    with expect_failure(StatusCode.NOT_FOUND, "WEBHOOK_NOT_FOUND"):
        await caller.delete(dispatcher.webhook_id)


def verifies(secret: str, sent: tuple[str, Mapping[str, str], bytes]) -> bool:
    """Return whether the reference implementation accepts a delivery."""
    try:
        Webhook(secret).verify(sent[2], dict(sent[1]))
    except WebhookVerificationError:
        return False
    return True


async def test_test_sends_a_signed_event_and_returns_the_result(
    caller: WebhookCaller, sender: RecordingSender
) -> None:
    created = await caller.create()
    sender.result = DeliveryResult(302, "REDIRECT", 1.5)

    response = await caller.test(created.webhook.webhook_id)

    assert (response.http_status, response.error) == (302, pb.Webhook.REDIRECT)
    assert response.duration.ToMilliseconds() == 1500
    ((url, headers, body),) = sender.sent
    assert url == URL
    assert {*headers} == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    payload = json.loads(body)
    assert (payload["type"], payload["data"]) == (
        "webhook.test",
        {"webhook_id": created.webhook.webhook_id},
    )
    assert verifies(created.secret, sender.sent[0])
    # The state of the deliveries does not change.
    assert await caller.get(created.webhook.webhook_id) == created.webhook


async def test_test_is_rejected_within_ten_seconds_of_the_last_one(
    database: Database, caller: WebhookCaller, sender: RecordingSender
) -> None:
    webhook_id = (await caller.create()).webhook.webhook_id
    await caller.test(webhook_id)

    with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as failure:
        await caller.test(webhook_id)

    assert failure.retry_after == 10
    assert len(sender.sent) == 1
    await caller.test((await caller.create()).webhook.webhook_id)
    await database.pass_time(10)
    await caller.test(webhook_id)


async def restart_times(database: Database, tenant: str, seconds: float) -> None:
    """Let the tenant have used this many of the ten seconds in which it can make 16 restarts."""
    await database.owner.execute(
        "UPDATE jobs.event_heads SET restarts_until = jobs.clock_time() + make_interval(secs => $2)"
        " WHERE tenant_id = $1",
        tenant,
        seconds,
    )


async def restart(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher, kind: str
) -> None:
    """Let the server send to the URL of the webhook at once."""
    webhook_id = dispatcher.webhook_id
    webhook = await caller.get(webhook_id)
    if kind == "create":
        await caller.create()
    elif kind == "test":
        await caller.test(webhook_id)
    elif kind == "current position":
        await caller.update(webhook_id, position=webhook.position)
    else:
        change: dict[str, object] = {
            "position": 0,
            "url": "https://new.example/",
            "types": ["job.paused"],
            "enabled": True,
        }
        await caller.update(webhook_id, **{kind: change[kind]})


@pytest.mark.parametrize(
    "kind",
    ["create", "test", "position", "current position", "url", "types", "enabled"],
)
async def test_restarts_and_tests_take_from_one_allowance(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher, kind: str
) -> None:
    await add_events(database, caller.tenant)
    if kind == "enabled":
        await caller.update(dispatcher.webhook_id, enabled=False)
    else:
        await dispatcher.claim()
    until = "SELECT restarts_until FROM jobs.event_heads WHERE tenant_id = $1"
    await restart_times(database, caller.tenant, 10)
    before = await caller.list()

    with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as failure:
        await restart(database, caller, dispatcher, kind)

    assert failure.retry_after == 10
    assert failure.message.startswith(
        "Per tenant: at most 16 webhook creations, restarts and tests "
    )
    assert await caller.list() == before
    await restart_times(database, caller.tenant, 5)
    earlier = await database.owner.fetchval(until, caller.tenant)
    await restart(database, caller, dispatcher, kind)
    taken = await database.owner.fetchval(until, caller.tenant) - earlier
    assert taken.total_seconds() == 10 / 16


async def test_change_that_sends_nothing_is_not_limited(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    await restart_times(database, caller.tenant, 10)
    webhook = await caller.get(dispatcher.webhook_id)

    await caller.rotate(dispatcher.webhook_id)
    await caller.update(dispatcher.webhook_id, description="new", url=webhook.url, enabled=True)
    await caller.update(dispatcher.webhook_id, enabled=False)
    await caller.update(dispatcher.webhook_id, position=0, url="https://new.example/")
    with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"):
        await caller.update(dispatcher.webhook_id, enabled=True)
    await caller.delete(dispatcher.webhook_id)


async def test_tenant_can_restart_webhooks_16_times_in_ten_seconds(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    for _ in range(15):
        await caller.update(dispatcher.webhook_id, position=0)

    # 1.6 times per second are free again.
    with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"):
        for _ in range(16):
            await caller.update(dispatcher.webhook_id, position=0)
    await database.pass_time(10)
    await caller.update(dispatcher.webhook_id, position=0)


async def test_events_follow_a_test_event_that_was_accepted(
    database: Database, caller: WebhookCaller
) -> None:
    webhook = (await caller.create()).webhook
    dispatcher = Dispatcher(database.owner, caller.tenant, webhook.webhook_id)
    assert not webhook.HasField("verified_at")
    positions = await add_events(database, caller.tenant, 2)

    (test,) = await dispatcher.claim()
    assert (test["type"], test["position"]) == ("webhook.test", webhook.position)
    await dispatcher.fail(test["position"], 401, retry_seconds=100)

    failing = await caller.get(webhook.webhook_id)
    assert (failing.failure_count, failing.last_http_status) == (1, 401)
    assert failing.HasField("next_attempt_at")
    assert not failing.HasField("verified_at")
    await database.pass_time(100)
    assert [row["type"] for row in await dispatcher.claim()] == ["webhook.test"]
    await dispatcher.succeed(test["position"], is_last=True)
    assert (await caller.get(webhook.webhook_id)).HasField("verified_at")
    first, second = await dispatcher.claim()
    assert [first["position"], second["position"]] == positions
    assert first["previous_position"] == webhook.position


async def test_unverified_webhook_is_disabled_like_others(
    database: Database, caller: WebhookCaller
) -> None:
    webhook = (await caller.create()).webhook
    dispatcher = Dispatcher(database.owner, caller.tenant, webhook.webhook_id)
    await add_events(database, caller.tenant)
    (test,) = await dispatcher.claim()

    assert await dispatcher.fail(test["position"], 410) == (True, "GONE")


@pytest.mark.parametrize("accepted", [True, False])
async def test_url_is_verified_when_it_accepts_a_test(
    database: Database, caller: WebhookCaller, sender: RecordingSender, accepted: bool
) -> None:
    webhook = (await caller.create()).webhook
    dispatcher = Dispatcher(database.owner, caller.tenant, webhook.webhook_id)
    positions = await add_events(database, caller.tenant)
    (test,) = await dispatcher.claim()
    await dispatcher.fail(test["position"], 401, retry_seconds=3600)
    if not accepted:
        sender.result = DeliveryResult(401, "HTTP_STATUS", 0.25)

    await caller.test(webhook.webhook_id)

    tested = await caller.get(webhook.webhook_id)
    assert (tested.HasField("verified_at"), tested.failure_count) == (
        (True, 0) if accepted else (False, 1)
    )
    assert await dispatcher.positions() == (positions if accepted else [])


async def test_test_of_the_old_url_does_not_verify_the_new_one(
    caller: WebhookCaller, sender: RecordingSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook_id = (await caller.create()).webhook.webhook_id

    async def change_url(*_: object) -> DeliveryResult:
        await caller.update(webhook_id, url="https://new.example/")
        return DeliveryResult(204, None, 0.25)

    monkeypatch.setattr(sender, "send", change_url)
    await caller.test(webhook_id)

    assert not (await caller.get(webhook_id)).HasField("verified_at")


async def test_events_are_replays_up_to_the_position_before_it_was_moved_back(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    positions = await add_events(database, caller.tenant, 3)
    await dispatcher.claim()
    await dispatcher.succeed(positions[1], is_last=True)

    async def replays() -> list[bool]:
        return [row["is_replay"] for row in await dispatcher.claim()]

    assert await replays() == [False]
    await caller.update(dispatcher.webhook_id, position=positions[1])
    assert await replays() == [False]
    await caller.update(dispatcher.webhook_id, position=positions[0] - 1)
    assert await replays() == [True, True, False]
    await caller.update(dispatcher.webhook_id, position=positions[0] - 2)
    assert await replays() == [True, True, False]
    await caller.update(dispatcher.webhook_id, position=positions[1])
    assert await replays() == [False]


async def test_four_tests_of_a_tenant_run_at_once(
    caller: WebhookCaller, server: Server, sender: RecordingSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, release = asyncio.Semaphore(0), asyncio.Event()

    async def wait(*_: object) -> DeliveryResult:
        started.release()
        await release.wait()
        return DeliveryResult(204, None, 0.25)

    monkeypatch.setattr(sender, "send", wait)
    webhook_ids = [(await caller.create()).webhook.webhook_id for _ in range(5)]
    tests = [asyncio.create_task(caller.test(webhook_id)) for webhook_id in webhook_ids[:4]]
    for _ in tests:
        await started.acquire()

    with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"):
        await caller.test(webhook_ids[4])

    other = WebhookCaller.on(server, f"{caller.tenant}-other")
    tests.append(asyncio.create_task(other.test((await other.create()).webhook.webhook_id)))
    await started.acquire()
    release.set()
    assert [test.http_status for test in await asyncio.gather(*tests)] == [204] * 5
    assert (await caller.test(webhook_ids[4])).http_status == 204


async def test_test_reaches_a_disabled_webhook(
    caller: WebhookCaller, dispatcher: Dispatcher, sender: RecordingSender
) -> None:
    await caller.update(dispatcher.webhook_id, enabled=False)

    assert (await caller.test(dispatcher.webhook_id)).http_status == 204
    assert len(sender.sent) == 1


async def test_rotation_during_a_delivery_is_counted_but_never_refused(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    await add_events(database, caller.tenant)
    await dispatcher.claim()
    await restart_times(database, caller.tenant, 9.9)

    await caller.rotate(dispatcher.webhook_id)

    with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"):
        await caller.create()


async def test_rotation_signs_with_both_secrets_for_a_day(
    database: Database, caller: WebhookCaller, sender: RecordingSender
) -> None:
    created = await caller.create()
    webhook_id = created.webhook.webhook_id

    rotated = await caller.rotate(webhook_id)

    assert rotated.secret != created.secret
    assert rotated.webhook == created.webhook
    await caller.test(webhook_id)
    assert verifies(rotated.secret, sender.sent[-1])
    assert verifies(created.secret, sender.sent[-1])
    twice = await caller.rotate(webhook_id)
    await database.pass_time(11)
    await caller.test(webhook_id)
    assert verifies(twice.secret, sender.sent[-1])
    assert verifies(rotated.secret, sender.sent[-1])
    assert not verifies(created.secret, sender.sent[-1])
    await database.pass_time(86_400)
    await caller.test(webhook_id)
    assert verifies(twice.secret, sender.sent[-1])
    assert not verifies(rotated.secret, sender.sent[-1])


async def test_new_master_key_is_used_for_new_secrets_and_old_ones_still_sign(
    database: Database, tenant: str, tmp_path: Path
) -> None:
    sender = RecordingSender()
    keys = write_keys(tmp_path / "keys", "old")
    async with running_webhook_server(database, keys, sender) as server:
        caller = WebhookCaller.on(server, tenant)
        created = await caller.create()
        webhook_id = created.webhook.webhook_id
        replacement = write_keys(tmp_path / "new", "new", "old")
        replacement.replace(keys)

        await caller.test(webhook_id)
        assert verifies(created.secret, sender.sent[-1])
        rotated = await caller.rotate(webhook_id)
        await database.pass_time(11)
        await caller.test(webhook_id)
        assert verifies(created.secret, sender.sent[-1])
        assert verifies(rotated.secret, sender.sent[-1])

        # Without the old key, the secret that is derived from it no longer signs.
        write_keys(tmp_path / "new", "new").replace(keys)
        await database.pass_time(11)
        await caller.test(webhook_id)
        assert verifies(rotated.secret, sender.sent[-1])
        assert not verifies(created.secret, sender.sent[-1])

        write_keys(tmp_path / "new", "third").replace(keys)
        await database.pass_time(11)
        with expect_failure(StatusCode.FAILED_PRECONDITION, "WEBHOOKS_UNAVAILABLE"):
            await caller.test(webhook_id)
        stored = await database.owner.fetchval(
            "SELECT key_id FROM jobs.webhooks WHERE webhook_id = $1", webhook_id
        )
        assert stored == "new"


async def test_webhooks_are_unavailable_without_master_keys(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    async with running_webhook_server(database, None, RecordingSender()) as without:
        same = WebhookCaller.on(without, caller.tenant)

        for call in (
            same.create(),
            same.rotate(dispatcher.webhook_id),
            same.test(dispatcher.webhook_id),
        ):
            with expect_failure(StatusCode.FAILED_PRECONDITION, "WEBHOOKS_UNAVAILABLE"):
                await call
        assert len(await same.list()) == 1
        assert not (await same.update(dispatcher.webhook_id, enabled=False)).enabled
        await same.delete(dispatcher.webhook_id)


async def test_secrets_and_urls_are_not_logged_and_secrets_are_not_stored(
    database: Database,
    caller: WebhookCaller,
    sender: RecordingSender,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    path = "secret-path"
    created = await caller.create(url=f"{URL}/{path}")
    webhook_id = created.webhook.webhook_id
    rotated = await caller.rotate(webhook_id)
    await caller.test(webhook_id)
    with expect_failure(INVALID, "INVALID_FIELD"):
        await caller.update(webhook_id, url=f"http://hooks.example/{path}")
    with expect_failure(INVALID, "INVALID_FIELD"):
        await caller.create(url=f"{URL}/{path}{'x' * 2048}")

    stored = await database.owner.fetch(
        "SELECT to_jsonb(w)::text FROM jobs.webhooks w WHERE w.webhook_id = $1", webhook_id
    )
    texts = [record.getMessage() + str(vars(record)) for record in caplog.records]
    for secret in (created.secret, rotated.secret):
        bare = secret.removeprefix("whsec_")
        for hidden in (bare, base64.b64decode(bare).hex()):
            assert hidden not in stored[0][0]
            assert not [text for text in texts if hidden in text]
    assert not [text for text in texts if path in text]
    audited = [text for text in texts if "audit CreateWebhook" in text]
    assert any(webhook_id in text for text in audited)
