"""The traffic of a trial: operators, devices and REST clients, all with short deadlines."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import httpx
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.client import DeviceClient, JobsError
from tests.chaos.history import History
from tests.chaos.system import DEVICES_PER_TENANT, GROUPS, TENANTS, System, device_names

T = TypeVar("T")

_OPERATORS = 2  # of each tenant
_DEVICE_WORKERS = 6  # of each tenant; each call acts for a random device
_STREAM_WORKERS = 2  # of each tenant
_MAX_OPEN_JOBS = 12  # of each operator
_FINAL = ("SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "FAILED", "REJECTED")
_STATUS = pb.JobExecution.Status


class Traffic:
    """Keeps calling the system until `stop`."""

    def __init__(self, system: System, history: History, seed: int) -> None:
        self._system = system
        self._history = history
        self._seed = seed
        self._stopping = asyncio.Event()
        self._numbers = itertools.count(1)
        # Jobs that a client may still change.
        self._jobs: dict[str, list[str]] = {tenant: [] for tenant in TENANTS}

    async def run(self) -> None:
        """Run all clients until `stop`, then let them finish their work."""
        async with asyncio.TaskGroup() as clients:
            numbers = itertools.count(self._seed * 1000)
            for tenant in TENANTS:
                workers: list[Callable[[str, random.Random], Awaitable[None]]] = [
                    *[self._operator] * _OPERATORS,
                    *[self._device] * _DEVICE_WORKERS,
                    *[self._stream_device] * _STREAM_WORKERS,
                    self._rest_client,
                ]
                for worker in workers:
                    rng = random.Random(next(numbers))  # noqa: S311 - repeatable on purpose
                    clients.create_task(_repeat(self._stopping, worker, tenant, rng))

    def stop(self) -> None:
        """Make the clients stop."""
        self._stopping.set()

    async def _call(
        self,
        call: Callable[..., Awaitable[T]],
        request: Any,
        tenant: str,
        subject: str,
        rng: random.Random,
        *,
        device: str = "",
    ) -> tuple[T | None, str]:
        """Make a call with a short deadline. Return its response, or None and its reason."""
        method = type(request).__name__.removesuffix("Request")
        metadata = [("x-tenant-id", tenant), *([("x-device-id", device)] if device else [])]
        try:
            response = await call(request, metadata=metadata, timeout=rng.uniform(0.1, 2))
        except grpc.aio.AioRpcError as e:
            reason = self._history.failed(method, subject, e)
            await asyncio.sleep(rng.uniform(0, 0.2))
            return None, reason or e.code().name
        self._history.answered(method)
        return response, ""

    async def _operator(self, tenant: str, rng: random.Random) -> None:
        """Make one change of a job."""
        jobs = self._jobs[tenant]
        stub = self._system.jobs(rng.randrange(2))
        if len(jobs) < _MAX_OPEN_JOBS:
            await self._create(stub, tenant, rng)
        elif (job_id := rng.choice(jobs)).startswith("keep"):
            await self._pause_permanently(stub, tenant, job_id, rng)
        else:
            actions = [self._cancel, self._pause, self._retry, self._cancel_execution, self._delete]
            (action,) = rng.choices(actions, weights=[3, 2, 3, 3, 1])
            await action(stub, tenant, job_id, rng)
        await asyncio.sleep(rng.uniform(0, 0.05))

    async def _create(self, stub: Any, tenant: str, rng: random.Random) -> None:
        # A job named keep-… is paused and never resumed.
        kind = "keep" if rng.random() < 0.1 else "job"
        job_id = f"{kind}-{next(self._numbers)}"
        request = _random_job(job_id, rng)
        # Each call has the same id, so a repeated call returns the existing job.
        for _ in range(20):
            response, reason = await self._call(stub.CreateJob, request, tenant, job_id, rng)
            if response is not None or reason == "JOB_ALREADY_EXISTS":
                size = DEVICES_PER_TENANT
                if request.HasField("target_device_id"):
                    size = 1
                elif request.HasField("target_group_id"):
                    size = DEVICES_PER_TENANT // len(GROUPS)
                self._history.created[tenant, job_id] = size
                self._history.note(job_id, "created")
                self._jobs[tenant].append(job_id)
                return
            if self._stopping.is_set():
                return

    async def _cancel(self, stub: Any, tenant: str, job_id: str, rng: random.Random) -> None:
        request = pb.CancelJobRequest(job_id=job_id, force=rng.random() < 0.4)
        response, reason = await self._call(stub.CancelJob, request, tenant, job_id, rng)
        if response is not None:
            self._history.canceled.add((tenant, job_id))
            self._history.note(job_id, f"canceled, force={request.force}")
        if response is not None or reason in ("JOB_NOT_CANCELABLE", "JOB_NOT_FOUND"):
            self._forget(tenant, job_id)

    async def _pause(self, stub: Any, tenant: str, job_id: str, rng: random.Random) -> None:
        if rng.random() < 0.5:
            request = pb.PauseJobRequest(job_id=job_id)
            await self._call(stub.PauseJob, request, tenant, job_id, rng)
        else:
            resume = pb.ResumeJobRequest(job_id=job_id)
            await self._call(stub.ResumeJob, resume, tenant, job_id, rng)

    async def _pause_permanently(
        self, stub: Any, tenant: str, job_id: str, rng: random.Random
    ) -> None:
        request = pb.PauseJobRequest(job_id=job_id)
        response, reason = await self._call(stub.PauseJob, request, tenant, job_id, rng)
        if response is not None:
            self._history.paused.add((tenant, job_id))
            self._history.note(job_id, "paused")
        if response is not None or reason == "JOB_NOT_PAUSABLE":
            self._forget(tenant, job_id)

    async def _retry(self, stub: Any, tenant: str, job_id: str, rng: random.Random) -> None:
        request = pb.RetryExecutionsRequest(
            job_id=job_id, statuses=[_STATUS.Value("FAILED"), _STATUS.Value("REJECTED")]
        )
        await self._call(stub.RetryExecutions, request, tenant, job_id, rng)

    async def _cancel_execution(
        self, stub: Any, tenant: str, job_id: str, rng: random.Random
    ) -> None:
        request = pb.CancelExecutionRequest(
            job_id=job_id, device_id=rng.choice(device_names()), force=rng.random() < 0.5
        )
        await self._call(stub.CancelExecution, request, tenant, job_id, rng)

    async def _delete(self, stub: Any, tenant: str, job_id: str, rng: random.Random) -> None:
        self._history.deleted.add((tenant, job_id))
        request = pb.DeleteJobRequest(job_id=job_id)
        response, reason = await self._call(stub.DeleteJob, request, tenant, job_id, rng)
        if response is not None or reason == "JOB_NOT_FOUND":
            self._forget(tenant, job_id)

    def _forget(self, tenant: str, job_id: str) -> None:
        if job_id in self._jobs[tenant]:
            self._jobs[tenant].remove(job_id)

    async def _device(self, tenant: str, rng: random.Random) -> None:
        """Work on the next execution of a random device."""
        device = rng.choice(device_names())
        stub = self._system.devices(rng.randrange(2))
        response, _ = await self._call(
            stub.StartNextExecution,
            device_pb.StartNextExecutionRequest(),
            tenant,
            device,
            rng,
            device=device,
        )
        if response is None or not response.HasField("execution"):
            await asyncio.sleep(rng.uniform(0, 0.1))
            return
        execution = response.execution
        await self._finish(stub, tenant, device, execution, rng)

    async def _finish(
        self,
        stub: Any,
        tenant: str,
        device: str,
        execution: device_pb.DeviceExecution,
        rng: random.Random,
    ) -> None:
        status = rng.choice(_FINAL)
        request = device_pb.UpdateExecutionRequest(
            job_id=execution.job_id,
            status=_STATUS.Value(status),
            execution_number=execution.execution_number,
        )
        for _ in range(5):
            response, reason = await self._call(
                stub.UpdateExecution, request, tenant, execution.job_id, rng, device=device
            )
            if response is not None:
                self._acknowledge(tenant, device, execution, status)
                return
            if reason not in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "DATABASE_UNAVAILABLE"):
                return

    def _acknowledge(
        self, tenant: str, device: str, execution: device_pb.DeviceExecution, status: str
    ) -> None:
        key = tenant, execution.job_id, device, execution.execution_number
        self._history.reported[key] = status
        self._history.note(execution.job_id, f"{device} reported {status} of {key[3]}")

    async def _stream_device(self, tenant: str, rng: random.Random) -> None:
        """Work on executions and report over one stream, which reconnects by itself."""
        server = rng.randrange(2)
        stub = self._system.devices(server)
        target = self._system.servers[server].environ["JOBS_LISTEN"]
        async with DeviceClient(target, tenant=tenant) as client:
            try:
                async with client.report_stream() as stream:
                    for _ in range(20):
                        if self._stopping.is_set():
                            return
                        device = rng.choice(device_names())
                        response, _ = await self._call(
                            stub.StartNextExecution,
                            device_pb.StartNextExecutionRequest(),
                            tenant,
                            device,
                            rng,
                            device=device,
                        )
                        if response is None or not response.HasField("execution"):
                            continue
                        status = rng.choice(_FINAL)
                        update = device_pb.UpdateExecutionRequest(
                            job_id=response.execution.job_id,
                            status=_STATUS.Value(status),
                            execution_number=response.execution.execution_number,
                        )
                        try:
                            await stream.report(update, device_id=device)
                        except JobsError as e:
                            self._history.calls[f"stream {type(e).__name__}"] += 1
                        else:
                            self._history.calls["stream OK"] += 1
                            self._acknowledge(tenant, device, response.execution, status)
            except JobsError as e:
                self._history.calls[f"stream ended {type(e).__name__}"] += 1

    async def _rest_client(self, tenant: str, rng: random.Random) -> None:
        """Create a job over REST, read it, and cancel it."""
        job_id = f"rest-{next(self._numbers)}"
        body = {"job_id": job_id, "document_type": "reboot", "target_group_id": rng.choice(GROUPS)}
        response = await self._request("POST", "", tenant, job_id, rng, json=body)
        if response is not None and response.status_code == 201:
            self._history.created[tenant, job_id] = DEVICES_PER_TENANT // len(GROUPS)
        await self._request("GET", f"/{job_id}", tenant, job_id, rng)
        await self._request("GET", "?limit=5", tenant, job_id, rng)
        response = await self._request("DELETE", f"/{job_id}", tenant, job_id, rng)
        if response is not None and response.status_code == 200:
            self._history.canceled.add((tenant, job_id))
        await asyncio.sleep(rng.uniform(0, 0.1))

    async def _request(
        self, method: str, path: str, tenant: str, job_id: str, rng: random.Random, **options: Any
    ) -> httpx.Response | None:
        try:
            response = await self._system.http.request(
                method,
                f"/customer/jobs{path}",
                headers={"X-Tenant-Id": tenant},
                timeout=rng.uniform(0.2, 2),
                **options,
            )
        except httpx.TransportError as e:
            self._history.disconnected(f"{method} {path}", e)
            await asyncio.sleep(rng.uniform(0, 0.2))
            return None
        self._history.responded(f"{method} {path}", job_id, response)
        return response


async def _repeat(
    stopping: asyncio.Event,
    worker: Callable[[str, random.Random], Awaitable[None]],
    tenant: str,
    rng: random.Random,
) -> None:
    while not stopping.is_set():
        await worker(tenant, rng)


def _random_job(job_id: str, rng: random.Random) -> pb.CreateJobRequest:
    request = pb.CreateJobRequest(job_id=job_id, document_type="reboot")
    kind = rng.random()
    if kind < 0.2:
        request.target_device_id = rng.choice(device_names())
    elif kind < 0.6:
        request.target_group_id = rng.choice(GROUPS)
    else:
        request.target_all = True
    if kind > 0.3 and rng.random() < 0.5:
        request.rollout.stages.add(percent=20)
        request.rollout.stages.add(remainder=True)
        request.rollout.max_in_progress = rng.randint(3, 20)
        if rng.random() < 0.5:
            request.rollout.stages[1].releases_per_minute = 600
    if rng.random() < 0.4:
        request.failure_criteria.add(percent=rng.randint(20, 60), min_finished=5)
    return request
