"""The year's ledger, its recount and its report."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from bench.samples import Sample, missed_goals
from bench.year.consumers import Consumers
from bench.year.fleet import FIRST_VERSION, RETRIED_CODE, RINGS, Directory, devices
from bench.year.ledger import Ledger, LedgerJob
from bench.year.recount import Recount
from bench.year.report import GOALS, render
from bench.year.scale import QUICK
from tests.harness.consumers import Receiver, Webhook
from tests.harness.ledger import OperatorCall
from tests.model.retries import Rule
from tests.model.stages import Stage
from tests.model.windows import Window
from tests.support.database import Database, request_session

NOW = datetime(2030, 3, 30, 20, 7, tzinfo=UTC)


@pytest.fixture
def ledger(tenant: str) -> Ledger:
    """A ledger with one tenant, whose clock stands still."""
    ledger = Ledger(directories={tenant: Directory(devices(100, 10))})
    ledger.now = lambda: NOW
    return ledger


def add_job(ledger: Ledger, count: int = 40, **settings: object) -> LedgerJob:
    """Add a job for the first devices, which expires after a day, to the tenant's jobs."""
    (tenant,) = ledger.directories
    chosen = {device.device_id: device for device in devices(100, 10)[:count]}
    defaults = {"expires_after": 24 * 3600, "timeout": 3600}
    return ledger.add(tenant, "j1", "config", chosen, defaults | settings)


def test_devices_wait_for_their_stage_and_their_window(ledger: Ledger) -> None:
    stages = [Stage(claim=(("ring", "in", (ring,)),)) for ring in RINGS[:2]]
    night = Window(127, 2 * 60, 180)
    staged = add_job(ledger, rollout=[*stages, Stage()], windows=(night,), zone=None)
    # The clocks of Berlin skip the start of the window.
    opens = datetime(2030, 3, 31, 1, tzinfo=UTC)

    def ready(at: datetime) -> set[tuple[str, str]]:
        staged.pass_time(at)
        found = [staged.devices[device_id] for device_id in staged.ready()]
        return {(RINGS[device.ring], device.zone) for device in found}

    assert ("canary", "UTC") not in ready(opens)
    assert ready(opens + timedelta(hours=1)) == {("canary", "UTC")}
    assert staged.model.rollout
    staged.change(rollout=replace(staged.model.rollout, open_stage=2))
    assert ("late", "Europe/Berlin") not in ready(opens - timedelta(seconds=1))
    assert ("late", "Europe/Berlin") in ready(opens)
    assert ("late", "Europe/Berlin") not in ready(opens + timedelta(hours=3))


def test_policy_retries_until_the_last_attempt_and_again_after_a_retry_by_an_operator(
    ledger: Ledger,
) -> None:
    retried = add_job(ledger, count=1, policy=(Rule(codes=(RETRIED_CODE,)),))
    (device_id,) = retried.devices

    def fail() -> list[str]:
        retried.start(device_id, NOW)
        retried.report(device_id, "FAILED", RETRIED_CODE, NOW)
        return [attempt.status for attempt in retried.attempts(device_id)]

    fail()
    fail()
    assert fail() == ["FAILED"] * 3
    retried.retry(device_id, NOW)
    assert fail() == ["FAILED"] * 4 + ["QUEUED"]
    assert +retried.counts == {"QUEUED": 1}


def test_timeouts_and_the_expiry_end_executions(ledger: Ledger) -> None:
    late = add_job(ledger, count=2)
    hanging, offline = late.devices
    late.start(hanging, NOW)

    late.pass_time(NOW + timedelta(hours=2))
    statuses = [late.executions[device_id].status for device_id in (hanging, offline)]
    assert (statuses, late.finished_at) == (["TIMED_OUT", "QUEUED"], None)
    late.pass_time(NOW + timedelta(days=1))

    assert +late.counts == {"TIMED_OUT": 2}
    assert late.finished_at == NOW + timedelta(days=1)


@pytest.mark.parametrize(
    ("force", "counts"), [(False, {"IN_PROGRESS": 1, "REJECTED": 1}), (True, {"REJECTED": 2})]
)
def test_cancel_ends_executions_in_progress_only_when_forced(
    ledger: Ledger, force: bool, counts: dict[str, int]
) -> None:
    canceled = add_job(ledger, count=2)
    canceled.start(next(iter(canceled.devices)), NOW)
    canceled.cancel(force=force)
    assert +canceled.counts == counts


CREATE = """
    SELECT FROM jobs.create_job($1, 'j1', '{"document_type": "config", "target_all": true}', '{}',
        'u1', 100, NULL, 24)
"""


async def _recounted(database: Database, ledger: Ledger, tenant: str, sql: str = "") -> None:
    """Create a job for four devices, stored and in the ledger; change rows, and recount."""
    directory = ledger.directories[tenant] = Directory(devices(100, 10)[:4])
    await database.add_devices(tenant, directory.by_id)
    await database.add_facts(tenant, {each: {"version": FIRST_VERSION} for each in directory.by_id})
    ledger.now = lambda: datetime.now(UTC)
    created = add_job(ledger, count=4, target=(("fact.version", "in", (FIRST_VERSION,)),))
    created.calls["u1"] = OperatorCall(tenant, "j1", "CreateJob", created.created_at, accepted=True)
    async with request_session(database) as (connection, _):
        await connection.execute(CREATE, tenant)
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
FORGOTTEN = "DELETE FROM jobs.device_facts WHERE device_id = 'd00000' AND"


@pytest.mark.wrong_counts("plants mistakes")
@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        (DELETED, "attempts are missing, or left over"),
        (DELETED, "devices have not joined"),
        (REPORTED, "an attempt differs"),
        (COUNTED, "counts differ from a recount"),
        (ENDED, "the status of a job differs"),
        (LOST, "a job is lost"),
        (FORGOTTEN, "devices or facts differ"),
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
    rows = {"rows that GetJob reads": 30}
    return Sample(month, 1000, 60, tables, {"GetJob": [seconds] * 300}, rows)


def test_report_compares_the_last_month_with_the_third(ledger: Ledger) -> None:
    samples = [sample(1, 5, 0.5), sample(2, 8, 0.01), sample(3, 10, 0.01), sample(4, 12, 0.02)]

    text = "\n".join(render(samples, ledger, QUICK))

    assert "| table `jobs`, MiB | 10 | 12 | 1.20 | ≤ 1.10 missed |" in text
    assert "| rows that GetJob reads | 30 | 30 | 1.00 | ≤ 1.10 |" in text
    assert "| p99 of GetJob, ms | 10 | 20 | 2.00 | ≤ 1.50 missed |" in text
    assert missed_goals("month", samples, GOALS) == [
        "tables, MiB: 1.20 times month 3",
        "table `jobs`, MiB: 1.20 times month 3",
        "p99 of GetJob, ms: 2.00 times month 3",
    ]
    assert not missed_goals("month", samples[:3], GOALS)


def test_report_shows_an_example_of_each_problem(ledger: Ledger) -> None:
    ledger.problem("a job is lost", "t00 j1")
    ledger.problem("a job is lost", "t00 j2")

    text = "\n".join(render([], ledger, QUICK))
    assert re.search(r"- 2 × a job is lost, such as .* t00 j1", text)
