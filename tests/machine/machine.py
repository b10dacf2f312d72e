"""Makes random calls to a server and to the model, and compares them after each call."""

import random
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

import grpc

from jobs_grpc.db.store import Store
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.machine.checks import Checks
from tests.machine.clock import Clock
from tests.model.device_calls import ended_by_others
from tests.model.execution import Execution, Seconds
from tests.model.job import Job
from tests.model.targets import Device
from tests.model.tenant import Call, State, step
from tests.support import random_selectors
from tests.support.callers import Device as DeviceCaller
from tests.support.database import Database
from tests.support.failures import Failure
from tests.support.server import Server
from tests.support.webhooks import RecordingSender, WebhookCaller

SEED = "seed"
"""Of the rollouts."""

Action: TypeAlias = Callable[["Machine"], Awaitable[object]]


@dataclass(frozen=True)
class Profile:
    """What a machine does."""

    name: str
    devices: Callable[[random.Random], Sequence[Device]]
    """Chooses the devices of a sequence, all of which are registered at its start."""
    settings: Callable[["Machine"], dict[str, Any]]
    """Chooses the settings of a job: arguments of operator_calls.create."""
    create: Action
    """Creates a job with such settings."""
    actions: Mapping[Action, int]
    """How often each occurs."""
    first_jobs: int = 1
    """How many jobs a sequence starts with."""
    successes: Sequence[float] = (0.2, 0.5, 0.8)
    """How many of the ends that devices report are successes, one of these in a sequence."""
    waits: Sequence[int] = (16, 30, 60, 64, 120, 600)
    """How long `wait` waits."""
    batch: int = 26
    """How many reports a batch has at most."""
    steps: int = 40
    """Of a sequence."""
    tick: Seconds = 1
    """How much time a call takes."""
    jitters: Sequence[Fraction] = (Fraction(1),)
    zones: Mapping[str, str] = field(default_factory=dict)
    """The time zones of devices; others have UTC."""


@dataclass(frozen=True)
class Service:
    """The service under test."""

    database: Database
    server: Server
    sweeper: Sweeper
    store: Store
    """For batches of updates, whose size a server decides."""
    clock: Clock
    sender: RecordingSender = field(default_factory=RecordingSender)
    """Of webhooks."""


class NothingToChoose(Exception):
    """An action has nothing to act on."""


class Machine:
    """A random sequence in a new tenant."""

    def __init__(self, service: Service, profile: Profile, name: str) -> None:
        self.service = service
        self.profile = profile
        self.random = random.Random(name)  # noqa: S311 - repeatable on purpose
        self.choice = self.random.choice
        server = service.server
        self.operator = server.operator(uuid.uuid4().hex, "olivia")
        self.tenant = self.operator.tenant
        self.approver = server.operator(self.tenant, "anna")
        self.fleet = server.fleet(self.tenant)
        self.events = server.events(self.tenant)
        self.devices = profile.devices(self.random)
        self.state = State(devices=tuple(self.devices))
        self.now: Seconds = 0
        self.jitter = Fraction(1)
        self.created = 0
        self.success = self.choice(profile.successes)
        self.webhook_caller = WebhookCaller.on(server, self.tenant)
        self.webhooks: dict[str, bool] = {}
        """Whether each webhook is enabled."""
        self.tested_webhooks: set[str] = set()
        self.changed_devices: set[str] = set()
        """Devices that changed since those with notes joined."""
        self.position = 0
        self.listed_events: dict[str, list[str]] = {}
        """The types of the events up to the position that were listed, by job."""
        self.digests: dict[str, object] = {}
        """The target of each digest in previews."""
        self.checks = Checks(service.database, self.operator)
        self.log: list[str] = [f"sequence {name}"]

    async def run(self) -> None:
        """Run the sequence. An error has the calls as a note."""
        try:
            await self._set_up()
            actions, weights = zip(*self.profile.actions.items(), strict=True)
            for _ in range(self.profile.steps):
                action = self.random.choices(actions, weights)[0]
                before = self.state
                await self._keep_active()
                self.jitter = self.choice(self.profile.jitters)
                with suppress(NothingToChoose):
                    await action(self)
                await self.checks.check_changes(before, self.state)
            await self.checks.check_all(self.state)
            for device_id in (device.device_id for device in self.devices):
                if device_id.isascii() and device_id.strip() == device_id:  # It can call.
                    ended = await self.caller(device_id).ended()
                    assert ended == ended_by_others(self.state, device_id)
        except BaseException as e:
            e.add_note("\n".join(self.log))
            raise

    async def _set_up(self) -> None:
        await random_selectors.store(self.service.database, self.tenant, self.devices)
        await self.service.database.owner.execute(
            "INSERT INTO jobs.devices (tenant_id, device_id, time_zone)"
            " SELECT $1, * FROM unnest($2::text[], $3::text[])",
            self.tenant,
            [*self.profile.zones],
            [*self.profile.zones.values()],
        )
        await self.set_time(0)
        for _ in range(self.profile.first_jobs):
            await self.profile.create(self)

    async def _keep_active(self) -> None:
        """Create a job some time after the last one has finished."""
        is_idle = not any(job.is_active for job in self.state.jobs)
        while not self.state.jobs or (is_idle and self.random.random() < 0.3):
            await self.profile.create(self)
            is_idle = False

    async def set_time(self, at: Seconds) -> None:
        """Move the time forward."""
        assert at >= self.now
        self.now = at
        await self.service.clock.set(at, self.jitter)

    async def both(self, call: Call, response: Awaitable[Any]) -> tuple[Any, Any]:
        """Make a call to the model and to the server.

        Return the response of the server and the value of the model's answer, or None for both if
        they reject the call for the same reason.
        """
        await self.set_time(self.now + self.profile.tick)
        self.state, answer = step(self.state, call, self.now)
        self.log.append(f"{float(self.now)}: {call} -> {answer}")
        got, reason = await outcome(response)
        assert reason == answer.reason, f"the server says {reason}"
        return got, answer.value

    # Random parts of calls

    def job(self) -> Job:
        """Choose a job, mostly one that is not finished."""
        active = [job for job in self.state.jobs if job.is_active]
        return self.choice(active if active and self.random.random() < 0.8 else self.state.jobs)

    def device(self) -> str:
        return self.choice(self.devices).device_id

    def execution(self) -> tuple[str, Execution]:
        """Choose an execution, mostly one that its device can end, with the ID of its job."""
        job = self.job()
        if not job.executions:  # a continuous job that no device has joined
            raise NothingToChoose
        open_ones = [each for each in job.executions if each.is_pending and not job.is_held(each)]
        is_open = open_ones and self.random.random() < 0.7
        return job.job_id, self.choice(open_ones if is_open else job.executions)

    def caller(self, device: str) -> DeviceCaller:
        return self.service.server.device(self.tenant, device)


async def outcome(response: Awaitable[Any]) -> tuple[Any, str | None]:
    """Await a response. Return it, or None and the reason of the error."""
    try:
        return await response, None
    except grpc.aio.AioRpcError as e:
        failure = Failure(e.code())
        failure.read(e)
        return None, failure.reason or str(e)
