"""Compares what is stored with the ledger, in SQL that the service does not use."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from bench.year.consumers import Consumers
from bench.year.ledger import Ledger, LedgerJob
from tests.harness.event_checks import ATTEMPTS, STORED_JOBS, JobChecks, of_each_job
from tests.harness.recount import check_counts

RETENTION = timedelta(days=21)
EVENT_RETENTION = timedelta(days=7)

# The ledger knows only the step in which a job finished.
_TOLERANCE = timedelta(days=1)

_ATTEMPTS = f"SELECT * FROM ({ATTEMPTS}) a WHERE tenant_id = $1"
_JOBS = """
    SELECT p.job_id, j.status::text
    FROM jobs.job_progress p LEFT JOIN jobs.jobs j USING (tenant_id, job_id)
    WHERE p.tenant_id = $1
"""
_STAGES = """
    SELECT job_id, device_id, stage FROM jobs.job_executions
    WHERE tenant_id = $1 AND stage IS NOT NULL
"""
# Also facts of devices that are not registered.
_FACTS = """
    SELECT device_id, f.facts ->> 'version' AS version
    FROM public.device_state s FULL JOIN jobs.device_facts f USING (tenant_id, device_id)
    WHERE tenant_id = $1
"""
_EVENTS = "SELECT position FROM jobs.events WHERE tenant_id = $1 ORDER BY position"


class Recount:
    """Compares each tenant several times, so that each job is compared before it is purged."""

    def __init__(self, owner: asyncpg.Connection, ledger: Ledger, consumers: Consumers) -> None:
        self._owner = owner
        self._ledger = ledger
        self._consumers = consumers
        self._checked: set[tuple[str, str]] = set()
        """Jobs whose events were checked."""
        self._known: dict[str, set[int]] = defaultdict(set)
        """The positions that the streams have received, by tenant."""

    async def run(self, at: datetime) -> None:
        """Compare everything. Nothing may change meanwhile."""
        await check_counts(self._owner, self._ledger, self._ledger.directories)
        for tenant in self._ledger.directories:
            attempts = await self._owner.fetch(_ATTEMPTS, tenant)
            await self._compare_executions(tenant, attempts, at)
            self._compare_joins(tenant, attempts)
            await self._compare_facts(tenant)
            await self._compare_events(tenant, attempts, at)
        self._ledger.done["recounts"] += 1

    async def _compare_executions(
        self, tenant: str, attempts: Sequence[asyncpg.Record], at: datetime
    ) -> None:
        jobs = {job.job_id: job for key, job in self._ledger.jobs.items() if key[0] == tenant}
        stored = {row["job_id"]: row for row in await self._owner.fetch(_JOBS, tenant)}
        for job_id, job in jobs.items():
            self._compare_job(job, stored.pop(job_id, None), at)
        for job_id in stored:
            self._ledger.problem("a job is stored that should be purged", f"{tenant} {job_id}")
        kept = {
            job_id: job for job_id, job in jobs.items() if (tenant, job_id) in self._ledger.jobs
        }
        for row in attempts:
            self._compare_attempt(kept.get(row["job_id"]), row)
        expected = sum(e.number for job in kept.values() for e in job.executions.values())
        if len(attempts) != expected:
            self._ledger.problem(
                "attempts are missing, or left over", f"{tenant}: {len(attempts)}, not {expected}"
            )
        for row in await self._owner.fetch(_STAGES, tenant):
            staged = kept.get(row["job_id"])
            if staged and staged.executions[row["device_id"]].stage != row["stage"]:
                self._ledger.problem("an execution is in another stage", f"{tenant} {dict(row)}")
        self._ledger.done["attempts compared"] += len(attempts)

    def _compare_joins(self, tenant: str, attempts: Sequence[asyncpg.Record]) -> None:
        """Check that each device that matches an open continuous job has an execution of it."""
        stored = {(row["job_id"], row["device_id"]) for row in attempts}
        directory = self._ledger.directories[tenant]
        for job in self._ledger.open_jobs(tenant):
            if job.model.target is None or job.model.joins_stopped:
                continue
            matching = {device.device_id for device in directory.targeted(job.model.target)}
            missing = [each for each in sorted(matching) if (job.job_id, each) not in stored]
            if missing:
                self._ledger.problem(
                    "devices have not joined", f"{tenant} {job.job_id}: {missing[:5]}"
                )
            self._ledger.done["devices compared with continuous jobs"] += len(matching)

    async def _compare_facts(self, tenant: str) -> None:
        """Compare the registered devices, and the versions that they have reported."""
        stored = {
            row["device_id"]: row["version"] for row in await self._owner.fetch(_FACTS, tenant)
        }
        expected = self._ledger.directories[tenant].versions()
        if differences := stored.items() ^ expected.items():
            self._ledger.problem(
                "devices or facts differ",
                f"{tenant}: {len(differences)}: {sorted(differences, key=str)[:6]}",
            )
        self._ledger.done["facts compared"] += len(stored)

    def _compare_job(self, job: LedgerJob, stored: asyncpg.Record | None, at: datetime) -> None:
        purged_at = job.finished_at + RETENTION if job.finished_at else None
        if stored is None:
            if not job.deleted_at and (purged_at is None or at < purged_at - _TOLERANCE):
                self._ledger.problem("a job is lost", f"{job.tenant} {job.job_id}")
            del self._ledger.jobs[job.tenant, job.job_id]
            self._ledger.done["jobs purged"] += 1
            self._check_last_event(job)
            return
        if job.deleted_at or (purged_at and at > purged_at + _TOLERANCE):
            self._ledger.problem(
                "a job is not purged", f"{job.tenant} {job.job_id}, finished {job.finished_at}"
            )
        if stored["status"] != job.status:
            self._ledger.problem(
                "the status of a job differs",
                f"{job.tenant} {job.job_id}: {stored['status']}, not {job.status}",
            )

    def _compare_attempt(self, job: LedgerJob | None, row: asyncpg.Record) -> None:
        key = f"{row['job_id']} {row['device_id']} {row['execution_number']}"
        device_id, number = row["device_id"], row["execution_number"]
        attempts = job.attempts(device_id) if job and device_id in job.executions else ()
        if number not in range(1, len(attempts) + 1):
            self._ledger.problem("an attempt is unknown", key)
            return
        attempt = attempts[number - 1]
        found = row["status"], row["failure_code"], row["is_current"]
        expected = attempt.status, attempt.code, number == len(attempts)
        if found != expected:
            self._ledger.problem("an attempt differs", f"{key}: {found}, not {expected}")

    async def _compare_events(
        self, tenant: str, attempts: Sequence[asyncpg.Record], at: datetime
    ) -> None:
        reader, webhook = self._consumers.readers[tenant], self._consumers.webhooks[tenant]
        if reader.positions != webhook.positions:
            missing = set(reader.positions) ^ set(webhook.positions)
            self._ledger.problem(
                "the stream and the webhook differ",
                f"{tenant}: {len(missing)} of {len(reader.positions)}: {sorted(missing)[:5]}",
            )
        if webhook.late:
            self._ledger.problem("a webhook delivers out of order", f"{tenant}: {webhook.late}")
        known = self._known[tenant]
        known.update(reader.positions)
        stored = {row["position"] for row in await self._owner.fetch(_EVENTS, tenant)}
        kept_since = (at - EVENT_RETENTION + _TOLERANCE).timestamp() * 1_000_000
        lost = {position for position in known if position > kept_since} - stored
        for kind, positions in (("lost", lost), ("not received", stored - known)):
            if positions:
                self._ledger.problem(f"an event is {kind}", f"{tenant}: {sorted(positions)[:5]}")
        rows = await self._owner.fetch(f"{STORED_JOBS} WHERE j.tenant_id = $1", tenant)
        by_id = {row["job_id"]: row for row in rows}
        of_jobs = of_each_job(attempts)
        for (of_tenant, job_id), job in self._ledger.jobs.items():
            is_checked = (of_tenant, job_id) in self._checked
            if of_tenant == tenant and job.finished_at and not is_checked:
                self._check_events(job, by_id.get(job_id), of_jobs[tenant, job_id])
        done = self._ledger.done
        done["events received by streams"] += len(reader.positions)
        done["events delivered to webhooks"] += len(webhook.positions)
        done["deliveries repeated"] += webhook.repeated
        webhook.repeated = 0
        reader.positions.clear()
        webhook.positions.clear()

    def _check_events(self, job: LedgerJob, stored: Any, attempts: Sequence[Any]) -> None:
        """Check all events of a job that has finished."""
        events = self._consumers.readers[job.tenant].events.pop(job.job_id, [])
        reported = {
            (device_id, number): attempt.status
            for device_id in job.executions
            for number, attempt in enumerate(job.attempts(device_id), start=1)
            if attempt.cause == "DEVICE"
        }
        checks = JobChecks(events, job.calls, stored)
        for kind, example in checks.violations(job.size, attempts, reported):
            self._ledger.problem(kind, f"{job.tenant} {job.job_id}: {example}")
        self._checked.add((job.tenant, job.job_id))
        self._ledger.done["jobs whose events were compared"] += 1

    def _check_last_event(self, job: LedgerJob) -> None:
        """Check the events of a job that was purged."""
        key = job.tenant, job.job_id
        if key not in self._checked:
            self._check_events(job, None, ())
        else:
            events = self._consumers.readers[job.tenant].events.pop(job.job_id, [])
            if [event.type for event in events] != ["job.deleted"]:
                self._ledger.problem("a purged job has other events", f"{key}: {events}")
        self._checked.discard(key)
