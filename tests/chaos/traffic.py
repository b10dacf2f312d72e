"""The traffic of a trial: operators, devices and REST clients, all with short deadlines."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import httpx
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import fleet_pb2 as fleet_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from jobs_grpc.client import DeviceClient, JobsError, RetryPolicy
from jobs_grpc.client.errors import from_rpc_error
from tests.chaos.directory import RINGS, TEMPORARY, change_directory
from tests.chaos.history import History
from tests.chaos.system import DEVICES_PER_TENANT, GROUPS, TENANTS, System, device_names

_OPERATORS = 2  # of each tenant
_DEVICE_WORKERS = 6  # of each tenant; each call acts for a random device
_STREAM_WORKERS = 2  # of each tenant
_MAX_OPEN_JOBS = 12  # of each operator
_SHORT_DEADLINE_SHARE = 0.05  # The share of calls that have a very short deadline.
_FINAL = ("SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "FAILED", "REJECTED")
_REJECTED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
)
_STATUS = pb.JobExecution.Status
_A_DAY = Duration(seconds=24 * 3600)
_OPEN = pb.StartWindow(start_time="00:00", duration=_A_DAY)
_DEVICES = [*device_names(), *TEMPORARY]
_LISTED = 10
_SELECTORS = (*(f"ring={ring}" for ring in RINGS), "ring!=a,group=south", "group in (north,south)")
# The numbers of executions of targets that no change of the directory changes.
_SIZES = {
    "target_device_id": 1,
    "target_device_ids": _LISTED,
    "target_group_id": DEVICES_PER_TENANT // len(GROUPS),
}
_CHANGES = {"POST": "CreateJob", "DELETE": "CancelJob"}
_ACTIONS = (pb.FailureCriterion.PAUSE, pb.FailureCriterion.PAUSE, pb.FailureCriterion.CANCEL)


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
                    self._directory,
                ]
                for worker in workers:
                    rng = random.Random(next(numbers))  # noqa: S311 - repeatable on purpose
                    clients.create_task(_repeat(self._stopping, worker, tenant, rng))

    def stop(self) -> None:
        """Make the clients stop."""
        self._stopping.set()

    async def _call(
        self,
        server: int,
        request: Any,
        tenant: str,
        subject: str,
        rng: random.Random,
        *,
        device: str = "",
    ) -> tuple[Any, str]:
        """Make a call with a short deadline. Return its response, or None and its reason."""
        method = type(request).__name__.removesuffix("Request")
        stub = self._system.devices(server) if device else self._system.jobs(server)
        user = "" if device else self._history.begin(method, tenant, subject)
        caller = ("x-device-id", device) if device else ("x-user-id", user)
        metadata = [("x-tenant-id", tenant), caller]
        timeout = _short_deadline(rng)
        try:
            response = await getattr(stub, method)(request, metadata=metadata, timeout=timeout)
        except grpc.aio.AioRpcError as e:
            error = from_rpc_error(e)
            self._history.failed(server, method, subject, error, e.debug_error_string())
            if user and error.code in _REJECTED:
                self._history.end(user, accepted=False)
            await asyncio.sleep(rng.uniform(0, 0.2))
            return None, error.reason or error.code.name
        self._history.answered()
        if user:
            changes = method != "RetryExecutions" or response.retried_count > 0
            self._history.end(user, accepted=True, changes=changes)
        return response, ""

    async def _operator(self, tenant: str, rng: random.Random) -> None:
        """Make one change of a job."""
        jobs = self._jobs[tenant]
        server = rng.randrange(2)
        if len(jobs) < _MAX_OPEN_JOBS:
            await self._create(server, tenant, rng)
        elif (job_id := rng.choice(jobs)).startswith("keep"):
            await self._pause_permanently(server, tenant, job_id, rng)
        elif job_id.startswith("closed"):
            await self._close_windows(server, tenant, job_id, rng)
        else:
            actions = {
                self._cancel: 3,
                self._pause: 3,
                self._open_stage: 3,
                self._update: 1,
                self._change_windows: 3,
                self._retry: 3,
                self._cancel_execution: 3,
                self._delete: 1,
            }
            (action,) = rng.choices(list(actions), weights=list(actions.values()))
            await action(server, tenant, job_id, rng)
        await asyncio.sleep(rng.uniform(0, 0.05))

    async def _create(self, server: int, tenant: str, rng: random.Random) -> None:
        # A job named keep-… is paused and never resumed. The start windows of a job named closed-…
        # are closed and never opened again.
        (kind,) = rng.choices(("job", "keep", "closed"), weights=(8, 1, 1))
        job_id = f"{kind}-{next(self._numbers)}"
        request = _random_job(job_id, rng)
        if kind == "closed":
            request.start_windows.append(_OPEN)
            request.never_expires = True
        size = _SIZES.get(request.WhichOneof("target") or "")
        if request.HasField("target_selector") and rng.random() < 0.5:
            preview = await self._preview(server, request, tenant, rng)
            if preview:
                request.expected_target_digest, size = preview.target_digest, preview.device_count
        # Each call has the same id, so a repeated call returns the existing job.
        for _ in range(20):
            response, reason = await self._call(server, request, tenant, job_id, rng)
            if response is not None:
                self._history.created[tenant, job_id] = size or response.execution_count
                self._history.note(job_id, "created")
                self._jobs[tenant].append(job_id)
                return
            # The directory changes all the time.
            if reason in ("TARGET_EMPTY", "TARGET_CHANGED") or self._stopping.is_set():
                return

    async def _preview(
        self, server: int, job: pb.CreateJobRequest, tenant: str, rng: random.Random
    ) -> pb.TargetPreview | None:
        request = fleet_pb.PreviewTargetRequest(target_selector=job.target_selector)
        if job.HasField("rollout"):
            request.rollout.CopyFrom(job.rollout)
        call = self._system.fleet(server).PreviewTarget
        metadata = [("x-tenant-id", tenant)]
        try:
            response = await call(request, metadata=metadata, timeout=_short_deadline(rng))
        except grpc.aio.AioRpcError as e:
            error = from_rpc_error(e)
            self._history.failed(server, "PreviewTarget", "previews", error, e.debug_error_string())
            return None
        self._history.answered()
        return response.preview

    async def _cancel(self, server: int, tenant: str, job_id: str, rng: random.Random) -> None:
        request = pb.CancelJobRequest(job_id=job_id, force=rng.random() < 0.4)
        response, reason = await self._call(server, request, tenant, job_id, rng)
        if response is not None:
            self._history.add_stop(self._history.canceled, tenant, job_id)
            self._history.note(job_id, f"canceled, force={request.force}")
        if response is not None or reason in ("JOB_NOT_CANCELABLE", "JOB_NOT_FOUND"):
            self._forget(tenant, job_id)

    async def _pause(self, server: int, tenant: str, job_id: str, rng: random.Random) -> None:
        """Pause a job, resume it, or both."""
        if rng.random() < 0.7:
            await self._call(server, pb.PauseJobRequest(job_id=job_id), tenant, job_id, rng)
        if rng.random() < 0.7:
            await self._call(server, pb.ResumeJobRequest(job_id=job_id), tenant, job_id, rng)

    async def _pause_permanently(
        self, server: int, tenant: str, job_id: str, rng: random.Random
    ) -> None:
        request = pb.PauseJobRequest(job_id=job_id)
        response, reason = await self._call(server, request, tenant, job_id, rng)
        if response is not None:
            self._history.add_stop(self._history.paused, tenant, job_id)
            self._history.note(job_id, "paused")
        if response is not None or reason == "JOB_NOT_PAUSABLE":
            self._forget(tenant, job_id)

    async def _open_stage(self, server: int, tenant: str, job_id: str, rng: random.Random) -> None:
        """Approve a stage, open the next one, or both."""
        if rng.random() < 0.7:
            approve = pb.ApproveStageRequest(job_id=job_id, stage=rng.randrange(2))
            await self._call(server, approve, tenant, job_id, rng)
        if rng.random() < 0.7:
            advance = pb.AdvanceJobRequest(job_id=job_id, stage=rng.randint(1, 2))
            await self._call(server, advance, tenant, job_id, rng)

    async def _update(self, server: int, tenant: str, job_id: str, rng: random.Random) -> None:
        request = pb.UpdateJobRequest(job_id=job_id)
        request.failure_criteria.add(percent=rng.randint(20, 60), min_finished=5)
        request.update_mask.paths.append("failure_criteria")
        await self._call(server, request, tenant, job_id, rng)

    async def _change_windows(
        self, server: int, tenant: str, job_id: str, rng: random.Random
    ) -> None:
        """Open or close the start windows of a job. Another operator soon changes them again."""
        request = pb.UpdateJobRequest(job_id=job_id)
        request.start_windows.append(_OPEN if rng.random() < 0.6 else _closed_window())
        # It can be later than the expiry until the window opens.
        request.update_mask.paths.extend(("start_windows", "expires_at"))
        await self._call(server, request, tenant, job_id, rng)

    async def _close_windows(
        self, server: int, tenant: str, job_id: str, rng: random.Random
    ) -> None:
        request = pb.UpdateJobRequest(job_id=job_id, start_windows=[_closed_window()])
        request.update_mask.paths.append("start_windows")
        response, reason = await self._call(server, request, tenant, job_id, rng)
        if response is not None:
            self._history.add_stop(self._history.closed_windows, tenant, job_id)
            self._history.note(job_id, "start windows closed")
        if response is not None or reason == "JOB_NOT_UPDATABLE":
            self._forget(tenant, job_id)

    async def _retry(self, server: int, tenant: str, job_id: str, rng: random.Random) -> None:
        request = pb.RetryExecutionsRequest(
            job_id=job_id, statuses=[_STATUS.Value("FAILED"), _STATUS.Value("REJECTED")]
        )
        await self._call(server, request, tenant, job_id, rng)

    async def _cancel_execution(
        self, server: int, tenant: str, job_id: str, rng: random.Random
    ) -> None:
        request = pb.CancelExecutionRequest(
            job_id=job_id, device_id=rng.choice(_DEVICES), force=rng.random() < 0.5
        )
        await self._call(server, request, tenant, job_id, rng)

    async def _delete(self, server: int, tenant: str, job_id: str, rng: random.Random) -> None:
        self._history.deleted.add((tenant, job_id))
        request = pb.DeleteJobRequest(job_id=job_id)
        response, reason = await self._call(server, request, tenant, job_id, rng)
        if response is not None:
            self._history.removed.add((tenant, job_id))
            self._history.note(job_id, "deleted")
        if response is not None or reason == "JOB_NOT_FOUND":
            self._forget(tenant, job_id)

    def _forget(self, tenant: str, job_id: str) -> None:
        if job_id in self._jobs[tenant]:
            self._jobs[tenant].remove(job_id)

    async def _directory(self, tenant: str, rng: random.Random) -> None:
        deadline = _short_deadline(rng)
        await change_directory(self._system, self._history, tenant, rng, deadline)
        await asyncio.sleep(rng.uniform(0.02, 0.2))

    async def _device(self, tenant: str, rng: random.Random) -> None:
        """Work on the next execution of a random device."""
        device = rng.choice(_DEVICES)
        server = rng.randrange(2)
        response, _ = await self._call(
            server,
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
        await self._finish(server, tenant, device, execution, rng)

    async def _finish(
        self,
        server: int,
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
                server, request, tenant, execution.job_id, rng, device=device
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
        target = self._system.servers[server].environ["JOBS_LISTEN"]

        def check(error: JobsError) -> None:
            self._history.failed(server, "ReportExecutions", "streams", error)

        retry = RetryPolicy(on_retry=check)
        async with DeviceClient(target, tenant=tenant, retry=retry) as client:
            try:
                async with client.report_stream() as stream:
                    for _ in range(20):
                        if self._stopping.is_set():
                            return
                        device = rng.choice(_DEVICES)
                        response, _ = await self._call(
                            server,
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
                            check(e)
                        else:
                            self._history.calls["stream OK"] += 1
                            self._acknowledge(tenant, device, response.execution, status)
            except JobsError as e:
                check(e)

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
            self._history.add_stop(self._history.canceled, tenant, job_id)
        await asyncio.sleep(rng.uniform(0, 0.1))

    async def _request(
        self, method: str, path: str, tenant: str, job_id: str, rng: random.Random, **options: Any
    ) -> httpx.Response | None:
        headers, user = {"X-Tenant-Id": tenant}, ""
        if rpc := _CHANGES.get(method):
            headers["X-User-Id"] = user = self._history.begin(rpc, tenant, job_id)
        try:
            response = await self._system.http.request(
                method,
                f"/customer/jobs{path}",
                headers=headers,
                timeout=_short_deadline(rng),
                **options,
            )
        except httpx.TransportError as e:
            self._history.disconnected(f"{method} {path}", e)
            await asyncio.sleep(rng.uniform(0, 0.2))
            return None
        self._history.responded(f"{method} {path}", job_id, response)
        if user and response.status_code < 500:
            self._history.end(user, accepted=response.is_success)
        return response


def _short_deadline(rng: random.Random) -> float:
    # Some deadlines are about as long as a call takes.
    return rng.uniform(0.001, 0.05) if rng.random() < _SHORT_DEADLINE_SHARE else rng.uniform(0.1, 2)


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
    if kind < 0.15:
        request.target_device_id = rng.choice(device_names())
    elif kind < 0.4:
        request.target_group_id = rng.choice(GROUPS)
    elif kind < 0.5:
        request.target_device_ids.device_ids.extend(rng.sample(device_names(), _LISTED))
    elif kind < 0.75:
        request.target_selector = rng.choice(_SELECTORS)
    else:
        request.target_all = True
    if kind > 0.3 and rng.random() < 0.5:
        if rng.random() < 0.3:
            request.rollout.stages.add(selector=f"ring={rng.choice(RINGS)}", allow_empty=True)
        stage = request.rollout.stages.add(percent=20)
        if rng.random() < 0.5:
            stage.gate.min_succeeded_percent = rng.randint(20, 60)
            stage.gate.bake_time.seconds = rng.randint(0, 1)
            stage.gate.require_approval = rng.random() < 0.5
        request.rollout.stages.add(remainder=True)
        request.rollout.max_in_progress = rng.randint(3, 20)
        if rng.random() < 0.5:
            request.rollout.stages[-1].releases_per_minute = 600
    if rng.random() < 0.4:
        action = rng.choice(_ACTIONS)
        request.failure_criteria.add(percent=rng.randint(20, 60), min_finished=5, action=action)
    if rng.random() < 0.3:
        request.start_at.FromDatetime(datetime.now(UTC) + timedelta(seconds=rng.uniform(0, 4)))
    if rng.random() < 0.3:
        # The other final statuses are random, too, so most failures recover.
        request.retry_policy.rules.add(
            max_attempts=rng.randint(2, 4),
            initial_backoff=Duration(seconds=1),
            max_backoff=Duration(seconds=2),
        )
    request.execution_events = rng.random() < 0.4
    request.priority = rng.choice((pb.Job.LOW, pb.Job.NORMAL, pb.Job.HIGH))
    return request


def _closed_window() -> pb.StartWindow:
    """A window that opens on another day of the week."""
    day = datetime.now(UTC) + timedelta(days=3)
    return pb.StartWindow(
        days=[pb.StartWindow.Day.values()[day.isoweekday()]], start_time="12:00", duration=_A_DAY
    )
