"""A fleet that carries out the released executions of a rollout, over one report stream."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.server import Server

_BATCH = 100


@dataclass
class RolloutFleet:
    """The devices of one job.

    `failure_code` decides how a device ends: the code of its failure, or None if it succeeds.
    """

    operator: Operator
    job_id: str
    stream: Any
    failure_code: Callable[[str], str | None]
    started: set[str] = field(default_factory=set)
    """The devices that have started and not finished."""

    async def start(self, limit: int) -> int:
        """Start up to `limit` of the executions that are QUEUED; return how many started."""
        page = await self.operator.executions(self.job_id, status="QUEUED", limit=limit)
        devices = [execution.device_id for execution in page.executions]
        results = await self._report(devices, lambda _: {"status": "IN_PROGRESS"})
        started = [
            device
            for device, result in zip(devices, results, strict=True)
            if result.WhichOneof("result") == "execution"
        ]
        self.started.update(started)
        return len(started)

    async def finish(self, limit: int) -> None:
        """Let up to `limit` of the started devices report their result."""
        devices = sorted(self.started)[:limit]
        self.started.difference_update(devices)
        results = await self._report(devices, self._result)
        assert all(result.WhichOneof("result") == "execution" for result in results), results

    def _result(self, device: str) -> dict[str, Any]:
        code = self.failure_code(device)
        return (
            {"status": "SUCCEEDED"} if code is None else {"status": "FAILED", "failure_code": code}
        )

    async def _report(
        self, devices: Sequence[str], fields: Callable[[str], dict[str, Any]]
    ) -> list[Any]:
        """Report on each device, in messages of 100; return the results in order."""
        results: list[Any] = []
        for batch in _batches(devices):
            reports = [
                device_pb.ExecutionReport(
                    device_id=device,
                    report=device_pb.UpdateExecutionRequest(job_id=self.job_id, **fields(device)),
                )
                for device in batch
            ]
            await self.stream.write(device_pb.ReportExecutionsRequest(reports=reports))
            response = await self.stream.read()
            results += response.results
        return results


@asynccontextmanager
async def rollout_fleet(
    server: Server, operator: Operator, job_id: str, failure_code: Callable[[str], str | None]
) -> AsyncIterator[RolloutFleet]:
    """Open the report stream of a fleet."""
    stub = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)
    stream: Any = stub.ReportExecutions(metadata=(("x-tenant-id", operator.tenant),))
    try:
        yield RolloutFleet(operator, job_id, stream, failure_code)
    finally:
        stream.cancel()


def check_counts(job: pb.Job) -> None:
    """Check that the counts of the job and of each stage add up, and agree with each other."""
    fields = [descriptor.name for descriptor in pb.ExecutionCounts.DESCRIPTOR.fields]
    counts = {name: getattr(job.execution_counts, name) for name in fields}
    assert sum(counts.values()) == job.total_executions
    assert counts == {
        name: sum(getattr(stage.execution_counts, name) for stage in job.stages) for name in fields
    }
    for stage in job.stages:
        assert (
            sum(getattr(stage.execution_counts, name) for name in fields) == stage.total_executions
        )


def _batches(devices: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(devices), _BATCH):
        yield devices[start : start + _BATCH]
