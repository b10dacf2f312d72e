"""Random steps of operators, devices and the clock, against a small model."""

import asyncio
import uuid
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc
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
STATES = [field.name for field in pb.ExecutionCounts.DESCRIPTOR.fields]

T = TypeVar("T")


async def test_the_service_does_what_the_model_does(database: Database, server: Server) -> None:
    loop = asyncio.get_running_loop()

    trial = settings(examples(25), stateful_step_count=30)
    async with Sweeper(database.owner_dsn) as sweeper:

        def machine() -> RuleBasedStateMachine:
            return _Machine(database, server, sweeper, loop)

        # A factory will do; the annotation asks for a class.
        run: Any = run_state_machine_as_test
        await asyncio.to_thread(run, machine, settings=trial)


class _Machine(RuleBasedStateMachine):
    """Runs in a thread of its own; its calls run in the loop that serves them."""

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
        self._final: dict[tuple[str, str, int], str] = {}
        self._await(database.add_devices(self._operator.tenant, DEVICES))

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _both(self, expected: Any, call: Coroutine[Any, Any, T]) -> T | None:
        """Do it in both worlds; they must agree, also in refusing it."""
        answer: T | None
        refusal: str | None = None
        met: str | None
        try:
            expected()
        except OperationRejected as e:
            refusal = e.reason
        try:
            answer = self._await(call)
        except grpc.aio.AioRpcError as e:
            failure = Failure(e.code())
            failure.read(e)
            answer, met = None, failure.reason
        else:
            met = None
        assert met == refusal
        return answer

    @rule(target=jobs, device=st.none() | st.sampled_from(DEVICES))
    def create(self, device: str | None) -> str:
        job_id = f"j{len(self._model.jobs)}"
        target = {"target_device_id": device} if device else {"target_all": True}
        self._await(self._operator.create(job_id=job_id, **target))
        self._model.create(job_id, [device] if device else DEVICES)
        return job_id

    @rule(job_id=jobs, force=st.booleans())
    def cancel(self, job_id: str, force: bool) -> None:
        self._both(
            lambda: self._model.cancel(job_id, force), self._operator.cancel(job_id, force=force)
        )

    @rule(job_id=jobs, device=st.sampled_from(DEVICES), force=st.booleans())
    def cancel_execution(self, job_id: str, device: str, force: bool) -> None:
        self._both(
            lambda: self._model.cancel_execution(job_id, device, force),
            self._operator.cancel_execution(job_id, device, force=force),
        )

    @rule(
        job_id=jobs,
        statuses=st.sets(st.sampled_from(sorted(RETRYABLE)), min_size=1),
        renew=st.booleans(),
    )
    def retry(self, job_id: str, statuses: set[str], renew: bool) -> None:
        expected: list[int] = []
        answer = self._both(
            lambda: expected.append(self._model.retry(job_id, statuses, renew)),
            self._operator.retry(job_id, *sorted(statuses), never_expires=renew),
        )
        if answer is not None:
            assert answer.retried_count == expected[0]

    @rule(job_id=jobs)
    def expire(self, job_id: str) -> None:
        if self._model.jobs[job_id].status == "IN_PROGRESS":
            self._await(self._database.expire(self._operator.tenant, job_id))
            self._model.expire(job_id)

    @rule()
    def sweep(self) -> None:
        """Changes nothing that anybody can see."""
        self._await(self._sweeper.run_once())

    @rule(job_id=jobs, device=st.sampled_from(DEVICES))
    def pass_deadline(self, job_id: str, device: str) -> None:
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
        answer = self._both(
            lambda: self._model.start(job_id, device), self._device(device).start(job_id)
        )
        if answer is not None:
            assert answer.status == pb.JobExecution.IN_PROGRESS

    @precondition(lambda self: self._model.jobs)
    @rule(device=st.sampled_from(DEVICES))
    def start_next(self, device: str) -> None:
        expected = self._model.start_next(device)
        answer = self._await(self._device(device).start_next())
        assert (answer.job_id if answer else None) == expected

    @rule(
        job_id=jobs,
        device=st.sampled_from(DEVICES),
        status=st.sampled_from(["IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED"]),
    )
    def report(self, job_id: str, device: str, status: str) -> None:
        self._both(
            lambda: self._model.report(job_id, device, status),
            self._device(device).update(job_id, status),
        )

    @invariant()
    def they_agree(self) -> None:
        for job_id, expected in self._model.jobs.items():
            job = self._await(self._operator.get(job_id))
            found = {
                execution.device_id: (
                    pb.JobExecution.Status.Name(execution.status),
                    execution.execution_number,
                )
                for execution in job.executions
            }
            assert pb.Job.Status.Name(job.status) == expected.status
            assert found == {
                device: (execution.status, execution.attempt)
                for device, execution in expected.executions.items()
            }
            self._counts_are_those_of_the_rows(job)
            self._final_is_final(job_id, found)

    def _counts_are_those_of_the_rows(self, job: pb.Job) -> None:
        counts = {state: getattr(job.execution_counts, state) for state in STATES}
        rows = [
            pb.JobExecution.Status.Name(execution.status).lower() for execution in job.executions
        ]
        assert counts == {state: rows.count(state) for state in STATES}
        assert sum(counts.values()) == job.total_executions

    def _final_is_final(self, job_id: str, found: dict[str, tuple[str, int]]) -> None:
        for device, (status, attempt) in found.items():
            if status not in PENDING:
                assert self._final.setdefault((job_id, device, attempt), status) == status

    def _device(self, name: str) -> Any:
        return self._server.device(self._operator.tenant, name)
