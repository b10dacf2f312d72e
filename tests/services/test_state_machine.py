"""Compares the service with a small model after random operations."""

import asyncio
import copy
import json
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from contextlib import aclosing
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.error_reason_pb2 import ErrorReason
from fleet.jobs.v1.fleet_pb2 import Device
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from jobs_grpc.contract.methods import METHODS
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Device as DeviceCaller
from tests.support.callers import Operator, all_executions, all_jobs, all_pending
from tests.support.criteria_model import Criterion, Trip
from tests.support.database import Database
from tests.support.events import ATTEMPT_DEFAULTS, stored_events
from tests.support.failures import Failure
from tests.support.metrics import METRICS_ON, scrape
from tests.support.model import PENDING, RETRYABLE, Event, Job, Model, OperationRejected
from tests.support.report_streams import reporting
from tests.support.rollout_model import Rollout, Stage
from tests.support.scale import FULL_SCALE, SCALE, examples
from tests.support.server import Server
from tests.support.waiting import TIMEOUT
from tests.support.webhooks import RecordingSender, WebhookCaller, running_webhook_server

DEVICES = ["a", "b", "c"]
CODES = ["", "E1", "E2"]
COUNTS = [field.name for field in pb.ExecutionCounts.DESCRIPTOR.fields]
SEED = "seed"

# For three devices, or for one.
ROLLOUTS: list[list[Stage]] = [
    [Stage(count=1), Stage()],
    [Stage(rate=1)],
    [Stage(percent=50, rate=1), Stage(percent=50, rate=2)],
    [Stage(count=1, min_succeeded_percent=100), Stage(count=1, bake=1), Stage()],
    [Stage(count=2, min_succeeded_percent=50, require_approval=True), Stage(rate=1)],
    [Stage(count=1, advance_after=2, require_approval=True), Stage(count=1), Stage()],
    [Stage(count=2, min_succeeded_percent=100, advance_after=1, bake=1), Stage()],
]
CRITERIA = [
    Criterion(count=1, codes=("E1",)),
    Criterion(count=2),
    Criterion(percent=50, min_finished=2),
    Criterion(percent=100, basis="RELEASED", statuses=("FAILED",)),
    Criterion(count=2, action="CANCEL", statuses=("REJECTED", "TIMED_OUT")),
    Criterion(percent=60, basis="TARGETED", action="FORCE_CANCEL"),
]
STAGE_CRITERIA = [
    Criterion(count=1, scope="STAGE", statuses=("REJECTED",)),
    Criterion(percent=50, min_finished=1, scope="STAGE", codes=("", "E2")),
]

GROUPS: list[list[str]] = [[], ["north"], ["north", "south"]]
MAX_WEBHOOKS = 16
LABELS: list[dict[str, str]] = [{}, {"team": "a"}, {"team": "b"}]

METHOD_NAMES = {method.rpartition("/")[2] for method in METHODS}

T = TypeVar("T")


@pytest.mark.slow
async def test_service_equals_the_model_after_random_operations(
    database: Database, webhook_keys: Path
) -> None:
    loop = asyncio.get_running_loop()

    sender = RecordingSender()
    variables = METRICS_ON | {"JOBS_OWNER_DATABASE_URL": database.owner_dsn}
    run_settings = settings(examples(15), stateful_step_count=25)
    async with (
        # Gates with a time need a server that does background work.
        running_webhook_server(database, webhook_keys, sender, **variables) as server,
        Sweeper(database.owner_dsn) as sweeper,
    ):

        def machine() -> RuleBasedStateMachine:
            return _Machine(database, server, sweeper, sender, loop)

        # The annotation asks for a class, but hypothesis accepts a function that makes one.
        run: Any = run_state_machine_as_test
        await asyncio.to_thread(run, machine, settings=run_settings)
        metrics = await scrape(server.app.metrics_address)
    # A few sequences leave out some calls, and may deliver no event for list_webhooks to compare.
    if SCALE >= FULL_SCALE:
        uncalled = {name for name in METHOD_NAMES if not metrics.calls("started_total", name)}
        assert not uncalled, "no rule makes these calls"
        assert _delivered_positions(sender)


class _Machine(RuleBasedStateMachine):
    """Runs in a separate thread; its calls run in the event loop of the test."""

    jobs = Bundle("jobs")
    webhooks = Bundle("webhooks")

    def __init__(
        self,
        database: Database,
        server: Server,
        sweeper: Sweeper,
        sender: RecordingSender,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__()
        self._database = database
        self._sweeper = sweeper
        self._sender = sender
        self._loop = loop
        self._server = server
        self._operator = server.operator(uuid.uuid4().hex, "olivia")
        self._approver = server.operator(self._operator.tenant, "anna")
        self._fleet = server.fleet(self._operator.tenant)
        self._events = server.events(self._operator.tenant)
        self._webhook_caller = WebhookCaller.on(server, self._operator.tenant)
        self._webhooks: dict[str, bool] = {}
        """Whether each webhook is enabled."""
        self._tested: set[str] = set()
        self._groups: dict[str, list[str]] = {}
        """The groups of each device that has some."""
        self._model = Model("olivia", devices={device: {} for device in DEVICES})
        self._terminal_statuses: dict[tuple[str, str, int], str] = {}
        self._created = 0
        self._position = 0
        self._listed: dict[str, list[str]] = {}
        """The types of the events that ListEvents and WatchEvents have returned, by job."""
        self._await(database.add_devices(self._operator.tenant, DEVICES))

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _run_both(self, operation: Any, call: Coroutine[Any, Any, T]) -> T | None:
        """Apply an operation to the model and the service, and compare the error reasons.

        Returns the response of the service, or None if both rejected the operation.
        """
        response: T | None = None
        expected_reason: str | None = None
        reason: str | None = None
        try:
            operation()
        except OperationRejected as e:
            expected_reason = e.reason
        try:
            response = self._await(call)
        except OperationRejected as e:  # an error of a report on a stream
            reason = e.reason
        except grpc.aio.AioRpcError as e:
            failure = Failure(e.code())
            failure.read(e)
            reason = failure.reason
        assert reason == expected_reason
        return response

    @rule(
        target=jobs,
        target_kind=st.sampled_from(
            ["all", "all", "device", "devices", "selector", "failed", "group"]
        ),
        device=st.sampled_from(DEVICES),
        stages=st.none() | st.sampled_from(ROLLOUTS),
        criteria=st.lists(st.sampled_from(CRITERIA), max_size=2),
        stage_criteria=st.lists(st.sampled_from(STAGE_CRITERIA), max_size=1),
        max_in_progress=st.sampled_from([None, None, 1]),
        priority=st.sampled_from(["LOW", "NORMAL", "HIGH"]),
        start_in=st.sampled_from([None, None, 0, 1, 3]),
        execution_events=st.booleans(),
        labels=st.sampled_from(LABELS),
    )
    def create(
        self,
        target_kind: str,
        device: str,
        stages: list[Stage] | None,
        criteria: list[Criterion],
        stage_criteria: list[Criterion],
        max_in_progress: int | None,
        priority: str,
        start_in: int | None,
        execution_events: bool,
        labels: dict[str, str],
    ) -> Any:
        self._created += 1
        job_id = f"j{self._created}"
        target, devices, reason = self._target(target_kind, device)
        if not reason:
            preview = self._await(self._fleet.preview(**target))
            assert preview.device_count == len(devices)
        rollout = None
        if stages is None:
            max_in_progress = None
        else:
            rollout = Rollout(copy.deepcopy(stages), SEED)
            rollout.fill(self._await(self._database.order_of_release(devices, SEED)))
            criteria = criteria + stage_criteria
        create = self._operator.create(
            job_id=job_id,
            rollout=_rollout(rollout, max_in_progress) if rollout else None,
            failure_criteria=[c.message for c in criteria],
            priority=pb.Job.Priority.Value(priority),
            start_at=None if start_in is None else self._time_in(start_in),
            execution_events=execution_events,
            labels=labels,
            **target,
        )
        if reason:
            self._run_both(_rejects(reason), create)
            return multiple()
        self._await(create)
        self._model.create(
            job_id,
            devices,
            rollout,
            criteria,
            max_in_progress,
            start_in=start_in or 0,
            priority=priority,
            execution_events=execution_events,
            labels=labels,
        )
        return job_id

    def _target(self, kind: str, device: str) -> tuple[dict[str, Any], list[str], str]:
        """Return the target of a request, its devices, and the reason if it fails."""
        registered = sorted(self._model.devices)
        if kind == "device":
            found = [device] if device in registered else []
            return {"target_device_id": device}, found, "" if found else "DEVICE_NOT_FOUND"
        if kind == "devices":
            listed = pb.DeviceIds(device_ids=[device, "c"])
            missing = "" if device in registered else "DEVICE_NOT_FOUND"
            return {"target_device_ids": listed}, [] if missing else sorted({device, "c"}), missing
        if kind == "group":
            found = [name for name in registered if "north" in self._groups.get(name, [])]
            return {"target_group_id": "north"}, found, "" if found else "GROUP_EMPTY"
        if kind == "selector":
            found = [name for name in registered if self._model.devices[name] == {"ring": "x"}]
            return {"target_selector": "ring=x"}, found, "" if found else "TARGET_EMPTY"
        if kind == "failed" and self._model.jobs:
            job_id = max(self._model.jobs)
            executions = self._model.jobs[job_id].executions
            found = [d for d in registered if d in executions and executions[d].status in RETRYABLE]
            failed_in = pb.FailedIn(job_id=job_id)
            return {"target_failed_in": failed_in}, found, "" if found else "TARGET_EMPTY"
        return {"target_all": True}, registered, ""

    @rule(
        device=st.sampled_from(DEVICES),
        labels=st.sampled_from([{"ring": "x"}, {"ring": "y"}]),
        groups=st.sampled_from(GROUPS),
    )
    def register(self, device: str, labels: dict[str, str], groups: list[str]) -> None:
        """Register a device, or change it. Jobs that exist keep their devices."""
        changed = Device(device_id=device, labels=labels, group_ids=groups)
        mask = ["labels", "group_ids"]
        self._await(self._fleet.update(changed, mask=mask, allow_missing=True))
        self._model.devices[device] = labels
        self._groups[device] = groups

    @rule(device=st.sampled_from(DEVICES[:2]))
    def delete_device(self, device: str) -> None:
        """At least one device stays."""
        deleted = int(device in self._model.devices)
        self._groups.pop(device, None)
        ended = self._model.delete_device(device)
        response = self._await(self._fleet.delete(device))
        assert (response.deleted_count, response.ended_execution_count) == (deleted, ended)

    @rule(selector=st.sampled_from(["", "ring=x", "ring!=x"]))
    def list_devices(self, selector: str) -> None:
        expected = {
            name: labels
            for name, labels in self._model.devices.items()
            if not selector or (labels.get("ring") == "x") == (selector == "ring=x")
        }
        devices = self._await(self._fleet.list(selector=selector)).devices
        assert {device.device_id: dict(device.labels) for device in devices} == expected

    @rule()
    def list_groups(self) -> None:
        counts = Counter(group for groups in self._groups.values() for group in groups)
        groups = self._await(self._fleet.groups()).groups
        assert {group.group_id: group.device_count for group in groups} == counts

    @rule()
    def get_caller(self) -> None:
        caller = self._await(self._operator.get_caller())
        assert (caller.tenant_id, caller.user_id) == (self._operator.tenant, "olivia")

    @rule(target=jobs, job_id=consumes(jobs))
    def delete(self, job_id: str) -> Any:
        self._run_both(lambda: self._model.delete(job_id), self._operator.delete(job_id))
        if job_id in self._model.jobs:
            return job_id
        self._run_both(_rejects("JOB_NOT_FOUND"), self._operator.get(job_id))
        return multiple()

    @rule(labels=st.sampled_from(LABELS[1:]))
    def list_jobs(self, labels: dict[str, str]) -> None:
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        expected = {name for name, job in self._model.jobs.items() if job.labels == labels}
        assert {
            job.job_id for job in self._await(all_jobs(self._operator, selector=selector, limit=2))
        } == expected

    @rule(job_id=jobs, labels=st.sampled_from(LABELS))
    def update_labels(self, job_id: str, labels: dict[str, str]) -> None:
        self._run_both(
            lambda: self._model.update_labels(job_id, labels),
            self._operator.update(job_id, "labels", labels=labels),
        )

    @rule(job_id=jobs)
    def update_retry_policy(self, job_id: str) -> None:
        """Automatic retries have a model of their own: test_retry_model.py."""
        policy = pb.RetryPolicy(rules=[pb.RetryRule(failure_codes=["never"], max_attempts=2)])
        self._run_both(
            lambda: self._model.update_retry_policy(job_id),
            self._operator.update(job_id, "retry_policy", retry_policy=policy),
        )

    @rule(job_id=jobs, is_closed=st.booleans())
    def update_windows(self, job_id: str, is_closed: bool) -> None:
        """A closed job has one window, which opens in three days. Other jobs have none."""
        windows = []
        if is_closed:
            day = self._time_in(0).ToDatetime() + timedelta(days=3)
            days = [pb.StartWindow.Day.values()[day.isoweekday()]]
            windows = [
                pb.StartWindow(days=days, start_time="12:00", duration=Duration(seconds=3600))
            ]
        self._run_both(
            lambda: self._model.update_windows(job_id, is_closed=is_closed),
            self._operator.update(job_id, "start_windows", "expires_at", start_windows=windows),
        )

    @rule(job_id=jobs, device=st.sampled_from(DEVICES))
    def explain(self, job_id: str, device: str) -> None:
        job = self._model.jobs[job_id]
        if device not in job.executions:
            explain = self._operator.explain(job_id, device)
            self._run_both(_rejects("EXECUTION_NOT_FOUND"), explain)
            return
        explanation = self._await(self._operator.explain(job_id, device))
        kinds = {pb.StartBlocker.Kind.Name(blocker.kind) for blocker in explanation.blockers}
        status = job.visible_execution_status(device)
        assert pb.JobExecution.Status.Name(explanation.execution.status) == status
        assert ("FINISHED" in kinds) == (status not in PENDING | {"HELD"})
        assert ("JOB_PAUSED" in kinds) == (job.paused and status in ("QUEUED", "HELD"))
        if status == "QUEUED":
            assert ("WINDOW_CLOSED" in kinds) == job.is_window_closed
            may_start = kinds <= {"WAITING_FOR_DEVICE", "OTHER_JOB_FIRST"}
            assert may_start == job.can_start(device)

    @rule(job_id=jobs, limit=st.integers(1, 3))
    def list_executions(self, job_id: str, limit: int) -> None:
        executions = self._await(all_executions(self._operator, job_id, limit=limit))
        job = self._model.jobs[job_id]
        statuses = {device: job.visible_execution_status(device) for device in job.executions}
        assert statuses == {e.device_id: pb.JobExecution.Status.Name(e.status) for e in executions}
        for device, status in statuses.items():
            if status == "HELD":
                held = self._device(device).get(job_id)
                self._run_both(_rejects("EXECUTION_NOT_FOUND"), held)
            else:
                execution = self._await(self._device(device).get(job_id))
                assert pb.JobExecution.Status.Name(execution.status) == status

    @rule(job_id=jobs)
    def watch(self, job_id: str) -> None:
        job = self._await(_first_state(self._operator, job_id))
        assert pb.Job.Status.Name(job.status) == self._model.jobs[job_id].visible_status

    @rule(is_stream=st.booleans())
    def read_events(self, is_stream: bool) -> None:
        """ListEvents, or WatchEvents, returns each event once, in the order of its job.

        So does the history.
        """
        stored = {job_id: self._stored_types(job_id) for job_id in self._model.jobs}
        if is_stream:
            self._await(self._read_stream({job_id: len(stored[job_id]) for job_id in stored}))
        else:
            listed = self._await(self._events.list_all(after_position=self._position, limit=7))
            self._add_listed(listed)
        # Meanwhile, the server can add events of gates with a time.
        for job_id, types in stored.items():
            listed_types = self._listed[job_id]
            assert listed_types[: len(types)] == types
            history = self._await(self._events.history(job_id, limit=200)).events
            assert [event.type for event in history][: len(listed_types)] == listed_types

    async def _read_stream(self, counts: dict[str, int]) -> None:
        """Read a stream until this many events of each job have been listed."""
        async with aclosing(self._events.watch(after_position=self._position)) as responses:
            async for response in responses:
                self._add_listed(response.events)
                if all(len(self._listed.get(job, [])) >= n for job, n in counts.items()):
                    break

    def _add_listed(self, events: Iterable[Any]) -> None:
        for event in events:
            self._position = event.position
            self._listed.setdefault(event.job_id, []).append(event.type)

    @precondition(lambda self: len(self._webhooks) < MAX_WEBHOOKS)
    @rule(target=webhooks)
    def create_webhook(self) -> str:
        # The URL of a deleted webhook is not used again: list_webhooks compares by it.
        url = f"https://hooks.example/{uuid.uuid4().hex}"
        webhook = self._await(self._webhook_caller.create(url=url)).webhook
        self._webhooks[webhook.webhook_id] = True
        return webhook.webhook_id

    @rule(webhook_id=webhooks, enabled=st.booleans())
    def update_webhook(self, webhook_id: str, enabled: bool) -> None:
        self._await(self._webhook_caller.update(webhook_id, enabled=enabled))
        self._webhooks[webhook_id] = enabled

    @rule(webhook_id=webhooks)
    def rotate_secret(self, webhook_id: str) -> None:
        assert self._await(self._webhook_caller.rotate(webhook_id)).secret

    @rule(webhook_id=webhooks)
    def send_test(self, webhook_id: str) -> None:
        """Only once: the next test of a webhook would have to wait for ten seconds."""
        if webhook_id not in self._tested:
            self._tested.add(webhook_id)
            result = self._await(self._webhook_caller.test(webhook_id))
            assert result.http_status == self._sender.result.status

    @rule(webhook_id=consumes(webhooks))
    def delete_webhook(self, webhook_id: str) -> None:
        self._await(self._webhook_caller.delete(webhook_id))
        del self._webhooks[webhook_id]
        get = self._webhook_caller.get(webhook_id)
        self._run_both(_rejects("WEBHOOK_NOT_FOUND"), get)

    @rule()
    def list_webhooks(self) -> None:
        """Each webhook receives its events in order; an event is repeated only before the next."""
        listed = self._await(self._webhook_caller.list())
        assert {webhook.webhook_id: webhook.enabled for webhook in listed} == self._webhooks
        for webhook in listed:
            positions = _delivered_positions(self._sender, webhook.url)
            assert positions == sorted(positions)

    def _stored_types(self, job_id: str) -> list[str]:
        stored = self._await(stored_events(self._database, self._operator.tenant, job_id))
        return [event.type for event in stored]

    @rule(job_id=jobs, force=st.booleans())
    def cancel(self, job_id: str, force: bool) -> None:
        self._run_both(
            lambda: self._model.cancel(job_id, force), self._operator.cancel(job_id, force=force)
        )

    @rule(job_id=jobs, device=st.sampled_from(DEVICES), force=st.booleans())
    def cancel_execution(self, job_id: str, device: str, force: bool) -> None:
        self._run_both(
            lambda: self._model.cancel_execution(job_id, device, force),
            self._operator.cancel_execution(job_id, device, force=force),
        )

    @rule(
        job_id=jobs,
        statuses=st.sets(st.sampled_from(sorted(RETRYABLE)), min_size=1),
        codes=st.sets(st.sampled_from(CODES)),
        devices=st.sets(st.sampled_from(DEVICES)),
        renew=st.booleans(),
    )
    def retry(
        self, job_id: str, statuses: set[str], codes: set[str], devices: set[str], renew: bool
    ) -> None:
        expected: list[int] = []
        response = self._run_both(
            lambda: expected.append(self._model.retry(job_id, statuses, codes, devices, renew)),
            self._operator.retry(
                job_id,
                *sorted(statuses),
                failure_codes=codes,
                device_ids=devices,
                never_expires=renew,
            ),
        )
        if response is not None:
            assert response.retried_count == expected[0]
        for name, execution in self._model.jobs[job_id].executions.items():
            attempts = self._await(self._operator.attempts(job_id, name))
            causes = [execution.end_cause, *reversed(execution.earlier_causes)]
            assert [_end_cause(attempt) for attempt in attempts] == causes

    @rule(job_id=jobs)
    def pause(self, job_id: str) -> None:
        self._run_both(lambda: self._model.pause(job_id), self._operator.pause(job_id))

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        self._run_both(lambda: self._model.resume(job_id), self._operator.resume(job_id))

    @rule(job_id=jobs)
    def advance(self, job_id: str) -> None:
        self._run_both(lambda: self._model.advance(job_id), self._operator.advance(job_id))

    @rule(job_id=jobs, stage=st.integers(0, 2))
    def approve(self, job_id: str, stage: int) -> None:
        self._run_both(
            lambda: self._model.approve(job_id, stage, "anna"),
            self._approver.approve(job_id, stage),
        )

    @rule(job_id=jobs, criteria=st.lists(st.sampled_from(CRITERIA), max_size=3))
    def update_criteria(self, job_id: str, criteria: list[Criterion]) -> None:
        self._run_both(
            lambda: self._model.update_criteria(job_id, criteria),
            self._operator.update(
                job_id, "failure_criteria", failure_criteria=[c.message for c in criteria]
            ),
        )

    @rule(job_id=jobs, maximum=st.sampled_from([None, 1, 2]))
    def update_max_in_progress(self, job_id: str, maximum: int | None) -> None:
        self._run_both(
            lambda: self._model.update_max_in_progress(job_id, maximum),
            self._operator.update(
                job_id, "rollout.max_in_progress", rollout=pb.Rollout(max_in_progress=maximum)
            ),
        )

    @rule(job_id=jobs, rate=st.sampled_from([None, 1, 2]))
    def update_rate(self, job_id: str, rate: int | None) -> None:
        rollout = copy.deepcopy(self._model.jobs[job_id].rollout) or Rollout([Stage()], SEED)
        rollout.change_rate(rate)
        self._run_both(
            lambda: self._model.update_rate(job_id, rate),
            self._operator.update(job_id, "rollout.stages", rollout=_rollout(rollout)),
        )

    @rule(job_id=jobs, expiry=st.sampled_from(["never", "late", "early"]))
    def update_expiry(self, job_id: str, expiry: str) -> None:
        """`early` is a minute before the rollout can end, and `late` an hour after it."""
        if self._model.jobs[job_id].is_window_closed:
            return  # The forecast has a model of its own.
        minimum = self._model.jobs[job_id].start_in + self._model.minimum_minutes(job_id)
        minutes = None if expiry == "never" else minimum + 60
        if expiry == "early" and minimum >= 2:
            minutes = minimum - 1
        expires_at = None if minutes is None else self._time_in(minutes)
        self._run_both(
            lambda: self._model.update_expiry(job_id, minutes),
            self._operator.update(job_id, "expires_at", expires_at=expires_at),
        )

    @rule(job_id=jobs, start_in=st.sampled_from([0, 1, 3]))
    def update_start(self, job_id: str, start_in: int) -> None:
        self._run_both(
            lambda: self._model.update_start(job_id, start_in),
            self._operator.update(job_id, "start_at", start_at=self._time_in(start_in)),
        )

    @rule()
    def wait(self) -> None:
        """A minute passes. The rest of an example takes less than that."""
        self._await(self._database.pass_time(60))
        self._await(self._sweeper.run_once())
        self._model.wait()

    @rule(job_id=jobs)
    def expire(self, job_id: str) -> None:
        if self._model.jobs[job_id].status == "IN_PROGRESS":
            self._await(self._database.expire(self._operator.tenant, job_id))
            self._model.expire(job_id)

    @rule()
    def sweep(self) -> None:
        """Readers see no difference."""
        self._await(self._sweeper.run_once())

    @rule(job_id=jobs, device=st.sampled_from(DEVICES))
    def time_out(self, job_id: str, device: str) -> None:
        execution = self._model.jobs[job_id].executions.get(device)
        if execution is not None and execution.status == "IN_PROGRESS":
            self._await(
                self._database.owner.execute(
                    "UPDATE jobs.job_executions SET times_out_at = now()"
                    " WHERE tenant_id = $1 AND job_id = $2 AND device_id = $3",
                    self._operator.tenant,
                    job_id,
                    device,
                )
            )
            self._await(self._sweeper.run_once())
            self._model.time_out(job_id, device)

    @rule(job_id=jobs, device=st.sampled_from(DEVICES))
    def start(self, job_id: str, device: str) -> None:
        execution = self._run_both(
            lambda: self._model.start(job_id, device), self._device(device).start(job_id)
        )
        if execution is not None:
            assert execution.status == pb.JobExecution.IN_PROGRESS

    @precondition(lambda self: self._model.jobs)
    @rule(device=st.sampled_from(DEVICES))
    def start_next(self, device: str) -> None:
        expected = self._model.start_next(device)
        execution = self._await(self._device(device).start_next())
        assert (execution.job_id if execution else None) == expected

    @rule(device=st.sampled_from(DEVICES), limit=st.integers(1, 3))
    def list_pending(self, device: str, limit: int) -> None:
        queue = self._model.queue(device)
        assert self._await(all_pending(self._device(device), limit=limit)) == self._pending(device)
        if device in self._model.devices:
            executions = self._await(self._fleet.get(device)).executions
            assert [execution.job_id for execution in executions] == queue
        else:
            self._run_both(_rejects("DEVICE_NOT_FOUND"), self._fleet.get(device))

    @rule(device=st.sampled_from(DEVICES), limit=st.integers(1, 3))
    def watch_pending(self, device: str, limit: int) -> None:
        first = self._await(_first_pending(self._device(device), limit))
        pending = self._pending(device)
        assert [execution.job_id for execution in first.executions] == pending[:limit]
        assert first.has_more == (len(pending) > limit)

    def _pending(self, device: str) -> list[str]:
        queue = self._model.queue(device)
        return [job for job in queue if not self._model.jobs[job].is_waiting(device)]

    @rule(
        job_id=jobs,
        device=st.sampled_from(DEVICES),
        status=st.sampled_from(["IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED"]),
        code=st.sampled_from(CODES),
        streamed=st.booleans(),
    )
    def report(self, job_id: str, device: str, status: str, code: str, streamed: bool) -> None:
        code = code if status in ("FAILED", "REJECTED") else ""
        if streamed:
            call: Coroutine[Any, Any, Any] = self._report_on_stream(job_id, device, status, code)
        else:
            call = self._device(device).update(job_id, status, failure_code=code)
        self._run_both(lambda: self._model.report(job_id, device, status, code), call)

    async def _report_on_stream(self, job_id: str, device: str, status: str, code: str) -> None:
        report = device_pb.UpdateExecutionRequest(
            job_id=job_id, status=pb.JobExecution.Status.Value(status), failure_code=code
        )
        async with reporting(self._server, self._operator.tenant) as stream:
            await stream.write(device_pb.ReportExecutionsRequest(device_id=device, report=report))
            response: Any = await stream.read()
        if response.HasField("error"):
            raise OperationRejected(ErrorReason.Name(response.error.reason))

    @invariant()
    def service_equals_model(self) -> None:
        for job_id, expected in self._model.jobs.items():
            job = self._await(self._operator.get(job_id))
            actual = {
                execution.device_id: (
                    pb.JobExecution.Status.Name(execution.status),
                    execution.execution_number,
                )
                for execution in job.executions
            }
            assert {e.device_id: _end_cause(e) for e in job.executions} == {
                device: execution.end_cause for device, execution in expected.executions.items()
            }
            assert pb.Job.Status.Name(job.status) == expected.visible_status
            assert dict(job.labels) == expected.labels
            assert actual == {
                device: (expected.visible_execution_status(device), execution.attempt)
                for device, execution in expected.executions.items()
            }
            self._check_pause(job, expected)
            self._check_stages(job, expected)
            self._check_counts(job)
            self._check_failures(job_id)
            self._check_events(job_id, expected)
            self._check_terminal_statuses(job_id, actual)

    def _check_counts(self, job: pb.Job) -> None:
        """The counts equal the listed executions."""
        counts = {status: getattr(job.execution_counts, status) for status in COUNTS}
        statuses = [
            pb.JobExecution.Status.Name(execution.status).lower() for execution in job.executions
        ]
        assert counts == {status: statuses.count(status) for status in COUNTS}
        assert sum(counts.values()) == job.total_executions

    def _check_pause(self, job: pb.Job, expected: Job) -> None:
        cause = pb.Pause.Cause.Name(job.pause.cause) if job.HasField("pause") else None
        assert cause == expected.pause_cause
        assert job.HasField("trip") == (expected.trip is not None)
        if expected.trip is not None:
            stage = job.trip.stage if job.trip.HasField("stage") else None
            numbers = (job.trip.failure_count, job.trip.basis_count)
            assert Trip(expected.trip.criterion, stage, *numbers) == expected.trip

    def _check_stages(self, job: pb.Job, expected: Job) -> None:
        """The state of each stage, and its counts, which equal those of its executions."""
        rollout = expected.rollout
        if rollout is None:
            assert not job.stages
            return
        states = [pb.JobStage.State.Name(stage.state) for stage in job.stages]
        pending = len(rollout.stages) - 1 - rollout.open_stage
        # When the job is finished, stages without executions to carry out have passed.
        if not expected.active:
            assert states.count("PENDING") <= pending
        else:
            assert states.count("PENDING") == pending
        assert sum(stage.released_count for stage in job.stages) == expected.released
        if expected.active and not expected.paused and not expected.expired:
            waits = [stage.awaiting_approval for stage in job.stages]
            assert any(waits) == rollout.awaiting_approval
        for number, stage in enumerate(job.stages):
            statuses = [
                pb.JobExecution.Status.Name(execution.status).lower()
                for execution in job.executions
                if execution.stage == number
            ]
            assert len(rollout.stages[number].devices) == stage.total_executions
            assert {status: getattr(stage.execution_counts, status) for status in COUNTS} == {
                status: statuses.count(status) for status in COUNTS
            }

    def _check_events(self, job_id: str, expected: Job) -> None:
        """The events of an expiry can be missing at the end: time alone adds none."""
        actual = self._await(stored_events(self._database, self._operator.tenant, job_id))
        missing = expected.events[len(actual) :]
        assert {event.type for event in missing} <= {"job.expired", "job.completed"}
        for event, prediction in zip(actual, expected.events, strict=False):
            details = {name: event.details[name] for name in event.details.keys() - {"reason"}}
            if "attempts" in details:
                details["attempts"] = [ATTEMPT_DEFAULTS | each for each in details["attempts"]]
            counts = event.counts if prediction.counts is not None else None
            assert prediction == Event(event.type, event.status, counts, event.user, details)

    def _check_failures(self, job_id: str) -> None:
        summary = self._await(self._operator.failures(job_id))
        assert self._model.failures(job_id) == {
            (pb.JobExecution.Status.Name(f.status), f.failure_code): f.execution_count
            for f in summary.failures
        }

    def _check_terminal_statuses(self, job_id: str, actual: dict[str, tuple[str, int]]) -> None:
        """The terminal status of an attempt never changes."""
        for device, (status, attempt) in actual.items():
            if status not in PENDING | {"HELD"}:
                key = (job_id, device, attempt)
                assert self._terminal_statuses.setdefault(key, status) == status

    def _time_in(self, minutes: int | Fraction) -> Timestamp:
        """The time of the database in this many minutes."""
        now = self._await(self._database.owner.fetchval("SELECT jobs.now()"))
        timestamp = Timestamp()
        timestamp.FromDatetime(now + timedelta(minutes=float(minutes)))
        return timestamp

    def _device(self, name: str) -> Any:
        return self._server.device(self._operator.tenant, name)


def _rejects(reason: str) -> Callable[[], None]:
    """An operation of the model that fails."""

    def operation() -> None:
        raise OperationRejected(reason)

    return operation


async def _first_state(operator: Operator, job_id: str) -> pb.Job:
    """Open a watch and read the current state of the job."""
    stub: Any = operator.stub
    request = pb.WatchJobRequest(job_id=job_id)
    call = stub.WatchJob(request, metadata=operator.metadata, timeout=TIMEOUT)
    response = await call.read()
    call.cancel()
    job: pb.Job = response.job
    return job


async def _first_pending(
    device: DeviceCaller, limit: int
) -> device_pb.WatchPendingExecutionsResponse:
    """Open a watch and read the pending executions."""
    async with aclosing(device.watch(limit=limit)) as responses:
        return await anext(responses)


def _delivered_positions(sender: RecordingSender, url: str | None = None) -> list[int]:
    """Return the positions of the events that were sent, to this URL or to all."""
    payloads = [json.loads(body) for to, _, body in list(sender.sent) if url in (None, to)]
    return [int(p["data"]["position"]) for p in payloads if p["type"] != "webhook.test"]


def _end_cause(execution: pb.JobExecution) -> str | None:
    cause = execution.end_cause
    return pb.JobExecution.EndCause.Name(cause) if cause else None


def _rollout(rollout: Rollout, max_in_progress: int | None = None) -> pb.Rollout:
    return pb.Rollout(
        stages=[_stage(stage, is_last=stage is rollout.stages[-1]) for stage in rollout.stages],
        seed=rollout.seed,
        max_in_progress=max_in_progress,
    )


def _stage(stage: Stage, is_last: bool) -> pb.Stage:
    fields: dict[str, Any] = {"releases_per_minute": stage.rate}
    if stage.count is not None:
        fields["device_count"] = stage.count
    elif stage.percent is not None:
        fields["percent"] = stage.percent
    else:
        fields["remainder"] = True
    if not is_last:
        advance_after = stage.advance_after
        fields["gate"] = pb.Gate(
            min_succeeded_percent=stage.min_succeeded_percent,
            bake_time=Duration(seconds=int(60 * stage.bake)),
            advance_after=None
            if advance_after is None
            else Duration(seconds=int(60 * advance_after)),
            require_approval=stage.require_approval,
        )
    return pb.Stage(**fields)
