"""What the benchmark did and what was acknowledged. Nothing here is read from the database.

Jobs and executions are those of tests/model. The model looks at all executions of a job for each
answer, so the ledger keeps executions in a separate dictionary by device. It reads state that
depends on times within a step, such as the opening of a stage, from the responses to operators.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from bench.year.fleet import Device, Directory
from tests.harness import ledger
from tests.harness.ledger import OperatorCall
from tests.model import joins, operator_calls, retries
from tests.model.execution import (
    PENDING,
    Attempt,
    Execution,
    end,
    forget_failures,
    queue_next,
    start,
)
from tests.model.job import Job
from tests.model.tenant import State
from tests.model.windows import START, next_due


def seconds(at: datetime) -> Fraction:
    """Convert a time to seconds since START, as tests/model uses it."""
    return Fraction((at - START.replace(tzinfo=UTC)) // timedelta(microseconds=1), 10**6)


@dataclass
class LedgerJob:
    """A job, as its operators and devices know it."""

    tenant: str
    kind: str
    model: Job
    """Without its executions."""
    executions: dict[str, Execution]
    """By device."""
    devices: dict[str, Device]
    created_at: datetime
    size: int
    """The number of executions at creation."""
    is_bad: bool = False
    """Whether the job is a rollout of a bad release."""
    variant: int = 0
    calls: dict[str, OperatorCall] = field(default_factory=dict)
    """The calls that changed the job, by user."""
    criterion_tripped: bool = False
    deleted_at: datetime | None = None
    finished_at: datetime | None = None
    counts: Counter[str] = field(default_factory=Counter)
    """The number of current attempts by status."""
    offline: set[str] = field(default_factory=set)
    """The devices that stay offline, and do not start their execution."""

    def __post_init__(self) -> None:
        self.counts.update(execution.status for execution in self.executions.values())

    @property
    def job_id(self) -> str:
        """The ID."""
        return self.model.job_id

    @property
    def is_paused(self) -> bool:
        """Whether the job is paused, as far as operators know."""
        return self.model.is_paused

    @property
    def is_canceled(self) -> bool:
        """Whether the job is canceled."""
        return self.model.status == "CANCELED"

    @property
    def is_finished(self) -> bool:
        """Whether no device can change the job any more."""
        return self.model.target is None and not any(self.counts[s] for s in PENDING)

    @property
    def status(self) -> str:
        """The stored status of the job."""
        return "COMPLETED" if self.is_finished and not self.is_canceled else self.model.status

    def change(self, **fields: Any) -> None:
        """Change fields of the model."""
        self.model = replace(self.model, **fields)

    def may_start(self, device_id: str) -> bool:
        """Return whether a device is one of `ready`."""
        execution = self.executions.get(device_id)
        return (
            execution is not None
            and execution.status == "QUEUED"
            and device_id not in self.offline
            and self.model.start_error(execution) is None
        )

    def ready(self) -> list[str]:
        """Return the devices that may start, except for those that are offline."""
        return sorted(filter(self.may_start, self.executions)) if self.counts["QUEUED"] else []

    def waiting_devices(self) -> list[str]:
        """Return the QUEUED devices of the stages that are open."""
        return sorted(
            device_id
            for device_id, execution in self.executions.items()
            if execution.status == "QUEUED" and self.is_released(device_id)
        )

    def is_released(self, device_id: str) -> bool:
        """Return whether the stage of a device is open."""
        return not self.model.is_held(self.executions[device_id])

    def closed_device(self) -> str | None:
        """Return a device that may not start now because its start window is closed, if any.

        Each step chooses another time zone.
        """
        job, closed = self.model, dict[str, str]()
        if job.windows and not job.is_paused:
            for device_id in self.waiting_devices():
                zone = self.executions[device_id].zone
                if zone not in closed and next_due(job.windows, zone, job.now) != job.now:
                    closed[zone] = device_id
        zones = sorted(closed)
        return closed[zones[int(job.now) // 3600 % len(zones)]] if zones else None

    def is_in_backoff(self, device_id: str) -> bool:
        """Return whether a device may still wait after a failure. The backoff is random."""
        until = self.executions[device_id].not_before
        return until is not None and until > self.model.now

    def attempts(self, device_id: str) -> Sequence[Attempt | Execution]:
        """Return all attempts of a device."""
        execution = self.executions[device_id]
        return (*execution.earlier, execution)

    def join(self, directory: Directory, device_ids: Iterable[str], at: datetime) -> int:
        """Record that those of the devices have joined that can. Return how many."""
        model = replace(self.model, now=seconds(at), executions=tuple(self.executions.values()))
        state = State(model.now, (model,), directory.in_model(device_ids))
        model = joins.join(state, self.job_id)[0].job(self.job_id)
        self.model = replace(model, executions=(), events=())
        joined = [e for e in model.executions if e is not self.executions.get(e.device)]
        for execution in joined:
            self.devices[execution.device] = directory.by_id[execution.device]
            self._store(execution)
        return len(joined)

    def start(self, device_id: str, at: datetime) -> None:
        """Record an acknowledged start."""
        self._store(start(self.executions[device_id], seconds(at), self.model.timeout))

    def report(self, device_id: str, status: str, code: str, at: datetime) -> None:
        """Record an acknowledged report of an end. The backoffs are the longest possible ones."""
        now, job = seconds(at), self.model
        failure_code = None if status == "SUCCEEDED" else code
        execution = end(self.executions[device_id], now, status, failure_code, "DEVICE")
        if failure_code is not None and not self.is_canceled:
            earliest = retries.not_before(job.policy or (), execution, now, Fraction(1))
            due = job.due(replace(execution, not_before=earliest), now)
            if earliest is not None and (job.expires is None or due < job.expires):
                execution = retries.retry(execution, now, earliest)
        self._store(execution)

    def retry(self, device_id: str, at: datetime) -> None:
        """Record that an operator has queued the next attempt of a device."""
        execution = queue_next(self.executions[device_id], seconds(at))
        self._store(forget_failures(execution))

    def end(self, device_id: str, cause: str = "EXECUTION_CANCELED") -> None:
        """Record that an operator has ended an execution, which was QUEUED."""
        execution = self.executions[device_id]
        self._store(end(execution, self.model.now, "REJECTED", None, cause))

    def cancel(self, *, force: bool) -> None:
        """Record an acknowledged cancel."""
        self.change(status="CANCELED", pause_cause=None, target=None)
        for execution in [*self.executions.values()]:
            if execution.status in (PENDING if force else ("QUEUED",)):
                self._store(end(execution, self.model.now, "REJECTED", None, "JOB_CANCELED"))

    def pass_time(self, at: datetime) -> None:
        """Let timeouts and the expiry pass."""
        now, ends = seconds(at), []
        self.change(now=now, has_started=now >= self.model.start)
        expires = self.model.expires
        for execution in [*self.executions.values()] if not self.is_finished else ():
            if execution.times_out is not None and execution.times_out <= now:
                ends.append(execution.times_out)
                self._store(end(execution, now, "TIMED_OUT", "", "TIMEOUT"))
            elif execution.status == "QUEUED" and expires is not None and expires <= now:
                ends.append(expires)
                self._store(end(execution, now, "TIMED_OUT", None, "JOB_EXPIRED"))
        if self.finished_at is None and self.is_finished:
            # The time may have jumped over the end.
            earlier = timedelta(seconds=float(now - max(ends, default=now)))
            self.finished_at = at - earlier

    def _store(self, execution: Execution) -> None:
        if before := self.executions.get(execution.device):
            self.counts[before.status] -= 1
        self.counts[execution.status] += 1
        self.executions[execution.device] = execution


@dataclass
class Ledger(ledger.Ledger):
    """The jobs and devices of all tenants."""

    directories: dict[str, Directory] = field(default_factory=dict)
    offset: timedelta = timedelta()
    """How much later the time of the database is than the real one."""
    jobs: dict[tuple[str, str], LedgerJob] = field(default_factory=dict)
    """The jobs that are not known to be purged, by tenant and ID."""
    _open: dict[str, dict[str, LedgerJob]] = field(default_factory=lambda: defaultdict(dict))

    def __post_init__(self) -> None:
        self.now = lambda: datetime.now(UTC) + self.offset

    def add(
        self,
        tenant: str,
        job_id: str,
        kind: str,
        devices: Mapping[str, Device],
        settings: Mapping[str, Any],
    ) -> LedgerJob:
        """Record an acknowledged job with settings of the model's `create`."""
        at = self.now()
        state, _ = operator_calls.create(
            State(seconds(at), devices=tuple(device.in_model for device in devices.values())),
            job_id,
            [*devices],
            "",
            zones={device_id: device.zone for device_id, device in devices.items()},
            **settings,
        )
        model = state.job(job_id)
        executions = {execution.device: execution for execution in model.executions}
        model = replace(model, executions=())
        job = LedgerJob(tenant, kind, model, executions, {**devices}, at, len(devices))
        self.jobs[tenant, job_id] = self._open[tenant][job_id] = job
        self.done["executions"] += len(devices)
        return job

    def open_jobs(self, tenant: str) -> list[LedgerJob]:
        """Return the jobs of a tenant that are not finished."""
        return list(self._open[tenant].values())

    def join(self) -> None:
        """Record that the devices that have changed have joined the continuous jobs."""
        for tenant, directory in self.directories.items():
            if not directory.changed:
                continue
            for job in self.open_jobs(tenant):
                if job.model.target is not None:
                    joined = job.join(directory, directory.changed, self.now())
                    self.done["executions"] += joined
                    self.done[f"devices that joined: {job.kind}"] += joined
            directory.changed.clear()

    def pass_time(self, at: datetime) -> None:
        """Let timeouts and expiries pass."""
        for jobs in self._open.values():
            for job in list(jobs.values()):
                job.pass_time(at)
                if job.finished_at:
                    del jobs[job.job_id]
