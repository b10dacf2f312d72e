"""The dispatcher: order, retries, slots, shutdown and outages, with real endpoints."""

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import cast

import asyncpg
import pytest
from standardwebhooks.webhooks import Webhook

from jobs_grpc.db.outage import Outage
from jobs_grpc.webhooks.claim import Claim, DeliveryLog
from jobs_grpc.webhooks.claim_store import ClaimStore, WebhookKey
from jobs_grpc.webhooks.dispatcher import PROVEN_SLOTS
from jobs_grpc.webhooks.replay_limiter import ReplayLimiter
from jobs_grpc.webhooks.secrets import MasterKeys, SecretRow
from jobs_grpc.webhooks.sender import DeliveryResult
from tests.support.database import Database, fresh_database, rows_locked
from tests.support.endpoints import (
    OK,
    Endpoint,
    Request,
    hang,
    response,
    running_endpoint,
)
from tests.support.event_rows import queue_event
from tests.support.postgres import Postgres
from tests.support.scale import SCALE
from tests.support.waiting import wait_until
from tests.support.webhooks import add_events, is_signed
from tests.webhooks.support import KEYS, add_webhook, running_dispatcher, webhook_row

DELAYS = [5, 30, 120, 600, 1800, 3600, 7200, 14400, 14400]


@pytest.fixture
async def plain() -> AsyncIterator[Endpoint]:
    """An endpoint without TLS."""
    async with running_endpoint(None) as running:
        yield running


@pytest.fixture(autouse=True)
async def _no_webhooks_of_other_tests(database: Database) -> None:
    """A dispatcher delivers to all webhooks of the database."""
    await database.owner.execute("DELETE FROM jobs.webhooks")


async def _make_due(database: Database, webhook_id: str) -> None:
    await database.owner.execute(
        "UPDATE jobs.webhooks SET due_at = jobs.clock_time() WHERE webhook_id = $1", webhook_id
    )


async def _wait_until_idle(database: Database, webhook_id: str) -> None:
    async def idle() -> bool:
        return (await webhook_row(database, webhook_id))["due_at"] is None

    await wait_until(idle)


async def _wait_for_failures(database: Database, webhook_id: str, count: int) -> asyncpg.Record:
    async def failed() -> bool:
        row = await webhook_row(database, webhook_id)
        return bool(row["failure_count"] == count)

    await wait_until(failed)
    return await webhook_row(database, webhook_id)


async def test_events_arrive_once_signed_and_in_order(
    database: Database, tenant: str, endpoint: Endpoint
) -> None:
    webhook_id = await add_webhook(database, tenant, endpoint.url())
    async with running_dispatcher(database, endpoint):
        positions = await add_events(database, tenant, 250, reason="a “quoted” reason")
        await endpoint.received(250)
        await _wait_until_idle(database, webhook_id)

    assert [request.position for request in endpoint.requests] == positions
    previous = [int(request.event["data"]["previous_position"]) for request in endpoint.requests]
    assert previous == [0, *positions[:-1]]
    assert len({request.headers["webhook-id"] for request in endpoint.requests}) == 250
    secret = KEYS.secret(tenant, webhook_id, 1, "k1")
    verifier = Webhook(f"whsec_{base64.b64encode(secret).decode()}")
    for request in endpoint.requests:
        assert verifier.verify(request.body, request.headers) == request.event
    row = await webhook_row(database, webhook_id)
    assert (row["position"], row["last_http_status"], row["is_unproven"]) == (
        positions[-1],
        204,
        False,
    )


async def test_event_of_this_process_is_sent_at_once(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    await add_webhook(database, tenant, plain.url(), works=True)
    async with running_dispatcher(database, plain) as dispatcher:
        await add_events(database, tenant)
        await plain.received(1)
        for count in range(2, 12):
            # Nothing else sequences the event.
            await queue_event(database.owner, tenant)
            dispatcher.note_write(tenant)
            await plain.received(count)


async def test_event_that_fails_blocks_those_after_it(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    plain.answer(OK, response(500))
    webhook_id = await add_webhook(database, tenant, plain.url())
    first, second, third = await add_events(database, tenant, 3)
    await _make_due(database, webhook_id)
    async with running_dispatcher(database, plain):
        await _wait_for_failures(database, webhook_id, 1)
        plain.respond = None
        await _make_due(database, webhook_id)
        await plain.received(4)
    assert [request.position for request in plain.requests] == [first, second, second, third]


async def test_backoff_starts_again_after_a_success_in_the_same_claim(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    plain.answer(response(500), OK, response(500))
    webhook_id = await add_webhook(database, tenant, plain.url())
    first, second = await add_events(database, tenant, 2)
    await _make_due(database, webhook_id)
    async with running_dispatcher(database, plain):
        await _wait_for_failures(database, webhook_id, 1)
        await _make_due(database, webhook_id)
        await plain.received(3)
        row = await _wait_for_failures(database, webhook_id, 1)
    assert [request.position for request in plain.requests] == [first, first, second]
    assert row["position"] == first
    assert 4 <= row["retry_seconds"] <= 6


async def test_retries_follow_the_table(
    cluster: tuple[Postgres, str], tenant: str, plain: Endpoint
) -> None:
    plain.answer(response(503))
    async with fresh_database(cluster) as database, running_dispatcher(database, plain):
        webhook_id = await add_webhook(database, tenant, plain.url())
        await add_events(database, tenant)
        for count, delay in enumerate(DELAYS, start=1):
            row = await _wait_for_failures(database, webhook_id, count)
            assert 0.8 * delay <= row["retry_seconds"] <= 1.2 * delay
            assert (row["last_http_status"], row["last_error"]) == (503, "HTTP_STATUS")
            assert len(plain.requests) == count
            await database.pass_time(row["retry_seconds"])
        row = await _wait_for_failures(database, webhook_id, len(DELAYS) + 1)
        assert row["enabled"]
        await database.pass_time(5 * 86400)
        await _wait_for_failures(database, webhook_id, len(DELAYS) + 2)
        row = await webhook_row(database, webhook_id)
        assert (row["enabled"], row["disabled_cause"]) == (False, "RETRIES_EXHAUSTED")
        assert row["due_at"] is None


async def test_retry_after_replaces_the_delay(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    plain.answer(
        response(429, "Retry-After: 7200"),
        response(503, "Retry-After: 0"),
        response(503, "Retry-After: 99999999"),
    )
    webhook_id = await add_webhook(database, tenant, plain.url())
    async with running_dispatcher(database, plain):
        await add_events(database, tenant)
        for count, delay in enumerate([7200, 5, 86400], start=1):
            row = await _wait_for_failures(database, webhook_id, count)
            assert row["retry_seconds"] == pytest.approx(delay, abs=0.001)
            await _make_due(database, webhook_id)


async def test_status_410_disables_the_webhook(
    database: Database, tenant: str, plain: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    plain.answer(response(410))
    webhook_id = await add_webhook(database, tenant, plain.url("/secret-path"))
    async with running_dispatcher(database, plain):
        await add_events(database, tenant, 3)
        row = await _wait_for_failures(database, webhook_id, 1)
    assert (row["enabled"], row["disabled_cause"], row["due_at"]) == (False, "GONE", None)
    assert len(plain.requests) == 1
    (record,) = [record for record in caplog.records if "disabled" in record.message]
    assert record.__dict__["webhook"] == webhook_id
    assert "secret-path" not in caplog.text + str([record.__dict__ for record in caplog.records])


async def test_failures_are_logged_once_without_the_url(
    database: Database, tenant: str, plain: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    plain.answer(response(500))
    webhook_id = await add_webhook(database, tenant, plain.url("/secret-path"))
    async with running_dispatcher(database, plain):
        await add_events(database, tenant)
        for count in range(1, 4):
            await _wait_for_failures(database, webhook_id, count)
            await _make_due(database, webhook_id)
        await _wait_for_failures(database, webhook_id, 4)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.message == "webhook deliveries fail"
    fields = record.__dict__
    assert (fields["webhook"], fields["error"], fields["status"]) == (
        webhook_id,
        "HTTP_STATUS",
        500,
    )
    assert "secret-path" not in str(fields)


async def test_webhook_of_an_unknown_key_waits(
    database: Database, tenant: str, plain: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    webhook_id = await add_webhook(database, tenant, plain.url(), key_id="lost")
    async with running_dispatcher(database, plain):
        await add_events(database, tenant)

        async def released() -> bool:
            due_at = (await webhook_row(database, webhook_id))["due_at"]
            now = await database.owner.fetchval("SELECT jobs.clock_time()")
            return due_at is not None and (due_at - now).total_seconds() > 200

        await wait_until(released)
    assert plain.requests == []
    assert "lacks the key lost" in caplog.text


class _BrokenKeys(MasterKeys):
    """Master keys with a bug."""

    def signing_secrets(self, tenant_id: str, webhook_id: str, row: SecretRow) -> list[bytes]:
        raise RuntimeError("a test")


async def test_webhook_waits_and_is_logged_once_when_its_claim_has_an_internal_error(
    database: Database, tenant: str, plain: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    webhook_id = await add_webhook(database, tenant, plain.url("/secret-path"))
    broken = _BrokenKeys({"k1": b"k" * 32})
    async with running_dispatcher(database, plain, keys=broken) as dispatcher:
        await add_events(database, tenant)

        async def waits() -> bool:
            due_at = (await webhook_row(database, webhook_id))["due_at"]
            now = await database.owner.fetchval("SELECT jobs.clock_time()")
            return bool(50 < (due_at - now).total_seconds() <= 60)

        await wait_until(waits)
    assert dispatcher.log.results["INTERNAL_ERROR"] == 1
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.message == "the claim of a webhook failed; retrying: RuntimeError: a test"
    assert (record.levelno, record.exc_info is not None) == (logging.ERROR, True)
    assert (record.__dict__["tenant"], record.__dict__["webhook"]) == (tenant, webhook_id)
    assert "secret-path" not in caplog.text


async def test_rest_of_a_claim_is_dropped_when_the_webhook_changes(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    webhook_id = await add_webhook(database, tenant, plain.url(), works=True)
    positions = await add_events(database, tenant, 5)

    other = await asyncpg.connect(database.owner_dsn)

    async def skip_to_last(_: Request) -> bytes:
        plain.respond = None
        # As update_webhook does.
        await other.execute(
            "UPDATE jobs.webhooks SET position = $2, previous_position = $2, claim_id = NULL,"
            " due_at = jobs.clock_time() WHERE webhook_id = $1",
            webhook_id,
            positions[3],
        )
        return OK

    plain.respond = skip_to_last
    await _make_due(database, webhook_id)
    async with running_dispatcher(database, plain):
        await plain.received(2)
        await _wait_until_idle(database, webhook_id)
    await other.close()
    assert [request.position for request in plain.requests] == [positions[0], positions[4]]


async def test_close_lets_the_delivery_finish_and_stores_it(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    webhook_id = await add_webhook(database, tenant, plain.url(), works=True)
    release = asyncio.Event()

    async def wait(_: Request) -> bytes:
        await release.wait()
        return OK

    plain.respond = wait
    async with running_dispatcher(database, plain) as dispatcher:
        first, second = await add_events(database, tenant, 2)
        await plain.received(1)
        closing = asyncio.create_task(dispatcher.close(30))
        await asyncio.sleep(0)
        release.set()
        await closing
        row = await webhook_row(database, webhook_id)
        assert (row["position"], row["claim_id"]) == (first, None)
        assert len(plain.requests) == 1
    async with running_dispatcher(database, plain):
        await plain.received(2)
    assert plain.requests[1].position == second


async def test_close_cancels_a_delivery_that_hangs(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    plain.respond = hang
    webhook_id = await add_webhook(database, tenant, plain.url(), works=True)
    async with running_dispatcher(database, plain, grace=0.1):
        (position,) = await add_events(database, tenant)
        await plain.received(1)
    row = await webhook_row(database, webhook_id)
    assert (row["position"], row["claim_id"], row["failure_count"]) == (0, None, 0)
    plain.respond = None
    # It is due at once, not at the end of the lease.
    async with running_dispatcher(database, plain):
        await plain.received(2)
    assert plain.requests[1].position == position


async def test_two_dispatchers_deliver_each_event_once_and_in_order(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    paths = [f"/{n}" for n in range(8)]
    webhooks = [await add_webhook(database, tenant, plain.url(path), works=True) for path in paths]
    async with running_dispatcher(database, plain), running_dispatcher(database, plain):
        positions = []
        for _ in range(20):
            positions += await add_events(database, tenant, 5)
        for webhook_id in webhooks:
            await _wait_until_idle(database, webhook_id)
    for path in paths:
        received = [
            request.position for request in plain.requests if request.line.split()[1] == path
        ]
        assert received == positions


async def test_lost_connections_lose_and_repeat_nothing(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    webhook_id = await add_webhook(database, tenant, plain.url(), works=True)

    other = await asyncpg.connect(database.owner_dsn)

    async def terminate(_: Request) -> bytes:
        if len(plain.requests) % 7 == 0:
            # Results are stored on new connections.
            await other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query ~ 'jobs.*(webhook|delivery)'"
                " AND pid <> ALL ($1)",
                [other.get_server_pid(), database.owner.get_server_pid()],
            )
        return OK

    plain.respond = terminate
    async with running_dispatcher(database, plain):
        positions = await add_events(database, tenant, 60)
        await _wait_until_idle(database, webhook_id)
    await other.close()
    assert [request.position for request in plain.requests] == positions


async def test_outage_pauses_the_search(database: Database, tenant: str, plain: Endpoint) -> None:
    await add_webhook(database, tenant, plain.url(), works=True)
    outage = Outage()
    outage.note_failure("a test")
    async with running_dispatcher(database, plain, outage=outage):
        await add_events(database, tenant)
        await asyncio.sleep(0.6)
        assert plain.requests == []
        outage.note_response(time.monotonic() + 10)
        await plain.received(1)


async def test_nothing_is_sent_after_the_lease_may_have_ended(
    database: Database, tenant: str
) -> None:
    """A process that was frozen continues where another one may have sent further events."""
    webhook_id = await add_webhook(database, tenant, "http://127.0.0.1/", works=True)
    first, _ = await add_events(database, tenant, 2)
    now = 100.0
    sent = []

    class Sender:
        async def send(
            self, tenant_id: str, url: str, headers: object, body: bytes
        ) -> DeliveryResult:
            nonlocal now
            sent.append(int(json.loads(body)["data"]["position"]))
            now += 20
            return DeliveryResult(200, None, 0.1)

    claim = Claim(
        WebhookKey(tenant, webhook_id),
        ClaimStore(database.owner.fetch),
        Sender(),
        lambda: KEYS,
        DeliveryLog(),
        ReplayLimiter(),
        lambda: False,
        clock=lambda: now,
    )
    await _make_due(database, webhook_id)
    # The freeze of 20 s ends the claim because it was longer than a claim takes.
    assert await claim.deliver()
    assert sent == [first]

    sent.clear()
    clock = iter([100.0, 100.0, 115.0])
    frozen = Claim(
        WebhookKey(tenant, webhook_id),
        ClaimStore(database.owner.fetch),
        Sender(),
        lambda: KEYS,
        DeliveryLog(),
        ReplayLimiter(),
        lambda: False,
        clock=lambda: next(clock),
    )
    assert not await frozen.deliver()
    assert sent == []
    row = await webhook_row(database, webhook_id)
    assert row["claim_id"] is None
    assert row["due_at"] <= await database.owner.fetchval("SELECT jobs.clock_time()")


@pytest.mark.slow
async def test_endpoints_that_hang_do_not_delay_those_that_work(
    database: Database, plain: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Their deliveries do not end before the test does.
    monkeypatch.setattr("jobs_grpc.webhooks.delivery.TIMEOUT_SECONDS", 600)
    async with running_endpoint(None) as hanging:
        hanging.respond = hang
        for n in range(40 if SCALE == 1 else 200):
            tenant = f"hanging-{n // 16}"
            # Half of them have worked before.
            await add_webhook(database, tenant, hanging.url(f"/{n}"), works=n % 2 == 0)
        works = [f"working-{n}" for n in range(8 if SCALE == 1 else 20)]
        for tenant in works:
            await add_webhook(database, tenant, plain.url(f"/{tenant}"), works=True)
        async with running_dispatcher(database, plain, hanging, grace=0) as dispatcher:
            for tenant in (*(f"hanging-{n}" for n in range(13)), *works):
                await add_events(database, tenant)
            await hanging.received(16)
            await plain.received(len(works))
            for _ in range(10):
                for tenant in works:
                    count = len(plain.requests) + 1
                    await queue_event(database.owner, tenant)
                    dispatcher.note_write(tenant)
                    await plain.received(count)
        assert len(hanging.requests) >= 16


@pytest.mark.slow
async def test_endpoints_that_start_to_hang_delay_the_others_only_briefly(
    database: Database, tenant: str, plain: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get slots of their own before their deliveries time out."""
    monkeypatch.setattr("jobs_grpc.webhooks.delivery.TIMEOUT_SECONDS", 600)
    async with running_endpoint(None) as hanging:
        hanging.respond = hang
        tenants = [f"{tenant}-{n}" for n in range(5)]
        for hangs in tenants:
            for n in range(16):
                await add_webhook(database, hangs, hanging.url(f"/{hangs}/{n}"), works=True)
            await add_events(database, hangs)
        await add_webhook(database, tenant, plain.url(), works=True)
        async with running_dispatcher(database, plain, hanging, grace=0):
            await hanging.received(64)
            await add_events(database, tenant)
            await plain.received(1)
            await hanging.received(80)


async def test_slots_of_failing_webhooks_are_bounded_per_tenant(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    plain.respond = hang
    others = [f"{tenant}-{n}" for n in range(6)]
    for n in range(16):
        await add_webhook(database, tenant, plain.url(f"/{tenant}/{n}"))
    for other in others:
        for n in range(4):
            await add_webhook(database, other, plain.url(f"/{other}/{n}"))
    async with running_dispatcher(database, plain, grace=0):
        await add_events(database, tenant)
        await plain.received(4)
        for other in others:
            await add_events(database, other)
        await plain.received(16)
        lines = [request.line.split("/")[1] for request in plain.requests]
        assert lines.count(tenant) == 4
        assert len(lines) == 16


async def test_tenant_waits_for_one_delivery_of_each_other_tenant(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    """The others have more webhooks than there are slots, which have all been due for longer."""
    hostile = [f"{tenant}-{n:02}" for n in range(20)]
    victim = f"{tenant}-victim"
    turns: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def wait(_: Request) -> bytes:
        turn = asyncio.Event()
        turns.put_nowait(turn)
        await turn.wait()
        return response(500)

    plain.respond = wait
    for other in hostile:
        for n in range(4):
            await add_webhook(database, other, plain.url(f"/{other}/{n}"))
        await add_events(database, other)
    await add_webhook(database, victim, plain.url(f"/{victim}"))
    async with running_dispatcher(database, plain, grace=0):
        await plain.received(16)
        await add_events(database, victim)
        for count in range(17, 17 + len(hostile) + 1):
            (await turns.get()).set()
            await plain.received(count)
    paths = [request.line.split("/")[1].split()[0] for request in plain.requests]
    assert len({*paths[:16]}) == 16
    assert paths.index(victim) <= len(hostile)


async def test_search_goes_on_after_the_webhooks_that_wait_for_a_time(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    """Each statement reads 200 webhooks, and a search at most 1,000."""
    await database.owner.execute(
        "INSERT INTO jobs.webhooks (tenant_id, webhook_id, url, created_at, position,"
        " previous_position, due_at, key_id)"
        " SELECT $1 || '-' || n, 'wh', 'https://hooks.example/', now(), 0, 0,"
        " jobs.clock_time() + interval '1 hour', 'k1' FROM generate_series(1, 2500) n",
        tenant,
    )
    victim = f"{tenant}-victim"
    await add_webhook(database, victim, plain.url())
    async with running_dispatcher(database, plain):
        for count in range(1, 4):
            await add_events(database, victim)
            await plain.received(count)


async def test_replays_of_a_tenant_are_limited_without_holding_slots(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    positions = await add_events(database, tenant, 45)
    for n in range(2):
        webhook_id = await add_webhook(
            database, tenant, plain.url(f"/{n}"), works=True, replay_position=positions[-1]
        )
        await _make_due(database, webhook_id)
    async with running_dispatcher(database, plain) as dispatcher:
        await plain.received(20)

        async def no_slot_is_held() -> bool:
            return dispatcher._delivery_pools[0].slots.free == PROVEN_SLOTS

        await wait_until(no_slot_is_held)
        assert len(plain.requests) < 90
        await plain.received(90)
        # Later events are not limited.
        dispatcher._replays = cast("ReplayLimiter", None)
        await add_events(database, tenant, 60)
        await plain.received(90 + 120)
    for n in range(2):
        received = [r.position for r in plain.requests if r.line.split()[1] == f"/{n}"]
        assert received[:45] == positions
        assert len(received) == len({*received}) == 105


async def test_test_event_is_sent_until_it_is_accepted(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    plain.answer(response(401), OK)
    webhook_id = await add_webhook(database, tenant, plain.url(), verified_at=None)
    async with running_dispatcher(database, plain):
        positions = await add_events(database, tenant, 2)
        row = await _wait_for_failures(database, webhook_id, 1)
        assert 4 <= row["retry_seconds"] <= 6
        assert (row["last_http_status"], row["position"], row["verified_at"]) == (401, 0, None)
        await _make_due(database, webhook_id)
        await plain.received(4)
    types = [request.event["type"] for request in plain.requests]
    assert types == ["webhook.test", "webhook.test", "job.paused", "job.paused"]
    assert [request.position for request in plain.requests[2:]] == positions
    assert (await webhook_row(database, webhook_id))["verified_at"] is not None
    secret = KEYS.secret(tenant, webhook_id, 1, "k1")
    assert all(is_signed(request, secret) for request in plain.requests)


async def test_locked_head_of_a_tenant_delays_no_other_tenant(
    database: Database, tenant: str, plain: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    other = f"{tenant}-other"
    for n in range(16):
        await add_webhook(database, tenant, plain.url(f"/{tenant}/{n}"), works=True)
    await add_webhook(database, other, plain.url(f"/{other}/0"), works=True)
    await add_events(database, other)
    await add_events(database, tenant)
    async with rows_locked(database, "jobs.event_heads", tenant_id=tenant):
        async with running_dispatcher(database, plain) as dispatcher:
            await plain.received(1)
            for count in range(2, 12):
                await queue_event(database.owner, other)
                dispatcher.note_write(other)
                await plain.received(count)
        assert all(request.line.split("/")[1] == other for request in plain.requests)
        rows = await database.owner.fetch(
            "SELECT claim_id, due_at <= jobs.clock_time() AS is_due FROM jobs.webhooks"
            " WHERE tenant_id = $1",
            tenant,
        )
        assert {(row["claim_id"], row["is_due"]) for row in rows} == {(None, True)}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    async with running_dispatcher(database, plain):
        await plain.received(11 + 16)


async def test_locked_tenant_is_claimed_again_after_a_second(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    await add_webhook(database, tenant, plain.url(), works=True)
    await add_events(database, tenant)
    async with running_dispatcher(database, plain) as dispatcher:
        await plain.received(1)
        async with rows_locked(database, "jobs.event_heads", tenant_id=tenant):
            await database.owner.execute(
                "UPDATE jobs.webhooks SET due_at = jobs.clock_time() WHERE tenant_id = $1", tenant
            )

            async def is_left_out() -> bool:
                return tenant in dispatcher._locked_tenants

            await wait_until(is_left_out)
        await queue_event(database.owner, tenant)
        dispatcher.note_write(tenant)
        await plain.received(2)


async def test_lag_counts_webhooks_that_wait_for_a_slot(
    database: Database, tenant: str, plain: Endpoint
) -> None:
    plain.respond = hang
    for n in range(17):
        await add_webhook(database, tenant, plain.url(f"/{n}"), works=True)
    async with running_dispatcher(database, plain, grace=0) as dispatcher:
        await add_events(database, tenant)
        await plain.received(16)
        await database.owner.execute(
            "UPDATE jobs.webhooks SET due_at = due_at - interval '1 hour'"
            " WHERE tenant_id = $1 AND claim_id IS NULL",
            tenant,
        )

        async def is_late() -> bool:
            return dispatcher.lag_seconds() >= 3600

        # The first deliveries end after 15 seconds.
        async with asyncio.timeout(10):
            await wait_until(is_late)
        await database.owner.execute(
            "UPDATE jobs.webhooks SET due_at = NULL WHERE tenant_id = $1 AND claim_id IS NULL",
            tenant,
        )

        async def is_on_time() -> bool:
            return dispatcher.lag_seconds() < 3600

        await wait_until(is_on_time)
