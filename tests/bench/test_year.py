"""The year's ledger, its recount and its report."""

import re
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from bench.year.consumers import Consumers
from bench.year.fleet import RETRIED_CODE, RINGS, Directory, devices
from bench.year.ledger import Ledger, LedgerJob
from bench.year.recount import Recount
from bench.year.report import missed_goals, render
from bench.year.samples import Sample
from bench.year.scale import QUICK
from tests.harness.consumers import Receiver, Webhook
from tests.harness.ledger import OperatorCall
from tests.model.windows import Window
from tests.support.database import Database, request_session

START = datetime(2027, 3, 27, 20, 7, tzinfo=UTC)


@pytest.fixture
def ledger(tenant: str) -> Ledger:
    """A ledger with one tenant."""
    return Ledger(directories={tenant: Directory(devices(100, 10))})


def job(count: int = 40, tenant: str = "t00", **fields: object) -> LedgerJob:
    """A job for the first devices, which expires after a day."""
    values = {
        "created_at": START,
        "expires_at": START + timedelta(days=1),
        "timeout": timedelta(hours=1),
    }
    chosen = {device.device_id: device for device in devices(100, 10)[:count]}
    return LedgerJob(
        tenant,
        "j1",
        "config",
        "NORMAL",
        devices=chosen,
        **(values | fields),  # type: ignore[arg-type]
    )


def test_devices_wait_for_their_stage_and_their_window() -> None:
    night = Window(127, 2 * 60, 180)
    staged = job(window=night, has_stages=True)
    # The clocks of Berlin skip the start of the window.
    opens = datetime(2027, 3, 28, 1, tzinfo=UTC)

    def ready(at: datetime) -> set[tuple[str, str]]:
        found = [staged.devices[device_id] for device_id in staged.ready(at)]
        return {(RINGS[device.ring], device.zone) for device in found}

    assert ("canary", "UTC") not in ready(opens)
    assert ready(opens + timedelta(hours=1)) == {("canary", "UTC")}
    staged.open_stage = 2
    assert ("late", "Europe/Berlin") not in ready(opens - timedelta(seconds=1))
    assert ("late", "Europe/Berlin") in ready(opens)
    assert ("late", "Europe/Berlin") not in ready(opens + timedelta(hours=3))


def test_policy_retries_until_the_last_attempt_and_again_after_a_retry_by_an_operator() -> None:
    retried = job(count=1, has_retry_policy=True)
    (device_id,) = retried.devices

    def fail() -> None:
        retried.start(device_id, START)
        retried.report(device_id, "FAILED", RETRIED_CODE, START)

    for _ in range(3):
        fail()
    assert [a.status for a in retried.attempts[device_id]] == ["FAILED"] * 3
    retried.retry(device_id, START)
    fail()

    assert [a.status for a in retried.attempts[device_id]] == ["FAILED"] * 4 + ["QUEUED"]
    assert +retried.counts == {"QUEUED": 1}


def test_timeouts_and_the_expiry_end_executions() -> None:
    late = job(count=2)
    hanging, offline = late.devices
    late.start(hanging, START)

    late.pass_time(START + timedelta(hours=2))
    assert (late.current(hanging).status, late.current(offline).status) == ("TIMED_OUT", "QUEUED")
    assert late.finished_at is None
    late.pass_time(START + timedelta(days=1))

    assert +late.counts == {"TIMED_OUT": 2}
    assert late.finished_at == START + timedelta(days=1)


def test_forced_cancel_also_ends_what_is_in_progress() -> None:
    for force, counts in ((False, {"IN_PROGRESS": 1, "REJECTED": 1}), (True, {"REJECTED": 2})):
        canceled = job(count=2)
        canceled.start(next(iter(canceled.devices)), START)
        canceled.cancel(START, force=force)
        assert +canceled.counts == counts


CREATE = """
    SELECT FROM jobs.create_job($1, 'j1', '{"document_type": "config", "target_all": true}', '{}',
        'u1', 100, NULL, 24)
"""


async def _recounted(database: Database, ledger: Ledger, tenant: str, sql: str = "") -> None:
    """Create a job for four devices, stored and in the ledger; change its rows, and recount."""
    await database.add_devices(tenant, [device.device_id for device in devices(100, 10)[:4]])
    created = job(4, tenant, created_at=datetime.now(UTC))
    created.expires_at = created.created_at + timedelta(days=1)
    created.calls["u1"] = OperatorCall(tenant, "j1", "CreateJob", created.created_at, accepted=True)
    async with request_session(database) as (connection, _):
        await connection.execute(CREATE, tenant)
    ledger.add(created)
    if sql:
        await database.owner.execute(f"{sql} tenant_id = $1", tenant)
    consumers = Consumers(ledger, cast("Receiver", None))
    consumers.webhooks[tenant] = Webhook(tenant, b"", 0, 0)
    await Recount(database.owner, ledger, consumers).run(datetime.now(UTC))


async def test_recount_accepts_what_was_acknowledged(
    database: Database, ledger: Ledger, tenant: str
) -> None:
    await _recounted(database, ledger, tenant)

    assert not ledger.problems
    assert ledger.done["attempts compared"] == 4


DELETED = "DELETE FROM jobs.job_executions WHERE device_id = 'd00000' AND"
REPORTED = "UPDATE jobs.job_executions SET status = 'SUCCEEDED' WHERE device_id = 'd00000' AND"
COUNTED = "UPDATE jobs.job_progress SET queued = 3, succeeded = 1 WHERE"
ENDED = "UPDATE jobs.jobs SET status = 'COMPLETED', completed_at = created_at WHERE"
LOST = "DELETE FROM jobs.job_progress WHERE"


@pytest.mark.wrong_counts("plants mistakes")
@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        (DELETED, "attempts are missing, or left over"),
        (REPORTED, "an attempt differs"),
        (COUNTED, "counts differ from a recount"),
        (ENDED, "the status of a job differs"),
        (LOST, "a job is lost"),
    ],
)
async def test_recount_finds_what_was_not_acknowledged(
    database: Database, ledger: Ledger, tenant: str, sql: str, problem: str
) -> None:
    await _recounted(database, ledger, tenant, sql)

    assert problem in ledger.problems


def sample(month: int, size: int, seconds: float) -> Sample:
    """A month in which one table has `size` MiB, and calls take `seconds`."""
    tables = {"jobs": (size << 20, 1 << 20)}
    return Sample(month, 1000, 60, tables, {"GetJob": 30}, {"GetJob": [seconds] * 300})


def test_report_compares_the_last_month_with_the_third(ledger: Ledger) -> None:
    samples = [sample(1, 5, 0.5), sample(2, 8, 0.01), sample(3, 10, 0.01), sample(4, 12, 0.02)]

    text = render(samples, ledger, {"python": "3.11"}, QUICK)

    assert "| table `jobs`, MiB | 10 | 12 | 1.20 | ≤ 1.10 missed |" in text
    assert "| rows that GetJob reads | 30 | 30 | 1.00 | ≤ 1.10 |" in text
    assert "| p99 of GetJob, ms | 10 | 20 | 2.00 | ≤ 1.50 missed |" in text
    assert missed_goals(samples) == [
        "tables, MiB: 1.20 times month 3",
        "table `jobs`, MiB: 1.20 times month 3",
        "p99 of GetJob, ms: 2.00 times month 3",
    ]
    assert not missed_goals(samples[:3])


def test_report_shows_an_example_of_each_problem(ledger: Ledger) -> None:
    ledger.problem("a job is lost", "t00 j1")
    ledger.problem("a job is lost", "t00 j2")

    text = render([], ledger, {"python": "3.11"}, QUICK)
    assert re.search(r"- 2 × a job is lost, such as .* t00 j1", text)
