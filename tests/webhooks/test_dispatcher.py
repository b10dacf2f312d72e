"""The dispatcher: order, retries, slots, shutdown and outages, with real endpoints."""

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, cast

import asyncpg
import pytest
from standardwebhooks.webhooks import Webhook

from jobs_grpc.db.outage import Outage
from jobs_grpc.webhooks.claim import Claim, DeliveryLog
from jobs_grpc.webhooks.claim_store import ClaimStore, WebhookKey
from jobs_grpc.webhooks.dispatcher import PROVEN_SLOTS, Dispatcher
from jobs_grpc.webhooks.replay_limiter import ReplayLimiter
from jobs_grpc.webhooks.secrets import MasterKeys, SecretRow
from jobs_grpc.webhooks.sender import DeliveryResult
from tests.support.database import Database, fresh_database, rows_locked
from tests.support.endpoints import OK, Endpoint, Request, hang, response, running_endpoint
from tests.support.event_rows import queue_event
from tests.support.postgres import Postgres, connected
from tests.support.scale import SCALE
from tests.support.waiting import read_until, wait_until_true
from tests.support.webhooks import add_events, is_signed
from tests.webhooks.support import KEYS, add_webhook, running_dispatcher, webhook_row

DELAYS = [5, 30, 120, 600, 1800, 3600, 7200, 14400, 14400]


@dataclass(frozen=True)
class Hooks:
    """Webhooks of a tenant and of others, whose endpoint has no TLS, and their dispatchers."""

    database: Database
    tenant: str
    endpoint: Endpoint

    async def add(self, path: str = "/hook", *, tenant: str = "", **columns: Any) -> str:
        """Store a webhook, of the test's tenant unless another is given; return its ID."""
        url = self.endpoint.url(path)
        return await add_webhook(self.database, tenant or self.tenant, url, **columns)

    async def events(self, count: int = 1, *, tenant: str = "") -> list[int]:
        """Add events to the log of a tenant, and return their positions."""
        return await add_events(self.database, tenant or self.tenant, count)

    async def write(self, dispatcher: Dispatcher, tenant: str = "") -> None:
        """Queue an event, as a call of the process of this dispatcher does."""
        await queue_event(self.database.owner, tenant or self.tenant)
        dispatcher.note_write(tenant or self.tenant)

    def dispatched(self, *others: Endpoint, **options: Any) -> AbstractAsyncContextManager[Any]:
        return running_dispatcher(self.database, self.endpoint, *others, **options)

    @property
    def positions(self) -> list[int]:
        return [request.position for request in self.endpoint.requests]

    def paths(self) -> list[str]:
        return [request.line.split()[1].split("/")[1] for request in self.endpoint.requests]

    async def row(self, webhook_id: str) -> asyncpg.Record:
        return await webhook_row(self.database, webhook_id)

    async def make_due(self, webhook_id: str) -> None:
        await self.database.owner.execute(
            "UPDATE jobs.webhooks SET due_at = jobs.clock_time() WHERE webhook_id = $1", webhook_id
        )

    async def seconds_until_due(self, webhook_id: str) -> float:
        """The time until a webhook is due; 0 if it is not waiting."""
        seconds: float = await self.database.owner.fetchval(
            "SELECT coalesce(extract(epoch FROM due_at - jobs.clock_time()), 0)::float"
            " FROM jobs.webhooks WHERE webhook_id = $1",
            webhook_id,
        )
        return seconds

    async def wait_until_idle(self, webhook_id: str) -> None:
        """Wait until a webhook has nothing to send."""
        await read_until(lambda: self.row(webhook_id), lambda row: row["due_at"] is None)

    async def wait_for_failures(self, webhook_id: str, count: int) -> asyncpg.Record:
        """Wait until the last deliveries of a webhook have failed that often; return its row."""
        return await read_until(
            lambda: self.row(webhook_id), lambda row: row["failure_count"] == count
        )


@pytest.fixture
async def hooks(database: Database, tenant: str) -> AsyncIterator[Hooks]:
    """Deletes all webhooks first, because a dispatcher delivers for the whole database."""
    await database.owner.execute("DELETE FROM jobs.webhooks")
    async with running_endpoint(None) as endpoint:
        yield Hooks(database, tenant, endpoint)


@pytest.fixture
def _no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliveries to endpoints that hang do not end before the test does."""
    monkeypatch.setattr("jobs_grpc.webhooks.delivery.TIMEOUT_SECONDS", 600)


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_events_arrive_once_signed_and_in_order(hooks: Hooks, endpoint: Endpoint) -> None:
    """More events than a claim takes."""
    webhook_id = await add_webhook(hooks.database, hooks.tenant, endpoint.url())
    async with running_dispatcher(hooks.database, endpoint):
        positions = await add_events(hooks.database, hooks.tenant, 110, reason="a “quoted” reason")
        await endpoint.received(110)
        await hooks.wait_until_idle(webhook_id)

    assert [request.position for request in endpoint.requests] == positions
    previous = [int(request.event["data"]["previous_position"]) for request in endpoint.requests]
    assert previous == [0, *positions[:-1]]
    assert len({request.headers["webhook-id"] for request in endpoint.requests}) == 110
    secret = KEYS.secret(hooks.tenant, webhook_id, 1, "k1")
    verifier = Webhook(f"whsec_{base64.b64encode(secret).decode()}")
    for request in endpoint.requests:
        assert verifier.verify(request.body, request.headers) == request.event
    row = await hooks.row(webhook_id)
    state = (row["position"], row["last_http_status"], row["is_unproven"])
    assert state == (positions[-1], 204, False)


async def test_event_of_this_process_is_sent_at_once(hooks: Hooks) -> None:
    await hooks.add(works=True)
    async with hooks.dispatched() as dispatcher:
        await hooks.events()
        await hooks.endpoint.received(1)
        for count in range(2, 5):
            # Nothing else sequences the event.
            await hooks.write(dispatcher)
            await hooks.endpoint.received(count)


async def test_event_that_is_written_during_a_claim_is_sent_after_it(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim locks the head of the tenant."""
    tried = asyncio.Event()
    sequence = ClaimStore.sequence_queued_events

    async def sequence_and_note(store: ClaimStore, tenant_id: str) -> bool | None:
        more = await sequence(store, tenant_id)
        tried.set()
        return more

    await hooks.add(works=True)
    async with hooks.dispatched() as dispatcher:
        await hooks.events()
        await hooks.endpoint.received(1)
        monkeypatch.setattr(ClaimStore, "sequence_queued_events", sequence_and_note)
        async with rows_locked(hooks.database, "jobs.event_heads", tenant_id=hooks.tenant):
            await hooks.write(dispatcher)
            await tried.wait()
        # Nothing else sequences the event.
        await hooks.endpoint.received(2)


async def test_event_that_fails_blocks_those_after_it(hooks: Hooks) -> None:
    hooks.endpoint.answer(OK, response(500))
    webhook_id = await hooks.add()
    first, second, third = await hooks.events(3)
    await hooks.make_due(webhook_id)
    async with hooks.dispatched():
        await hooks.wait_for_failures(webhook_id, 1)
        hooks.endpoint.answer(OK)
        await hooks.make_due(webhook_id)
        await hooks.endpoint.received(4)
    assert hooks.positions == [first, second, second, third]


async def test_backoff_starts_again_after_a_success_in_the_same_claim(hooks: Hooks) -> None:
    hooks.endpoint.answer(response(500), OK, response(500))
    webhook_id = await hooks.add()
    first, second = await hooks.events(2)
    await hooks.make_due(webhook_id)
    async with hooks.dispatched():
        await hooks.wait_for_failures(webhook_id, 1)
        await hooks.make_due(webhook_id)
        await hooks.endpoint.received(3)
        row = await hooks.wait_for_failures(webhook_id, 1)
    assert hooks.positions == [first, first, second]
    assert row["position"] == first
    assert 4 <= row["retry_seconds"] <= 6


async def test_retries_follow_the_table(cluster: tuple[Postgres, str], hooks: Hooks) -> None:
    hooks.endpoint.answer(response(503))
    async with fresh_database(cluster) as database:
        hooks = Hooks(database, hooks.tenant, hooks.endpoint)
        async with hooks.dispatched():
            webhook_id = await hooks.add()
            await hooks.events()
            for count, delay in enumerate(DELAYS, start=1):
                row = await hooks.wait_for_failures(webhook_id, count)
                assert 0.8 * delay <= row["retry_seconds"] <= 1.2 * delay
                assert (row["last_http_status"], row["last_error"]) == (503, "HTTP_STATUS")
                assert len(hooks.endpoint.requests) == count
                await database.pass_time(row["retry_seconds"])
            row = await hooks.wait_for_failures(webhook_id, len(DELAYS) + 1)
            assert row["enabled"]
            await database.pass_time(5 * 86400)
            row = await hooks.wait_for_failures(webhook_id, len(DELAYS) + 2)
            state = (row["enabled"], row["disabled_cause"], row["due_at"])
            assert state == (False, "RETRIES_EXHAUSTED", None)


async def test_retry_after_replaces_the_delay(hooks: Hooks) -> None:
    hooks.endpoint.answer(
        response(429, "Retry-After: 7200"),
        response(503, "Retry-After: 0"),
        response(503, "Retry-After: 99999999"),
    )
    webhook_id = await hooks.add()
    async with hooks.dispatched():
        await hooks.events()
        for count, delay in enumerate([7200, 5, 86400], start=1):
            row = await hooks.wait_for_failures(webhook_id, count)
            assert row["retry_seconds"] == pytest.approx(delay, abs=0.001)
            await hooks.make_due(webhook_id)


async def test_status_410_disables_webhook(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    hooks.endpoint.answer(response(410))
    webhook_id = await hooks.add("/secret-path")
    async with hooks.dispatched():
        await hooks.events(3)
        row = await hooks.wait_for_failures(webhook_id, 1)
    assert (row["enabled"], row["disabled_cause"], row["due_at"]) == (False, "GONE", None)
    assert len(hooks.endpoint.requests) == 1
    (record,) = [record for record in caplog.records if "disabled" in record.message]
    assert record.__dict__["webhook"] == webhook_id
    assert "secret-path" not in caplog.text + str([record.__dict__ for record in caplog.records])


async def test_delivery_failure_is_logged_once_when_it_repeats(
    hooks: Hooks, caplog: pytest.LogCaptureFixture
) -> None:
    hooks.endpoint.answer(response(500))
    webhook_id = await hooks.add("/secret-path")
    async with hooks.dispatched():
        await hooks.events()
        for count in range(1, 4):
            await hooks.wait_for_failures(webhook_id, count)
            await hooks.make_due(webhook_id)
        await hooks.wait_for_failures(webhook_id, 4)
    (record,) = warnings(caplog)
    assert record.message == "webhook deliveries fail"
    fields = record.__dict__
    found = (fields["webhook"], fields["error"], fields["status"])
    assert found == (webhook_id, "HTTP_STATUS", 500)
    assert "secret-path" not in str(fields)


async def test_webhook_of_unknown_key_waits(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    webhook_id = await hooks.add(key_id="lost")
    async with hooks.dispatched():
        await hooks.events()
        await read_until(lambda: hooks.seconds_until_due(webhook_id), lambda left: left > 200)
    assert hooks.endpoint.requests == []
    assert "lacks the key lost" in caplog.text


class _BrokenKeys(MasterKeys):
    """Master keys with a bug."""

    def signing_secrets(self, tenant_id: str, webhook_id: str, row: SecretRow) -> list[bytes]:
        raise RuntimeError("a test")


async def test_webhook_waits_and_is_logged_once_when_its_claim_has_an_internal_error(
    hooks: Hooks, caplog: pytest.LogCaptureFixture
) -> None:
    webhook_id = await hooks.add("/secret-path")
    async with hooks.dispatched(keys=_BrokenKeys({"k1": b"k" * 32})) as dispatcher:
        await hooks.events()
        await read_until(lambda: hooks.seconds_until_due(webhook_id), lambda left: 50 < left <= 60)
    assert dispatcher.log.results["INTERNAL_ERROR"] == 1
    (record,) = warnings(caplog)
    assert record.message == "the claim of a webhook failed; retrying: RuntimeError: a test"
    assert (record.levelno, record.exc_info is not None) == (logging.ERROR, True)
    assert (record.__dict__["tenant"], record.__dict__["webhook"]) == (hooks.tenant, webhook_id)
    assert "secret-path" not in caplog.text


@pytest.fixture
async def session(database: Database) -> AsyncIterator[asyncpg.Connection]:
    async with connected(database.owner_dsn) as connection:
        yield connection


async def test_changed_webhook_ends_the_claim(hooks: Hooks, session: asyncpg.Connection) -> None:
    webhook_id = await hooks.add(works=True)
    positions = await hooks.events(5)

    async def skip_to_last(_: Request) -> bytes:
        hooks.endpoint.respond = None
        # As update_webhook does.
        await session.execute(
            "UPDATE jobs.webhooks SET position = $2, previous_position = $2, claim_id = NULL,"
            " due_at = jobs.clock_time() WHERE webhook_id = $1",
            webhook_id,
            positions[3],
        )
        return OK

    hooks.endpoint.respond = skip_to_last
    await hooks.make_due(webhook_id)
    async with hooks.dispatched():
        await hooks.endpoint.received(2)
        await hooks.wait_until_idle(webhook_id)
    assert hooks.positions == [positions[0], positions[4]]


async def test_close_lets_the_delivery_finish_and_stores_it(hooks: Hooks) -> None:
    webhook_id = await hooks.add(works=True)
    release = asyncio.Event()

    async def wait(_: Request) -> bytes:
        await release.wait()
        return OK

    hooks.endpoint.respond = wait
    async with hooks.dispatched() as dispatcher:
        first, second = await hooks.events(2)
        await hooks.endpoint.received(1)
        closing = asyncio.create_task(dispatcher.close(30))
        await asyncio.sleep(0)
        release.set()
        await closing
        row = await hooks.row(webhook_id)
        assert (row["position"], row["claim_id"]) == (first, None)
        assert len(hooks.endpoint.requests) == 1
    async with hooks.dispatched():
        await hooks.endpoint.received(2)
    assert hooks.positions == [first, second]


async def test_close_cancels_a_delivery_that_hangs(hooks: Hooks) -> None:
    hooks.endpoint.respond = hang
    webhook_id = await hooks.add(works=True)
    async with hooks.dispatched(grace=0.1):
        (position,) = await hooks.events()
        await hooks.endpoint.received(1)
    row = await hooks.row(webhook_id)
    assert (row["position"], row["claim_id"], row["failure_count"]) == (0, None, 0)
    hooks.endpoint.respond = None
    # It is due at once, not at the end of the lease.
    async with hooks.dispatched():
        await hooks.endpoint.received(2)
    assert hooks.positions == [position, position]


async def test_two_dispatchers_deliver_each_event_once_and_in_order(hooks: Hooks) -> None:
    webhooks = {f"{n}": await hooks.add(f"/{n}", works=True) for n in range(8)}
    async with hooks.dispatched(), hooks.dispatched():
        positions = [position for _ in range(20) for position in await hooks.events(5)]
        for webhook_id in webhooks.values():
            await hooks.wait_until_idle(webhook_id)
    received = list(zip(hooks.paths(), hooks.positions, strict=True))
    for path in webhooks:
        assert [position for of, position in received if of == path] == positions


async def test_lost_connections_change_nothing(hooks: Hooks, session: asyncpg.Connection) -> None:
    webhook_id = await hooks.add(works=True)

    async def terminate(_: Request) -> bytes:
        if len(hooks.endpoint.requests) % 7 == 0:
            # Results are stored on new connections.
            await session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query ~ 'jobs.*(webhook|delivery)'"
                " AND pid <> ALL ($1)",
                [session.get_server_pid(), hooks.database.owner.get_server_pid()],
            )
        return OK

    hooks.endpoint.respond = terminate
    async with hooks.dispatched():
        positions = await hooks.events(60)
        await hooks.wait_until_idle(webhook_id)
    assert hooks.positions == positions


async def test_outage_pauses_the_search(hooks: Hooks) -> None:
    class Recorded(Outage):
        """Counts how often it is looked at."""

        looks = 0

        @property
        def active(self) -> bool:
            self.looks += 1
            return super().active

    await hooks.add(works=True)
    outage = Recorded()
    outage.note_failure("a test")
    async with hooks.dispatched(outage=outage):
        await hooks.events()
        outage.looks = 0
        await wait_until_true(lambda: outage.looks >= 3)
        assert hooks.endpoint.requests == []
        outage.note_response(time.monotonic() + 10)
        await hooks.endpoint.received(1)


async def test_nothing_is_sent_after_the_lease_may_have_ended(hooks: Hooks) -> None:
    """A process that was frozen continues where another one may have sent further events."""
    webhook_id = await hooks.add(works=True)
    first, _ = await hooks.events(2)
    fetch = hooks.database.owner.fetch
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

    def claim(clock: Any) -> Claim:
        return Claim(
            WebhookKey(hooks.tenant, webhook_id),
            ClaimStore(fetch),
            Sender(),
            lambda: KEYS,
            DeliveryLog(),
            ReplayLimiter(),
            lambda: False,
            clock=clock,
        )

    await hooks.make_due(webhook_id)
    # The freeze of 20 s ends the claim because it was longer than a claim takes.
    assert await claim(lambda: now).deliver()
    assert sent == [first]

    times = iter([100.0, 100.0, 115.0])
    assert not await claim(lambda: next(times)).deliver()
    assert sent == [first]
    assert (await hooks.row(webhook_id))["claim_id"] is None
    assert await hooks.seconds_until_due(webhook_id) <= 0


@pytest.mark.slow
@pytest.mark.usefixtures("_no_timeout")
async def test_endpoints_that_hang_do_not_delay_those_that_work(hooks: Hooks) -> None:
    async with running_endpoint(None) as hanging:
        hanging.respond = hang
        count = 40 if SCALE == 1 else 200
        hang_in = [f"hanging-{n // 16}" for n in range(count)]
        for n, tenant in enumerate(hang_in):
            # Half of them have worked before.
            url = hanging.url(f"/{n}")
            await add_webhook(hooks.database, tenant, url, works=n % 2 == 0)
        work_in = [f"working-{n}" for n in range(8 if SCALE == 1 else 20)]
        for tenant in work_in:
            await hooks.add(f"/{tenant}", tenant=tenant, works=True)
        async with hooks.dispatched(hanging, grace=0) as dispatcher:
            for tenant in (*dict.fromkeys(hang_in), *work_in):
                await hooks.events(tenant=tenant)
            await hanging.received(16)
            await hooks.endpoint.received(len(work_in))
            for _ in range(2):
                for tenant in work_in:
                    received = len(hooks.endpoint.requests)
                    await hooks.write(dispatcher, tenant)
                    await hooks.endpoint.received(received + 1)
        assert len(hanging.requests) >= 16


@pytest.mark.slow
@pytest.mark.usefixtures("_no_timeout")
async def test_endpoints_that_start_to_hang_delay_the_others_only_briefly(hooks: Hooks) -> None:
    """They get slots of their own before their deliveries time out."""
    async with running_endpoint(None) as hanging:
        hanging.respond = hang
        for n in range(5):
            tenant = f"{hooks.tenant}-{n}"
            for path in range(16):
                url = hanging.url(f"/{tenant}/{path}")
                await add_webhook(hooks.database, tenant, url, works=True)
            await hooks.events(tenant=tenant)
        await hooks.add(works=True)
        async with hooks.dispatched(hanging, grace=0):
            await hanging.received(64)
            await hooks.events()
            await hooks.endpoint.received(1)
            await hanging.received(80)


async def test_slots_of_failing_webhooks_are_bounded_per_tenant(hooks: Hooks) -> None:
    hooks.endpoint.respond = hang
    others = [f"{hooks.tenant}-{n}" for n in range(6)]
    for tenant, count in ((hooks.tenant, 16), *((other, 4) for other in others)):
        for n in range(count):
            await hooks.add(f"/{tenant}/{n}", tenant=tenant)
    async with hooks.dispatched(grace=0):
        await hooks.events()
        await hooks.endpoint.received(4)
        for other in others:
            await hooks.events(tenant=other)
        await hooks.endpoint.received(16)
        assert (hooks.paths().count(hooks.tenant), len(hooks.endpoint.requests)) == (4, 16)


async def test_tenant_waits_for_one_delivery_of_each_other_tenant(hooks: Hooks) -> None:
    """The others have more webhooks than there are slots, which have all been due for longer."""
    hostile = [f"{hooks.tenant}-{n:02}" for n in range(20)]
    victim = f"{hooks.tenant}-victim"
    turns: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def wait(_: Request) -> bytes:
        turn = asyncio.Event()
        turns.put_nowait(turn)
        await turn.wait()
        return response(500)

    hooks.endpoint.respond = wait
    for other in hostile:
        for n in range(4):
            await hooks.add(f"/{other}/{n}", tenant=other)
        await hooks.events(tenant=other)
    await hooks.add(f"/{victim}", tenant=victim)
    async with hooks.dispatched(grace=0):
        await hooks.endpoint.received(16)
        await hooks.events(tenant=victim)
        for count in range(17, 17 + len(hostile) + 1):
            (await turns.get()).set()
            await hooks.endpoint.received(count)
    assert len({*hooks.paths()[:16]}) == 16
    assert hooks.paths().index(victim) <= len(hostile)


async def test_search_goes_on_after_the_webhooks_that_wait_for_a_time(hooks: Hooks) -> None:
    """Each statement reads 200 webhooks, and a search at most 1,000."""
    await hooks.database.owner.execute(
        "INSERT INTO jobs.webhooks (tenant_id, webhook_id, url, created_at, position,"
        " previous_position, due_at, key_id)"
        " SELECT $1 || '-' || n, 'wh', 'https://hooks.example/', now(), 0, 0,"
        " jobs.clock_time() + interval '1 hour', 'k1' FROM generate_series(1, 2500) n",
        hooks.tenant,
    )
    victim = f"{hooks.tenant}-victim"
    await hooks.add(tenant=victim)
    async with hooks.dispatched():
        for count in range(1, 4):
            await hooks.events(tenant=victim)
            await hooks.endpoint.received(count)


async def test_replays_of_a_tenant_are_limited_without_holding_slots(hooks: Hooks) -> None:
    positions = await hooks.events(25)
    for n in range(2):
        webhook_id = await hooks.add(f"/{n}", works=True, replay_position=positions[-1])
        await hooks.make_due(webhook_id)
    async with hooks.dispatched() as dispatcher:
        await hooks.endpoint.received(20)
        slots = dispatcher._delivery_pools[0].slots
        await wait_until_true(lambda: slots.free == PROVEN_SLOTS)
        assert len(hooks.endpoint.requests) < 50
        await hooks.endpoint.received(50)
        # Later events are not limited.
        dispatcher._replays = cast("ReplayLimiter", None)
        await hooks.events(60)
        await hooks.endpoint.received(50 + 120)
    requests = list(zip(hooks.paths(), hooks.positions, strict=True))
    for path in ("0", "1"):
        received = [position for of, position in requests if of == path]
        assert received[:25] == positions
        assert len(received) == len({*received}) == 85


async def test_test_event_is_sent_until_it_is_accepted(hooks: Hooks) -> None:
    hooks.endpoint.answer(response(401), OK)
    webhook_id = await hooks.add(verified_at=None)
    async with hooks.dispatched():
        positions = await hooks.events(2)
        row = await hooks.wait_for_failures(webhook_id, 1)
        assert 4 <= row["retry_seconds"] <= 6
        assert (row["last_http_status"], row["position"], row["verified_at"]) == (401, 0, None)
        await hooks.make_due(webhook_id)
        await hooks.endpoint.received(4)
    types = [request.event["type"] for request in hooks.endpoint.requests]
    assert types == ["webhook.test", "webhook.test", "job.paused", "job.paused"]
    assert [request.position for request in hooks.endpoint.requests[2:]] == positions
    assert (await hooks.row(webhook_id))["verified_at"] is not None
    secret = KEYS.secret(hooks.tenant, webhook_id, 1, "k1")
    assert all(is_signed(request, secret) for request in hooks.endpoint.requests)


async def test_locked_head_delays_no_others(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    tenant, other = hooks.tenant, f"{hooks.tenant}-other"
    for n in range(16):
        await hooks.add(f"/{tenant}/{n}", works=True)
    await hooks.add(f"/{other}/0", tenant=other, works=True)
    await hooks.events(tenant=other)
    await hooks.events()
    async with rows_locked(hooks.database, "jobs.event_heads", tenant_id=tenant):
        async with hooks.dispatched() as dispatcher:
            await hooks.endpoint.received(1)
            for count in range(2, 5):
                await hooks.write(dispatcher, other)
                await hooks.endpoint.received(count)
        assert {*hooks.paths()} == {other}
        rows = await hooks.database.owner.fetch(
            "SELECT DISTINCT claim_id, due_at <= jobs.clock_time() FROM jobs.webhooks"
            " WHERE tenant_id = $1",
            tenant,
        )
        assert [tuple(row) for row in rows] == [(None, True)]
    assert not warnings(caplog)
    async with hooks.dispatched():
        await hooks.endpoint.received(4 + 16)


async def test_locked_tenant_is_claimed_again_after_a_second(hooks: Hooks) -> None:
    webhook_id = await hooks.add(works=True)
    await hooks.events()
    async with hooks.dispatched() as dispatcher:
        await hooks.endpoint.received(1)
        async with rows_locked(hooks.database, "jobs.event_heads", tenant_id=hooks.tenant):
            await hooks.make_due(webhook_id)
            await wait_until_true(lambda: hooks.tenant in dispatcher._locked_tenants)
        await hooks.write(dispatcher)
        await hooks.endpoint.received(2)


@pytest.mark.usefixtures("_no_timeout")
async def test_lag_counts_webhooks_that_wait_for_a_slot(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs_grpc.webhooks.dispatcher._SLOW_SECONDS", 600)
    release = asyncio.Event()

    async def wait(_: Request) -> bytes:
        await release.wait()
        return OK

    hooks.endpoint.respond = wait
    for n in range(17):
        await hooks.add(f"/{n}", works=True)
    async with hooks.dispatched(grace=0) as dispatcher:
        await hooks.events()
        await hooks.endpoint.received(16)
        await hooks.database.owner.execute(
            "UPDATE jobs.webhooks SET due_at = due_at - interval '1 hour'"
            " WHERE tenant_id = $1 AND claim_id IS NULL",
            hooks.tenant,
        )
        await wait_until_true(lambda: dispatcher.lag_seconds() >= 3600)
        release.set()
        await wait_until_true(lambda: dispatcher.lag_seconds() < 3600)
