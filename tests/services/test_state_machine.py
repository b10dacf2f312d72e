"""Compares the service with a small model after random operations."""

import asyncio
import uuid
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.database import Database
from tests.support.failures import Failure
from tests.support.model import PENDING, RETRYABLE, Model, OperationRejected
from tests.support.scale import examples
from tests.support.server import Server

DEVICES = ["a", "b", "c"]
CODES = ["", "E1", "E2"]
COUNTS = [field.name for field in pb.ExecutionCounts.DESCRIPTOR.fields]

T = TypeVar("T")


@pytest.mark.slow
async def test_service_equals_the_model_after_random_operations(
    database: Database, server: Server
) -> None:
    loop = asyncio.get_running_loop()

    run_settings = settings(examples(25), stateful_step_count=30)
    async with Sweeper(database.owner_dsn) as sweeper:

        def machine() -> RuleBasedStateMachine:
            return _Machine(database, server, sweeper, loop)

        # The annotation asks for a class, but hypothesis accepts a function that makes one.
        run: Any = run_state_machine_as_test
        await asyncio.to_thread(run, machine, settings=run_settings)


class _Machine(RuleBasedStateMachine):
    """Runs in a separate thread; its calls run in the event loop of the test."""

    jobs = Bundle("jobs")

    def __init__(
        self,
        database: Database,
        server: Server,
        sweeper: Sweeper,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__()
        self._database = database
        self._sweeper = sweeper
        self._loop = loop
        self._server = server
        self._operator = server.operator(uuid.uuid4().hex)
        self._model = Model()
        self._terminal_statuses: dict[tuple[str, str, int], str] = {}
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
        except grpc.aio.AioRpcError as e:
            failure = Failure(e.code())
            failure.read(e)
            reason = failure.reason
        assert reason == expected_reason
        return response

    @rule(target=jobs, device=st.none() | st.sampled_from(DEVICES))
    def create(self, device: str | None) -> str:
        job_id = f"j{len(self._model.jobs)}"
        target = {"target_device_id": device} if device else {"target_all": True}
        self._await(self._operator.create(job_id=job_id, **target))
        self._model.create(job_id, [device] if device else DEVICES)
        return job_id

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

    @rule(job_id=jobs)
    def pause(self, job_id: str) -> None:
        self._run_both(lambda: self._model.pause(job_id), self._operator.pause(job_id))

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        self._run_both(lambda: self._model.resume(job_id), self._operator.resume(job_id))

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

    @rule(
        job_id=jobs,
        device=st.sampled_from(DEVICES),
        status=st.sampled_from(["IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED"]),
        code=st.sampled_from(CODES),
    )
    def report(self, job_id: str, device: str, status: str, code: str) -> None:
        code = code if status in ("FAILED", "REJECTED") else ""
        self._run_both(
            lambda: self._model.report(job_id, device, status, code),
            self._device(device).update(job_id, status, failure_code=code),
        )

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
            assert pb.Job.Status.Name(job.status) == expected.visible_status
            assert job.HasField("pause") == expected.paused
            assert actual == {
                device: (execution.status, execution.attempt)
                for device, execution in expected.executions.items()
            }
            self._check_counts(job)
            self._check_failures(job_id)
            self._check_terminal_statuses(job_id, actual)

    def _check_counts(self, job: pb.Job) -> None:
        """The counts equal the listed executions."""
        counts = {status: getattr(job.execution_counts, status) for status in COUNTS}
        statuses = [
            pb.JobExecution.Status.Name(execution.status).lower() for execution in job.executions
        ]
        assert counts == {status: statuses.count(status) for status in COUNTS}
        assert sum(counts.values()) == job.total_executions

    def _check_failures(self, job_id: str) -> None:
        summary = self._await(self._operator.failures(job_id))
        assert self._model.failures(job_id) == {
            (pb.JobExecution.Status.Name(f.status), f.failure_code): f.execution_count
            for f in summary.failures
        }

    def _check_terminal_statuses(self, job_id: str, actual: dict[str, tuple[str, int]]) -> None:
        """The terminal status of an attempt never changes."""
        for device, (status, attempt) in actual.items():
            if status not in PENDING:
                key = (job_id, device, attempt)
                assert self._terminal_statuses.setdefault(key, status) == status

    def _device(self, name: str) -> Any:
        return self._server.device(self._operator.tenant, name)
