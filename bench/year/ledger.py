"""What the benchmark did and what was acknowledged. Nothing here is read from the database."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from bench.year.fleet import RETRIED_CODE, Device, Directory, is_window_open
from tests.harness import ledger
from tests.harness.ledger import OperatorCall
from tests.model.windows import Window

PENDING = ("QUEUED", "IN_PROGRESS")
MAX_ATTEMPTS = 3
"""Maximum attempts of the retry policies."""
LONGEST_BACKOFF = timedelta(minutes=20)
"""The longest backoff of the retry policies. It is shorter than a step."""
PRIORITIES = ("HIGH", "NORMAL", "LOW")


@dataclass(slots=True)
class Attempt:
    """An attempt of a device."""

    status: str = "QUEUED"
    code: str = ""
    by_device: bool = False
    """Whether the device reported the status."""
    automatic_retries: int = 0
    """How often the retry policy has queued the execution since an operator last did."""


@dataclass
class LedgerJob:
    """A job, as its operators and devices know it."""

    tenant: str
    job_id: str
    kind: str
    priority: str
    timeout: timedelta
    devices: dict[str, Device]
    created_at: datetime
    expires_at: datetime
    start_at: datetime | None = None
    window: Window | None = None
    """The start window, in the time zone of each device."""
    has_retry_policy: bool = False
    """Whether it has a retry policy, which retries failures with RETRIED_CODE."""
    has_stages: bool = False
    execution_events: bool = False
    is_bad: bool = False
    """Whether the job is a rollout of a bad release."""
    variant: int = 0
    calls: dict[str, OperatorCall] = field(default_factory=dict)
    """The calls that changed the job, by user."""

    open_stage: int = 0
    is_paused: bool = False
    criterion_tripped: bool = False
    canceled_at: datetime | None = None
    deleted_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: dict[str, list[Attempt]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    """The number of current attempts by status."""
    running: dict[str, datetime] = field(default_factory=dict)
    """The start time of each IN_PROGRESS execution, by device."""
    retried_at: dict[str, datetime] = field(default_factory=dict)
    """When the current attempt was queued, for devices that are past their first attempt."""
    offline: set[str] = field(default_factory=set)
    """The devices that stay offline, and do not start their execution."""
    _waiting: dict[tuple[int, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """The devices with a QUEUED execution, by stage and time zone."""

    def __post_init__(self) -> None:
        for device_id in self.devices:
            self._queue(device_id)

    def current(self, device_id: str) -> Attempt:
        """Return the current attempt of a device."""
        return self.attempts[device_id][-1]

    def ready(self, at: datetime) -> Iterator[str]:
        """Yield the devices that may start, except for those that are offline."""
        for (stage, zone), waiting in self._waiting.items():
            if waiting and self._is_open(stage, zone, at):
                yield from waiting - self.offline

    def may_start(self, device_id: str, at: datetime) -> bool:
        """Return whether a device is one of `ready`."""
        device = self.devices.get(device_id)
        if device is None or self.current(device_id).status != "QUEUED":
            return False
        return device_id not in self.offline and self._is_open(self._stage(device), device.zone, at)

    def waiting_devices(self) -> list[str]:
        """Return the QUEUED devices of the stages that are open."""
        return sorted(
            device_id
            for (stage, _), waiting in self._waiting.items()
            for device_id in waiting
            if self._is_released(stage)
        )

    def is_released(self, device_id: str) -> bool:
        """Return whether the stage of a device is open."""
        return self._is_released(self._stage(self.devices[device_id]))

    def closed_device(self, at: datetime) -> str | None:
        """Return a device that may not start now because its start window is closed, if any.

        Each step chooses another time zone.
        """
        if self.window is None or self.is_paused or not self.is_active(at):
            return None
        closed = sorted(
            (zone, min(waiting))
            for (stage, zone), waiting in self._waiting.items()
            if waiting and self._is_released(stage) and not is_window_open(self.window, zone, at)
        )
        return closed[int(at.timestamp()) // 3600 % len(closed)][1] if closed else None

    def is_active(self, at: datetime) -> bool:
        """Return whether the job is neither canceled nor expired."""
        return self.canceled_at is None and at < self.expires_at

    def queued_at(self, device_id: str) -> datetime:
        """Return when the current attempt of a device was queued."""
        return self.retried_at.get(device_id, self.created_at)

    def start(self, device_id: str, at: datetime) -> None:
        """Record an acknowledged start."""
        self._change(device_id, "IN_PROGRESS")
        self.running[device_id] = at

    def report(self, device_id: str, status: str, code: str, at: datetime) -> None:
        """Record an acknowledged report of an end."""
        self._change(device_id, status, code, by_device=True)
        retries = self.current(device_id).automatic_retries + 1
        if (
            self.has_retry_policy
            and code == RETRIED_CODE
            and retries < MAX_ATTEMPTS
            and self.is_active(at)
        ):
            self.retry(device_id, at, retries)

    def retry(self, device_id: str, at: datetime, retries: int = 0) -> None:
        """Queue the next attempt of a device."""
        self.retried_at[device_id] = at
        self.counts[self.current(device_id).status] -= 1
        self._queue(device_id, retries)

    def end(self, device_id: str) -> None:
        """Record that an operator has ended an execution, which was QUEUED."""
        self._change(device_id, "REJECTED")

    def cancel(self, at: datetime, *, force: bool) -> None:
        """Record an acknowledged cancel."""
        self.canceled_at = at
        statuses = PENDING if force else ("QUEUED",)
        self._end_all(statuses, "REJECTED")

    def pass_time(self, at: datetime) -> None:
        """Let timeouts and the expiry pass."""
        ends = []
        for device_id, since in list(self.running.items()):
            if since + self.timeout <= at:
                self._change(device_id, "TIMED_OUT")
                ends.append(since + self.timeout)
        if at >= self.expires_at and self.canceled_at is None and self.counts["QUEUED"]:
            self._end_all(("QUEUED",), "TIMED_OUT")
            ends.append(self.expires_at)
        if self.finished_at is None and self.is_finished:
            # The time may have jumped over the end.
            self.finished_at = max(ends, default=at)

    @property
    def is_finished(self) -> bool:
        """Whether no device can change the job any more."""
        return not any(self.counts[status] for status in PENDING)

    @property
    def status(self) -> str:
        """The stored status of the job."""
        if self.canceled_at:
            return "CANCELED"
        return "COMPLETED" if self.is_finished else "IN_PROGRESS"

    def _is_released(self, stage: int) -> bool:
        return not self.has_stages or stage <= self.open_stage

    def _is_open(self, stage: int, zone: str, at: datetime) -> bool:
        return (
            not self.is_paused
            and self.is_active(at)
            and (self.start_at is None or at >= self.start_at)
            and self._is_released(stage)
            and (self.window is None or is_window_open(self.window, zone, at))
        )

    def _end_all(self, statuses: Sequence[str], end: str) -> None:
        for device_id in self.devices:
            if self.current(device_id).status in statuses:
                self._change(device_id, end)

    def _queue(self, device_id: str, retries: int = 0) -> None:
        self.attempts.setdefault(device_id, []).append(Attempt(automatic_retries=retries))
        self.counts["QUEUED"] += 1
        self._bucket(device_id).add(device_id)

    def _change(
        self, device_id: str, status: str, code: str = "", *, by_device: bool = False
    ) -> None:
        attempt = self.current(device_id)
        self.counts[attempt.status] -= 1
        self.counts[status] += 1
        if attempt.status == "QUEUED":
            self._bucket(device_id).discard(device_id)
        self.running.pop(device_id, None)
        attempt.status, attempt.code, attempt.by_device = status, code, by_device

    def _bucket(self, device_id: str) -> set[str]:
        device = self.devices[device_id]
        return self._waiting[self._stage(device), device.zone]

    def _stage(self, device: Device) -> int:
        return device.ring if self.has_stages else 0


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

    def add(self, job: LedgerJob) -> None:
        """Record an acknowledged job."""
        self.jobs[job.tenant, job.job_id] = job
        self._open[job.tenant][job.job_id] = job
        self.done["executions"] += len(job.devices)

    def open_jobs(self, tenant: str) -> list[LedgerJob]:
        """Return the jobs of a tenant that are not finished."""
        return list(self._open[tenant].values())

    def pass_time(self, at: datetime) -> None:
        """Let timeouts and expiries pass."""
        for jobs in self._open.values():
            for job in list(jobs.values()):
                job.pass_time(at)
                if job.finished_at:
                    del jobs[job.job_id]
