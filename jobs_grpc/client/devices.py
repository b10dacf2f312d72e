"""DeviceClient: the devices' API."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1.jobs_pb2 import JobExecution

from jobs_grpc.client.errors import JobsError, from_item_error
from jobs_grpc.client.operator_client import Client
from jobs_grpc.client.report_stream import ReportStream
from jobs_grpc.client.requests import struct
from jobs_grpc.client.retry import is_transient
from jobs_grpc.contract.field_rules import rules_of

Details: TypeAlias = Mapping[str, Any] | None
"""The status_details of a report; None keeps the stored ones."""

_MAX_STARTED = rules_of(pb.StartNextExecutionsRequest, "device_ids").repeated.max_items
_MAX_DEVICES = rules_of(pb.UpdateFactsRequest, "devices").repeated.max_items
_MAX_ACKNOWLEDGED = rules_of(pb.AcknowledgeExecutionsRequest, "executions").repeated.max_items

# Seconds to wait between polls before the server has sent a poll_after.
_DEFAULT_POLL_AFTER = 60.0


class DeviceClient(Client):
    """Calls DeviceJobService for one device, or as a bridge for the devices of a tenant.

    Use it with `async with`, in one event loop. Every call raises JobsError and is tried again
    after a transient error. Reports name the attempt that the device carries out, so a late or
    repeated one does not change a later attempt.

    Without a device_id and a token that names one, only `start_next_for_devices`,
    `report_stream` and `update_facts_for_devices` work, which need the role bridge.
    """

    _stub = device_jobs_pb2_grpc.DeviceJobServiceStub
    _poll_after: float | None = None

    ended_executions: tuple[pb.EndedExecution, ...] = ()
    """What others have ended, from the latest response of `start_next` or first page of `pending`.

    Stop what still runs for them, and pass them to `acknowledge`.
    """

    @property
    def poll_after(self) -> float:
        """Seconds to wait before the next poll: `poll_after` of the latest response.

        Each response has a new random value, so use it once. `poll` follows it.
        """
        return _DEFAULT_POLL_AFTER * _jitter() if self._poll_after is None else self._poll_after

    async def poll(self) -> AsyncIterator[pb.DeviceExecution]:
        """Start and yield executions one after the other, endlessly.

        Report the result of an execution before the next iteration; otherwise the same execution
        is yielded again after a wait. If nothing is pending, waits for `poll_after`. If a call
        still fails after its retries because the server is unavailable, waits about as long.
        """
        last: pb.DeviceExecution | None = None
        while True:
            try:
                execution = await self.start_next()
            except JobsError as e:
                if not (is_transient(e) or e.code is grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
                self._calls.report_retry(e)
                await asyncio.sleep(self.poll_after * _jitter())
                continue
            if execution is None or execution == last:
                last = None
                await asyncio.sleep(self.poll_after)
            else:
                last = execution
                yield execution

    async def pending(self, *, page_size: int = 100) -> AsyncIterator[pb.DeviceExecution]:
        """Yield the pending executions: those IN_PROGRESS, then those QUEUED."""
        request = pb.ListPendingExecutionsRequest(limit=page_size)
        while True:
            page = await self._calls.unary(request, pb.ListPendingExecutionsResponse)
            self._note_poll_after(page)
            if not request.page_token:
                self.ended_executions = tuple(page.ended_executions)
            for execution in page.executions:
                yield execution
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch_pending(self) -> AsyncIterator[pb.WatchPendingExecutionsResponse]:
        """Yield the first pending executions now and after each change, without an end.

        Reconnects when the stream breaks, after a random time.
        """
        request = pb.WatchPendingExecutionsRequest()
        async for response in self._calls.follow(request, pb.WatchPendingExecutionsResponse):
            yield response

    async def start_next(self) -> pb.DeviceExecution | None:
        """Start the next execution, or return the one IN_PROGRESS; None: nothing is pending."""
        request = pb.StartNextExecutionRequest()
        response = await self._calls.unary(request, pb.StartNextExecutionResponse)
        self._note_poll_after(response)
        self.ended_executions = tuple(response.ended_executions)
        return response.execution if response.HasField("execution") else None

    async def start_next_for_devices(
        self, device_ids: Iterable[str]
    ) -> dict[str, pb.StartNextResult]:
        """Do `start_next` for many devices. Needs the role bridge.

        Sends up to 100 devices per call. Returns the result of each device by its ID: the
        `execution`; or the `poll_after` to wait before the next call for it; or an `error`.
        """
        devices = [*dict.fromkeys(device_ids)]
        results: dict[str, pb.StartNextResult] = {}
        for first in range(0, len(devices), _MAX_STARTED):
            part = devices[first : first + _MAX_STARTED]
            request = pb.StartNextExecutionsRequest(device_ids=part)
            response = await self._calls.unary(request, pb.StartNextExecutionsResponse)
            results.update(zip(part, response.results, strict=True))
        return results

    def _note_poll_after(
        self, response: pb.StartNextExecutionResponse | pb.ListPendingExecutionsResponse
    ) -> None:
        # Not set with an execution, nor before the last page.
        if response.HasField("poll_after"):
            self._poll_after = response.poll_after.ToTimedelta().total_seconds()

    async def start(self, job_id: str) -> pb.DeviceExecution:
        """Start the execution of one job."""
        request = pb.StartExecutionRequest(job_id=job_id)
        return (await self._calls.unary(request, pb.StartExecutionResponse)).execution

    async def get(self, job_id: str) -> pb.DeviceExecution:
        """Return the execution of one job."""
        request = pb.GetExecutionRequest(job_id=job_id)
        return (await self._calls.unary(request, pb.GetExecutionResponse)).execution

    async def progress(
        self,
        execution: pb.DeviceExecution,
        details: Details = None,
        *,
        extend_timeout_minutes: int | None = None,
    ) -> pb.DeviceExecution:
        """Report that the execution continues, and optionally extend its timeout."""
        update = _update(execution, JobExecution.IN_PROGRESS, details)
        if extend_timeout_minutes is not None:
            update.extend_timeout_minutes = extend_timeout_minutes
        return await self.report(update)

    async def succeed(
        self, execution: pb.DeviceExecution, details: Details = None
    ) -> pb.DeviceExecution:
        """Report that the execution has SUCCEEDED."""
        return await self.report(_update(execution, JobExecution.SUCCEEDED, details))

    async def fail(
        self, execution: pb.DeviceExecution, code: str = "", details: Details = None
    ) -> pb.DeviceExecution:
        """Report that the execution has FAILED, with a failure code."""
        return await self.report(_update(execution, JobExecution.FAILED, details, code))

    async def reject(
        self, execution: pb.DeviceExecution, code: str = "", details: Details = None
    ) -> pb.DeviceExecution:
        """Report that the device refuses the execution: REJECTED, with a failure code."""
        return await self.report(_update(execution, JobExecution.REJECTED, details, code))

    async def accept_cancel(
        self, execution: pb.DeviceExecution, details: Details = None
    ) -> pb.DeviceExecution:
        """End an execution that has `cancel_requested` as REJECTED, which is no failure."""
        update = _update(execution, JobExecution.REJECTED, details)
        update.cancel_accepted = True
        return await self.report(update)

    async def acknowledge(self, executions: Iterable[pb.EndedExecution]) -> None:
        """Tell the server that the device knows the end of these attempts.

        They are then no longer among `ended_executions` of later responses.
        """
        ended = [*executions]
        for first in range(0, len(ended), _MAX_ACKNOWLEDGED):
            part = ended[first : first + _MAX_ACKNOWLEDGED]
            request = pb.AcknowledgeExecutionsRequest(executions=part)
            await self._calls.unary(request, pb.AcknowledgeExecutionsResponse)

    async def report(self, update: pb.UpdateExecutionRequest) -> pb.DeviceExecution:
        """Report on an execution. Repeated after a transient error if it names the attempt."""
        repeatable = update.HasField("execution_number") and not update.HasField("expected_version")
        reported = self._calls.unary(update, pb.UpdateExecutionResponse, repeatable=repeatable)
        return (await reported).execution

    async def update_facts(self, facts: Mapping[str, str], *, replace: bool = False) -> None:
        """Store facts of the device, such as {"version": "2.1"}.

        Other facts stay, unless `replace` is true.
        """
        request = pb.UpdateFactsRequest(facts=facts, replace=replace)
        await self._calls.unary(request, pb.UpdateFactsResponse)

    async def update_facts_for_devices(
        self, facts: Mapping[str, Mapping[str, str]], *, replace: bool = False
    ) -> dict[str, JobsError]:
        """Store facts of many devices, keyed by device ID. Needs the role bridge.

        Sends up to 100 devices per call and returns the error of each device whose facts were not
        stored.
        """
        errors: dict[str, JobsError] = {}
        devices = [pb.DeviceFacts(device_id=key, facts=value) for key, value in facts.items()]
        for first in range(0, len(devices), _MAX_DEVICES):
            part = devices[first : first + _MAX_DEVICES]
            request = pb.UpdateFactsRequest(devices=part, replace=replace)
            response = await self._calls.unary(request, pb.UpdateFactsResponse)
            for device, result in zip(part, response.results, strict=True):
                if result.HasField("error"):
                    errors[device.device_id] = from_item_error(result.error)
        return errors

    @asynccontextmanager
    async def report_stream(self, *, max_pending: int = 1000) -> AsyncIterator[ReportStream]:
        """Open a stream for the reports of many devices; see ReportStream.

        The end of the block waits until all reports have an answer. An exception in the block
        drops those that have none.
        """
        stream = ReportStream(self._calls, max_pending)
        async with stream.running():
            yield stream


def _jitter() -> float:
    """Spread the devices after an outage, so that they do not all return at once."""
    return random.uniform(0.5, 1.5)  # noqa: S311 - not for security


def _update(
    execution: pb.DeviceExecution,
    status: JobExecution.Status.ValueType,
    details: Details,
    failure_code: str = "",
) -> pb.UpdateExecutionRequest:
    return pb.UpdateExecutionRequest(
        job_id=execution.job_id,
        status=status,
        status_details=struct(details),
        execution_number=execution.execution_number,
        failure_code=failure_code,
    )
