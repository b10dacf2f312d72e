"""The traffic during an upgrade: every call must succeed, or fail because its server is drained."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc, jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.client.errors import from_rpc_error
from tests.chaos.history import History
from tests.chaos.system import DEVICES_PER_TENANT, GROUPS, TENANTS, System, device_names
from tests.support.health import wait_until_healthy
from tests.support.server import open_channel
from tests.support.waiting import TIMEOUT, wait_until

T = TypeVar("T")

# The devices of this group work; jobs for the other group are canceled before a device starts.
WORKING_GROUP, IDLE_GROUP = GROUPS
IDLE_DEVICES = device_names()[1 :: len(GROUPS)]
_WORKING_DEVICES = device_names()[:: len(GROUPS)]
_GROUP_SIZE = DEVICES_PER_TENANT // len(GROUPS)
_STATUS = pb.JobExecution.Status
_GATEWAY_PROBES = 16  # More than the gateway has connections.
_numbers = itertools.count(1)  # of jobs: no two have the same ID
_JOBS: Any = jobs_pb2_grpc.JobServiceStub
_DEVICES: Any = device_jobs_pb2_grpc.DeviceJobServiceStub


class CallFailed(Exception):
    """A call failed, but not because its server is drained. The history has it."""


@dataclass(frozen=True)
class Channels:
    """The connections of a tenant to a server: a connection carries a limited number of calls."""

    calls: grpc.aio.Channel
    streams: grpc.aio.Channel


class Traffic:
    """Operators, devices and REST clients that only do what the earlier version knows.

    Each job and each device has one client, so a call that fails is a fault of the servers. A
    client repeats a call on the other server if the drain of one makes it fail with UNAVAILABLE.
    """

    def __init__(
        self, system: System, history: History, channels: dict[tuple[str, int], Channels]
    ) -> None:
        self._system = system
        self._channels = channels
        self._history = history
        self._servers = itertools.cycle((0, 1))
        self._replaced: int | None = None
        self._stopping = False
        self._calls_in_flight = 0
        self.completed: Counter[str] = Counter()
        """The number of jobs that all devices of a group finished, by tenant."""

    def clients(self) -> Iterator[Coroutine[Any, Any, None]]:
        """Return the clients, each of which runs until it is canceled."""
        for tenant in TENANTS:
            for client in (self._work_off_a_job, self._cancel_a_job, self._use_rest):
                yield self._repeat(client, tenant)
            for number, device in enumerate(_WORKING_DEVICES):
                in_stream = number % 2 == 0
                yield self._repeat(self._be_device, tenant, device, reports_in_stream=in_stream)

    async def flow(self, jobs: int, *, check: bool = True) -> None:
        """Return when each tenant has completed `jobs` more jobs.

        With `check`, fail as soon as a call has failed.
        """
        goal = {tenant: self.completed[tenant] + jobs for tenant in TENANTS}

        async def ended() -> bool:
            failed = check and bool(self._history.violations)
            return failed or all(self.completed[t] >= count for t, count in goal.items())

        for _ in range(jobs):  # wait_until limits the time of one job.
            with suppress(AssertionError):
                await wait_until(ended)
        violations = dict(self._history.violations)
        assert await ended(), f"{self.completed} instead of {goal} jobs; {violations}"
        assert not (check and violations), violations

    async def stop(self) -> None:
        """Return when no call is in flight. Watches stay open."""
        self._stopping = True

        async def ended() -> bool:
            return not self._calls_in_flight

        await wait_until(ended)

    @asynccontextmanager
    async def _in_flight(self) -> AsyncIterator[None]:
        if self._stopping:
            await asyncio.Event().wait()  # until the client is canceled
        self._calls_in_flight += 1
        try:
            yield
        finally:
            self._calls_in_flight -= 1

    def begin_drain(self, server: int) -> None:
        """Allow calls to this server to fail with UNAVAILABLE, until `end_drain`."""
        self._replaced = server

    async def end_drain(self) -> None:
        """Wait until the clients and the gateway reach the server; then allow no call to fail."""
        for (_, server), channels in self._channels.items():
            if server == self._replaced:
                await wait_until_healthy(channels.calls)
                await wait_until_healthy(channels.streams)
        await wait_until(self.gateway_is_connected)
        self._replaced = None

    async def gateway_is_connected(self) -> bool:
        """Whether all connections of the gateway, which take turns, reach the server."""
        url, headers = "/customer/jobs?limit=1", {"X-Tenant-Id": TENANTS[0]}
        probes = (
            self._system.http.get(url, headers=headers, timeout=TIMEOUT)
            for _ in range(_GATEWAY_PROBES)
        )
        return all(response.is_success for response in await asyncio.gather(*probes))

    async def _repeat(
        self, client: Callable[..., Awaitable[None]], *args: Any, **options: Any
    ) -> None:
        while True:
            with suppress(CallFailed):
                await client(*args, **options)
            await asyncio.sleep(0)  # A client that fails at once leaves room for the others.

    async def _call(self, stub: Any, request: Any, tenant: str, device: str = "") -> Any:
        """Make a unary call, if need be on both servers. Raises CallFailed."""
        method = type(request).__name__.removesuffix("Request")

        async def attempt(server: int) -> Any:
            call = getattr(stub(self._channels[tenant, server].calls), method)
            return await call(request, metadata=_metadata(tenant, device), timeout=TIMEOUT)

        async with self._in_flight():
            return await self._on_a_server(method, attempt)

    async def _on_a_server(self, method: str, attempt: Callable[[int], Awaitable[T]]) -> T:
        server = next(self._servers)
        while True:
            drained = {self._replaced}
            try:
                result = await attempt(server)
            except grpc.aio.AioRpcError as e:
                drained.add(self._replaced)
                if server not in drained or not _ended_by_drain(e):
                    self._history.add_violation(
                        "a call failed", f"{method} on server {server}: {e.code()} {e.details()}"
                    )
                    raise CallFailed from None
                self._history.calls[f"{e.code().name} during a drain"] += 1
                server = 1 - server
            else:
                self._history.answered()
                return result

    async def _work_off_a_job(self, tenant: str) -> None:
        """Create a job, watch the devices finish it, and let those that failed repeat it."""
        job_id = f"work-{next(_numbers)}"
        request = pb.CreateJobRequest(
            job_id=job_id, document_type="reboot", target_group_id=WORKING_GROUP
        )
        await self._call(_JOBS, request, tenant)
        self._history.created[tenant, job_id] = _GROUP_SIZE
        self._history.note(job_id, "created")
        await self._watch_job(tenant, job_id)
        listed = pb.ListJobExecutionsRequest(job_id=job_id, status=_STATUS.Value("FAILED"))
        failed = await self._call(_JOBS, listed, tenant)
        if failed.executions:
            retry = pb.RetryExecutionsRequest(job_id=job_id, statuses=[_STATUS.Value("FAILED")])
            await self._call(_JOBS, retry, tenant)
            await self._watch_job(tenant, job_id)
        job = (await self._call(_JOBS, pb.GetJobRequest(job_id=job_id), tenant)).job
        if job.succeeded_count != _GROUP_SIZE:
            self._history.add_violation("a job has the wrong counts", f"{job}")
        attempts = pb.ListExecutionAttemptsRequest(job_id=job_id, device_id=_WORKING_DEVICES[0])
        await self._call(_JOBS, attempts, tenant)
        self.completed[tenant] += 1

    async def _watch_job(self, tenant: str, job_id: str) -> None:
        async def watch(server: int) -> None:
            stub = _JOBS(self._channels[tenant, server].streams)
            request = pb.WatchJobRequest(job_id=job_id)
            async for _ in stub.WatchJob(request, metadata=_metadata(tenant)):
                pass  # The stream ends when the job is completed.

        await self._on_a_server("WatchJob", watch)

    async def _cancel_a_job(self, tenant: str) -> None:
        """Create a job, read it and cancel it; delete every second one."""
        number = next(_numbers)
        job_id = f"cancel-{number}"
        request = pb.CreateJobRequest(
            job_id=job_id, document_type="reboot", target_group_id=IDLE_GROUP
        )
        await self._call(_JOBS, request, tenant)
        self._history.created[tenant, job_id] = _GROUP_SIZE
        await self._call(_JOBS, pb.GetJobRequest(job_id=job_id), tenant)
        await self._call(_JOBS, pb.CancelJobRequest(job_id=job_id), tenant)
        self._history.add_stop(self._history.canceled, tenant, job_id)
        await self._call(_JOBS, pb.ListJobsRequest(limit=20), tenant)
        if number % 2:
            self._history.deleted.add((tenant, job_id))
            await self._call(_JOBS, pb.DeleteJobRequest(job_id=job_id), tenant)

    async def _be_device(self, tenant: str, device: str, *, reports_in_stream: bool) -> None:
        """Watch, and work off the executions that are pending."""
        metadata = _metadata(tenant, device)

        async def work(server: int) -> None:
            devices = _DEVICES(self._channels[tenant, server].streams)
            reports = devices.ReportExecutions(metadata=metadata) if reports_in_stream else None
            watch = devices.WatchPendingExecutions(
                device_pb.WatchPendingExecutionsRequest(), metadata=metadata
            )
            try:
                async for message in watch:
                    while message.executions and await self._work(tenant, device, reports):
                        pass
            finally:
                watch.cancel()
                if reports:
                    reports.cancel()

        await self._on_a_server("WatchPendingExecutions", work)

    async def _work(self, tenant: str, device: str, reports: Any) -> bool:
        """Start the next execution and report on it. Return false if there is none."""
        start = device_pb.StartNextExecutionRequest()
        response = await self._call(_DEVICES, start, tenant, device)
        if not response.HasField("execution"):
            return False
        job_id, number = response.execution.job_id, response.execution.execution_number
        # Some devices fail at first.
        status = "FAILED" if number == 1 and device in _WORKING_DEVICES[::8] else "SUCCEEDED"
        for reported in ("IN_PROGRESS", status):
            report = device_pb.UpdateExecutionRequest(
                job_id=job_id, status=_STATUS.Value(reported), execution_number=number
            )
            if reports:
                await self._report(reports, report)
            else:
                await self._call(_DEVICES, report, tenant, device)
        self._history.reported[tenant, job_id, device, number] = status
        self._history.note(job_id, f"{device} reported {status} of {number}")
        return True

    async def _report(self, stream: Any, report: device_pb.UpdateExecutionRequest) -> None:
        """Report over a stream. Raises AioRpcError if the stream has ended."""
        async with self._in_flight():
            with suppress(asyncio.InvalidStateError):  # The stream has ended: read() says why.
                await stream.write(device_pb.ReportExecutionsRequest(report=report))
            response = await stream.read()
        if response is grpc.aio.EOF or response.HasField("error"):
            self._history.add_violation("a report failed", f"{response}")
            raise CallFailed
        self._history.answered()

    async def _use_rest(self, tenant: str) -> None:
        """Create a job over REST, read it, and cancel it."""
        job_id = f"rest-{next(_numbers)}"
        body = {"job_id": job_id, "document_type": "reboot", "target_group_id": IDLE_GROUP}
        if await self._request("POST", "", tenant, json=body):
            self._history.created[tenant, job_id] = _GROUP_SIZE
        await self._request("GET", f"/{job_id}", tenant)
        await self._request("GET", "?limit=5", tenant)
        if await self._request("DELETE", f"/{job_id}", tenant):
            self._history.add_stop(self._history.canceled, tenant, job_id)

    async def _request(self, method: str, path: str, tenant: str, **options: Any) -> bool:
        """Make a request until it succeeds. The gateway uses the first server."""
        while True:
            drained = self._replaced == 0
            async with self._in_flight():
                response = await self._system.http.request(
                    method,
                    f"/customer/jobs{path}",
                    headers={"X-Tenant-Id": tenant},
                    timeout=TIMEOUT,
                    **options,
                )
            if response.is_success:
                self._history.responded(method, path, response)
                return True
            drained = drained or self._replaced == 0
            if response.status_code != 503 or not drained:
                self._history.add_violation(
                    "a request failed", f"{method} {path}: {response.status_code} {response.text}"
                )
                return False
            self._history.calls["503 during a drain"] += 1
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running_traffic(system: System, history: History) -> AsyncIterator[Traffic]:
    """Keep the traffic flowing during the block."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        channels = {}
        for tenant, (number, server) in itertools.product(TENANTS, enumerate(system.servers)):
            address = server.environ["JOBS_LISTEN"]
            calls, streams = [
                await stack.enter_async_context(open_channel(address)) for _ in range(2)
            ]
            channels[tenant, number] = Channels(calls, streams)
        traffic = Traffic(system, history, channels)
        await wait_until(traffic.gateway_is_connected)
        clients = [tasks.create_task(client) for client in traffic.clients()]
        yield traffic
        await traffic.stop()
        for client in clients:
            client.cancel()


def _ended_by_drain(error: grpc.aio.AioRpcError) -> bool:
    """Whether the stop of a server explains the failure of a call."""
    # For the client, a call that arrives between SIGTERM and the GOAWAY frame is UNAVAILABLE, too:
    # gRPC resets it.
    return from_rpc_error(error).code is grpc.StatusCode.UNAVAILABLE


def _metadata(tenant: str, device: str = "") -> list[tuple[str, str]]:
    return [("x-tenant-id", tenant), *([("x-device-id", device)] if device else [])]
