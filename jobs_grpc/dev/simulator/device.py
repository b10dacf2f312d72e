"""One simulated device: receives executions and carries them out."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1.jobs_pb2 import JobExecution

from jobs_grpc.client import DeviceClient, JobsError, ReportStream
from jobs_grpc.dev.simulator.behavior import DeviceBehavior, Plan
from jobs_grpc.dev.simulator.totals import Totals

# Seconds within which the devices of a fleet poll for the first time, if the server decides
# when they poll again.
_MAX_FIRST_POLL = 5.0

# Seconds after a call has failed although the client has retried it.
_RESTART_DELAY = 1.0

# The same call would fail again.
_PERMANENT_CODES = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)

# A report fails with one of these after its execution was canceled, timed out or deleted.
_INTERRUPTED_CODES = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
    }
)


class Device:
    """A simulated device. It reports over `bridge`, or over its own client if that is None.

    If `initial_version` is set, the device reports it as the fact `version` at the start, and
    reports the `version` of the document after each successful execution.

    `call_slots` bounds the fleet's concurrent unary calls. Watches have a client of their own, so
    that they do not use up the streams of the other.
    """

    def __init__(
        self,
        device_id: str,
        behavior: DeviceBehavior,
        client: DeviceClient,
        watch_client: DeviceClient,
        bridge: ReportStream | None,
        call_slots: asyncio.Semaphore,
        totals: Totals,
        initial_version: str | None = None,
    ) -> None:
        self._device_id = device_id
        self._behavior = behavior
        self._client = client
        self._watch_client = watch_client
        self._bridge = bridge
        self._call_slots = call_slots
        self._totals = totals
        self._version = initial_version
        self._reported_version: str | None = None
        self._execution_count = 0
        # Job id and attempt number of the last execution that the device started.
        self._last_attempt: tuple[str, int] | None = None

    async def watch(self) -> None:
        """Carry out executions when the WatchPendingExecutions stream lists them."""
        await self._repeat(self._watch)

    async def poll(self, interval: float | None) -> None:
        """Ask for executions every `interval` seconds, or when the server asks for it if None.

        Starts at a random time.
        """
        first = _MAX_FIRST_POLL if interval is None else interval
        await asyncio.sleep(random.uniform(0, first))  # noqa: S311 - not for security
        await self._repeat(lambda: self._poll(interval))

    async def _repeat(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run until the task is canceled; start again after errors, except permanent ones."""
        self._totals.called = True
        while True:
            try:
                await self._report_version()
                await run()
            except JobsError as e:
                if e.code in _PERMANENT_CODES:
                    raise
                self._totals.record_error(e)
                self._last_attempt = None  # It may not be finished.
            await asyncio.sleep(_RESTART_DELAY)

    async def _watch(self) -> None:
        async for pending in self._watch_client.watch_pending():
            self._totals.record_response()
            attempts = {_attempt_key(execution) for execution in pending.executions}
            # If the last attempt is listed, there is nothing to do: the list is older than the
            # attempt's result, or the device stalls.
            if attempts and self._last_attempt not in attempts:
                await self._run_pending()

    async def _poll(self, interval: float | None) -> None:
        while True:
            await self._run_pending()
            await asyncio.sleep(self._client.poll_after if interval is None else interval)

    async def _run_pending(self) -> None:
        while execution := await self._start_next():
            attempt = _attempt_key(execution)
            if attempt == self._last_attempt:
                return  # The device stalls in this attempt until the server ends it.
            self._last_attempt = attempt
            self._execution_count += 1
            self._totals.started += 1
            plan = self._behavior.plan(
                self._device_id,
                self._execution_count,
                execution.execution_number,
                dict(execution.document_params),
            )
            if plan.outcome == "STALLED":
                self._totals.stalled += 1
                return
            self._totals.active += 1
            try:
                await self._carry_out(execution, plan)
            except JobsError as e:
                if e.code not in _INTERRUPTED_CODES:
                    raise
                self._totals.interrupted += 1
            finally:
                self._totals.active -= 1
            # Not in the block above: if this fails, the execution is finished, and _repeat retries.
            await self._report_version()

    async def _carry_out(self, execution: pb.DeviceExecution, plan: Plan) -> None:
        steps = self._behavior.progress + 1
        if plan.outcome != "REJECTED":
            for step in range(1, steps):
                await asyncio.sleep(plan.seconds / steps)
                percent = 100 * step // steps
                if not await self._report(execution, JobExecution.IN_PROGRESS, percent=percent):
                    return
            await asyncio.sleep(plan.seconds / steps)
        match plan.outcome:
            case "SUCCEEDED":
                await self._report(execution, JobExecution.SUCCEEDED, percent=100)
                self._totals.succeeded += 1
                version = dict(execution.document_params).get("version")
                if self._version is not None and isinstance(version, str):
                    self._version = version
            case "FAILED":
                await self._report(
                    execution, JobExecution.FAILED, plan.failure_code, reason=plan.reason
                )
                self._totals.failed += 1
            case "REJECTED":
                await self._report(execution, JobExecution.REJECTED, reason=plan.reason)
                self._totals.rejected += 1

    async def _report(
        self,
        execution: pb.DeviceExecution,
        status: JobExecution.Status.ValueType,
        failure_code: str = "",
        **details: Any,
    ) -> bool:
        """Report on an execution. If its job was canceled, end it and return False."""
        # execution_number keeps a report that is sent twice from changing a later attempt.
        update = pb.UpdateExecutionRequest(
            job_id=execution.job_id,
            status=status,
            execution_number=execution.execution_number,
            failure_code=failure_code,
        )
        update.status_details.update(details)
        if (await self._send(update)).cancel_requested:
            update.status, update.cancel_accepted = JobExecution.REJECTED, True
            await self._send(update)
            self._totals.interrupted += 1
            return False
        return True

    async def _send(self, update: pb.UpdateExecutionRequest) -> pb.DeviceExecution:
        if self._bridge is not None:
            reported = await self._bridge.report(update, device_id=self._device_id)
        else:
            async with self._call_slots:
                reported = await self._client.report(update)
        self._totals.record_response()
        return reported

    async def _report_version(self) -> None:
        if self._version is None or self._version == self._reported_version:
            return
        try:
            async with self._call_slots:
                await self._client.update_facts({"version": self._version})
            self._totals.record_response()
        except JobsError as e:
            # The device does not exist, or the document has a version that can't be a fact.
            if e.code not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                raise
            self._totals.record_error(e)
        self._reported_version = self._version

    async def _start_next(self) -> pb.DeviceExecution | None:
        async with self._call_slots:
            execution = await self._client.start_next()
            self._totals.record_response()
            if ended := self._client.ended_executions:
                await self._client.acknowledge(ended)
        return execution


def _attempt_key(execution: pb.DeviceExecution) -> tuple[str, int]:
    return execution.job_id, execution.execution_number
