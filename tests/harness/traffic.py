"""The traffic: operators, devices, REST clients and changes of the directory, all at random."""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import httpx
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import fleet_pb2 as fleet_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict

from jobs_grpc.client import DeviceClient, JobsError, RetryPolicy
from jobs_grpc.client.errors import from_rpc_error
from tests.harness.calls import method_of
from tests.harness.history import is_refusal
from tests.harness.ledger import CHANGES, UNCHANGED, Ledger
from tests.harness.requests import (
    DEVICES,
    RINGS,
    SIZES,
    TEMPORARY,
    all_reads,
    random_changes,
    random_job,
)
from tests.harness.system import GROUPS, TENANTS, System, device_names
from tests.support.waiting import TIMEOUT, wait_until_true

_MAX_OPEN_JOBS = 12  # of each tenant
_SHORT_DEADLINE_SHARE = 0.05  # The share of calls that have a very short deadline.
_ETAG_SHARE = 0.3  # The share of changes that are made only if the job has the last etag.
_ACKNOWLEDGED_SHARE = 0.7  # The share of attempts whose end by others a device acknowledges.
_DEVICES_PER_CALL = 5
_DEVICES_PER_START = 3
# By then, a call that failed for its client, such as one of a frozen server, has ended.
_MAX_RUNNING_SECONDS = 60
_FINAL = ("SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "FAILED", "REJECTED")
_STATUS = pb.JobExecution.Status
_REST_CHANGES = {"POST": "CreateJob", "DELETE": "CancelJob"}
# After these reasons, an operator leaves a job alone.
_GONE = ("JOB_NOT_FOUND", "JOB_NOT_CANCELABLE")
_GONE_UNCHANGED = ("JOB_NOT_PAUSABLE", "JOB_NOT_UPDATABLE")

METHODS = CHANGES | {
    *("GetJob", "ListJobs", "ListJobExecutions", "ListExecutionAttempts", "ExplainExecution"),
    *("GetFailureSummary", "GetJobTimeline", "ListJobEvents", "WatchJob", "PreviewTarget"),
    *("UpdateDevices", "DeleteDevices", "StartNextExecution", "StartExecution"),
    *("UpdateExecution", "GetExecution", "ListPendingExecutions", "WatchPendingExecutions"),
    "ReportExecutions",
}
"""The methods that the traffic calls all the time."""

Worker = Callable[[str, random.Random], Awaitable[None]]
"""Does a piece of work of a tenant."""


class Traffic:
    """Keeps calling the servers and the gateway until `stop`.

    Deadlines are short, and some are very short, unless the ledger is strict.
    """

    def __init__(
        self,
        system: System,
        ledger: Ledger,
        *,
        seed: int = 0,
        devices: int = 3,
        pause: float = 0.0,
    ) -> None:
        """Keep 4 × `devices` devices busy at a time.

        Devices and REST clients wait up to `pause` seconds after each execution or job.
        """
        self._system = system
        self._ledger = ledger
        self._seed = seed
        self._devices = devices
        self._pause = pause
        self._stopping = asyncio.Event()
        self._numbers = itertools.count(1)
        # Jobs that a client may still change.
        self._jobs: dict[str, list[str]] = {tenant: [] for tenant in TENANTS}
        self._etags: dict[tuple[str, str], str] = {}
        """The etags that the last responses had."""

    async def run(self) -> None:
        """Run all clients until `stop`, then let them finish their work."""
        self._stopping.clear()
        async with asyncio.TaskGroup() as clients:
            numbers = itertools.count(self._seed * 1000)
            for tenant in TENANTS:
                workers: list[Worker] = [
                    *(self._operator, self._operator, self._reader, self._job_watcher),
                    *[self._device, self._device, self._watching_device] * self._devices,
                    *[self._stream_device] * self._devices,
                    *(self._rest_client, self._directory),
                ]
                for worker in workers:
                    rng = random.Random(next(numbers))  # noqa: S311 - repeatable on purpose
                    clients.create_task(self._repeat(worker, tenant, rng))

    def stop(self) -> None:
        self._stopping.set()

    async def flow(self, times: int = 1) -> None:
        """Return when each server has answered each method again, so many times.

        Raises AssertionError if a strict ledger has a problem, or if a method is not answered.
        """
        expected = {(server, method) for server in range(2) for method in METHODS}
        for _ in range(times):
            self._ledger.answers.clear()
            with suppress(AssertionError):
                await wait_until_true(
                    lambda: expected <= self._ledger.answers or bool(self._ledger.problems)
                )
            assert not self._ledger.problems, dict(self._ledger.examples)
            missing = expected - self._ledger.answers
            assert not missing, f"the servers do not answer {sorted(missing)}"

    async def _repeat(self, worker: Worker, tenant: str, rng: random.Random) -> None:
        while not self._stopping.is_set():
            await worker(tenant, rng)

    def _server(self, method: str, rng: random.Random) -> int:
        """Return a random server, or the one that has still to answer the method."""
        missing = [server for server in range(2) if (server, method) not in self._ledger.answers]
        return missing[0] if len(missing) == 1 else rng.randrange(2)

    def _must_switch_server(self, server: int, method: str) -> bool:
        """Whether only the other server has still to answer the method."""
        answers = self._ledger.answers
        return (server, method) in answers and (1 - server, method) not in answers

    def _deadline(self, rng: random.Random) -> float:
        if self._ledger.is_strict:
            return TIMEOUT
        # Some deadlines are about as long as a call takes.
        is_short = rng.random() < _SHORT_DEADLINE_SHARE
        return rng.uniform(0.001, 0.05) if is_short else rng.uniform(0.1, 2)

    async def _call(
        self, request: Any, tenant: str, rng: random.Random, *, device: str = ""
    ) -> tuple[Any, str]:
        """Make a call on a random server. Return its response, or None and its reason."""
        method = method_of(request)
        server = self._server(method, rng)
        subject = getattr(request, "job_id", "") or device or method
        user = self._ledger.begin(method, tenant, subject) if method in CHANGES else ""
        started = time.monotonic()
        try:
            response = await self._system.calls[server].call(
                request, tenant, user=user, device=device, deadline=self._deadline(rng)
            )
        except JobsError as e:
            self._ledger.failed(server, method, subject, e, started)
            if user and is_refusal(e):
                self._ledger.end(user, accepted=False)
            await asyncio.sleep(rng.uniform(0, 0.2))
            return None, e.reason or e.code.name
        self._ledger.answered(server, method)
        if isinstance(job := getattr(response, "job", None), pb.Job):
            self._etags[tenant, job.job_id] = job.etag
        if user:
            changes = method != "RetryExecutions" or response.retried_count > 0
            self._ledger.end(user, accepted=True, changes=changes)
            self._ledger.note(subject, f"{method}: accepted")
        return response, ""

    async def _operator(self, tenant: str, rng: random.Random) -> None:
        jobs = self._jobs[tenant]
        if len(jobs) < _MAX_OPEN_JOBS:
            await self._create(tenant, rng)
        else:
            job_id = rng.choice(jobs)
            for request in random_changes(job_id, rng):
                if "etag" in request.DESCRIPTOR.fields_by_name and rng.random() < _ETAG_SHARE:
                    request.etag = self._etags.get((tenant, job_id), "")
                response, reason = await self._call(request, tenant, rng)
                is_unchanged = job_id.startswith(UNCHANGED)
                is_last = is_unchanged or method_of(request) in ("CancelJob", "DeleteJob")
                is_gone = reason in _GONE or (is_unchanged and reason in _GONE_UNCHANGED)
                if (is_gone or (is_last and response is not None)) and job_id in jobs:
                    jobs.remove(job_id)
        await asyncio.sleep(rng.uniform(0, 0.05))

    async def _reader(self, tenant: str, rng: random.Random) -> None:
        if self._jobs[tenant]:
            for request in all_reads(rng.choice(self._jobs[tenant]), rng):
                await self._call(request, tenant, rng)
        await asyncio.sleep(rng.uniform(0.2, 0.6))

    async def _create(self, tenant: str, rng: random.Random) -> None:
        (prefix,) = rng.choices(("job-", *UNCHANGED), weights=(8, 1, 1))
        request = random_job(f"{prefix}{next(self._numbers)}", rng)
        size = SIZES.get(request.WhichOneof("target") or "")
        if self._ledger.is_strict:
            # Servers of an earlier version, after a rollback, do not know START_NOT_APPROVED.
            request.require_start_approval = False
        others = [job for job in self._jobs[tenant] if not job.startswith(UNCHANGED)]
        if others and not (request.require_start_approval or request.HasField("start_at")):
            request.replaces_job_id = rng.choice(others) if rng.random() < 0.2 else ""
        if request.HasField("target_selector") and rng.random() < 0.5:
            preview = fleet_pb.PreviewTargetRequest(target_selector=request.target_selector)
            if request.HasField("rollout"):
                preview.rollout.CopyFrom(request.rollout)
            found, _ = await self._call(preview, tenant, rng)
            if found is not None:
                request.expected_target_digest = found.preview.target_digest
                size = found.preview.device_count
        # Each call has the same id, so a repeated call returns the existing job.
        for _ in range(20):
            response, reason = await self._call(request, tenant, rng)
            if response is not None:
                self._ledger.sizes[tenant, request.job_id] = size or response.execution_count
                self._jobs[tenant].append(request.job_id)
                return
            # The directory changes all the time.
            gone = ("TARGET_EMPTY", "TARGET_CHANGED", "JOB_NOT_FOUND", "TOO_MANY_CONTINUOUS_JOBS")
            if reason in gone or self._stopping.is_set():
                return

    async def _device(self, tenant: str, rng: random.Random) -> None:
        """Work on the next execution of a random device."""
        device = rng.choice(DEVICES)
        if not await self._work(tenant, device, rng):
            listed = device_pb.ListPendingExecutionsRequest()
            response, _ = await self._call(listed, tenant, rng, device=device)
            await self._acknowledge_ended(response, tenant, device, rng)
            facts = device_pb.UpdateFactsRequest(facts={"version": rng.choice("12")})
            await self._call(facts, tenant, rng, device=device)
            await asyncio.sleep(rng.uniform(0, 0.1 + self._pause))

    async def _work(self, tenant: str, device: str, rng: random.Random) -> bool:
        """Start an execution of a device and report its end. Return false without one."""
        start: Any = device_pb.StartNextExecutionRequest()
        if self._jobs[tenant] and rng.random() < 0.3:
            # Also one that must not start now.
            start = device_pb.StartExecutionRequest(job_id=rng.choice(self._jobs[tenant]))
        response, _ = await self._call(start, tenant, rng, device=device)
        await self._acknowledge_ended(response, tenant, device, rng)
        if response is None or not response.HasField("execution"):
            return False
        execution = response.execution
        if rng.random() < 0.2:
            read = device_pb.GetExecutionRequest(job_id=execution.job_id)
            response, _ = await self._call(read, tenant, rng, device=device)
            if response is not None:
                execution.cancel_requested = response.execution.cancel_requested
        report, status = _final_report(execution, rng)
        for _ in range(5):
            response, reason = await self._call(report, tenant, rng, device=device)
            if response is not None:
                self._acknowledge(tenant, device, execution, status)
                break
            if reason not in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "DATABASE_UNAVAILABLE"):
                break
        await asyncio.sleep(rng.uniform(0, self._pause))
        return True

    async def _acknowledge_ended(
        self, response: Any, tenant: str, device: str, rng: random.Random
    ) -> None:
        """Acknowledge the attempts that others ended, as a response says, or leave it for later."""
        ended = getattr(response, "ended_executions", ())
        if ended and rng.random() < _ACKNOWLEDGED_SHARE:
            known = device_pb.AcknowledgeExecutionsRequest(executions=ended)
            await self._call(known, tenant, rng, device=device)

    def _acknowledge(
        self, tenant: str, device: str, execution: device_pb.DeviceExecution, status: str
    ) -> None:
        key = tenant, execution.job_id, device, execution.execution_number
        self._ledger.reported[key], self._ledger.reported_at[key] = status, self._ledger.now()
        self._ledger.note(execution.job_id, f"{device} reported {status} of {key[3]}")

    async def _watching_device(self, tenant: str, rng: random.Random) -> None:
        """Watch a device for a while, and work off the executions that are pending."""
        device = rng.choice(DEVICES)

        async def work(message: device_pb.WatchPendingExecutionsResponse) -> None:
            await self._acknowledge_ended(message, tenant, device, rng)
            while message.executions and await self._work(tenant, device, rng):
                if self._stopping.is_set():
                    return

        request = device_pb.WatchPendingExecutionsRequest()
        await self._watch(request, tenant, rng, work, device=device)

    async def _job_watcher(self, tenant: str, rng: random.Random) -> None:
        async def ignore(_: Any) -> None:
            pass

        if self._jobs[tenant]:
            request = pb.WatchJobRequest(job_id=rng.choice(self._jobs[tenant]))
            await self._watch(request, tenant, rng, ignore)
        await asyncio.sleep(rng.uniform(0, 0.1))

    async def _watch(
        self,
        request: Any,
        tenant: str,
        rng: random.Random,
        handle: Callable[[Any], Awaitable[None]],
        device: str = "",
    ) -> None:
        method, started = method_of(request), time.monotonic()
        server = self._server(method, rng)
        stream = self._system.streams[server].stream(request, tenant, device=device)
        end = started + rng.uniform(0.1, 4)
        try:
            while (left := end - time.monotonic()) > 0 and not self._stopping.is_set():
                message = await asyncio.wait_for(stream.read(), left)
                if message is grpc.aio.EOF:
                    return
                self._ledger.answered(server, method)
                await handle(message)
        except TimeoutError:
            return
        except grpc.aio.AioRpcError as e:
            self._ledger.failed(server, method, "watches", from_rpc_error(e), started)
            await asyncio.sleep(rng.uniform(0, 0.2))
        finally:
            stream.cancel()

    async def _stream_device(self, tenant: str, rng: random.Random) -> None:
        """Work on executions and report over one stream, which reconnects by itself."""
        method, opened = "ReportExecutions", time.monotonic()
        server = self._server(method, rng)
        target = self._system.servers[server].environ["JOBS_LISTEN"]

        def check(error: JobsError) -> None:
            self._ledger.failed(server, method, "streams", error, opened)

        retry = RetryPolicy(on_retry=check)
        async with DeviceClient(target, tenant=tenant, retry=retry) as client:
            try:
                async with client.report_stream() as stream:
                    for _ in range(8):
                        if self._stopping.is_set() or self._must_switch_server(server, method):
                            return
                        await asyncio.sleep(rng.uniform(0, self._pause))
                        for device, execution in await self._start_some(tenant, rng):
                            report, status = _final_report(execution, rng)
                            try:
                                with self._recorded(report, tenant, device) as answers:
                                    answers.append(await stream.report(report, device_id=device))
                            except JobsError as e:
                                check(e)
                            else:
                                self._ledger.answered(server, method)
                                self._acknowledge(tenant, device, execution, status)
            except JobsError as e:
                check(e)

    async def _start_some(
        self, tenant: str, rng: random.Random
    ) -> list[tuple[str, device_pb.DeviceExecution]]:
        """Start the next executions of some devices with one call."""
        devices = rng.sample(DEVICES, _DEVICES_PER_START)
        if self._ledger.is_strict:
            # Servers of an earlier version do not know StartNextExecutions.
            start: Any = device_pb.StartNextExecutionRequest()
            result, _ = await self._call(start, tenant, rng, device=devices[0])
            results = [result] if result else []
        else:
            start = device_pb.StartNextExecutionsRequest(device_ids=devices)
            response, _ = await self._call(start, tenant, rng)
            results = response.results if response else []
        started = []
        for device, result in zip(devices, results, strict=False):
            await self._acknowledge_ended(result, tenant, device, rng)
            if result.HasField("execution"):
                started.append((device, result.execution))
        return started

    async def _rest_client(self, tenant: str, rng: random.Random) -> None:
        """Create a job over REST, read it, and cancel it."""
        job_id = f"rest-{next(self._numbers)}"
        body = {"job_id": job_id, "document_type": "reboot", "target_group_id": rng.choice(GROUPS)}
        get, cancel = pb.GetJobRequest(job_id=job_id), pb.CancelJobRequest(job_id=job_id)
        with self._recorded(ParseDict(body, pb.CreateJobRequest()), tenant) as answers:
            response = await self._request("POST", "", tenant, job_id, rng, json=body)
            if response is not None and response.status_code == 201:
                self._ledger.sizes[tenant, job_id] = SIZES["target_group_id"]
                answers.append(pb.CreateJobResponse())
        with self._recorded(get, tenant) as answers:
            response = await self._request("GET", f"/{job_id}", tenant, job_id, rng)
            if response is not None and response.is_success:
                # REST has a field for each kind of target; a message can have only one.
                body = {k: v for k, v in response.json().items() if not k.startswith("target")}
                job = ParseDict(body, pb.Job(), ignore_unknown_fields=True)
                answers.append(pb.GetJobResponse(job=job))
        await self._request("GET", "?limit=5", tenant, job_id, rng)
        with self._recorded(cancel, tenant) as answers:
            response = await self._request("DELETE", f"/{job_id}", tenant, job_id, rng)
            if response is not None and response.is_success:
                answers.append(pb.CancelJobResponse())
        await asyncio.sleep(rng.uniform(0, 0.1 + self._pause))

    @contextmanager
    def _recorded(self, request: Any, tenant: str, device: str = "") -> Iterator[list[Any]]:
        """Record the call that the block makes. It appends the response, if it gets one.

        A refusal is recorded as a missing answer: the gateway and the client repeat calls.
        """
        history, answers = self._system.history, list[Any]()
        recorded = history and history.begin(request, tenant, device)
        try:
            yield answers
        finally:
            if recorded and answers:
                recorded.answer(answers[0])
            elif recorded:
                recorded.lose()

    async def _request(
        self, method: str, path: str, tenant: str, job_id: str, rng: random.Random, **options: Any
    ) -> httpx.Response | None:
        headers, user, started = {"X-Tenant-Id": tenant}, "", time.monotonic()
        if rpc := _REST_CHANGES.get(method):
            headers["X-User-Id"] = user = self._ledger.begin(rpc, tenant, job_id)
        url, deadline = f"/customer/jobs{path}", self._deadline(rng)
        try:
            response = await self._system.http.request(
                method, url, headers=headers, timeout=deadline, **options
            )
        except httpx.TransportError as e:
            self._ledger.disconnected(f"{method} {path}", e)
            await asyncio.sleep(rng.uniform(0, 0.2))
            return None
        self._ledger.responded(f"{method} {path}", job_id, response, started)
        if user and response.status_code < 500:
            self._ledger.end(user, accepted=response.is_success)
        return response

    async def _directory(self, tenant: str, rng: random.Random) -> None:
        """Change the labels of devices, register devices, or delete some."""
        # Without a user, whom the events of ended executions would name.
        ring: str | None = rng.choice(RINGS)
        request: Any
        if rng.random() < 0.3:
            names, ring = rng.sample(TEMPORARY, 2), None
            request = fleet_pb.DeleteDevicesRequest(device_ids=names)
        else:
            is_new = rng.random() < 0.4
            names = rng.sample(TEMPORARY if is_new else device_names(), _DEVICES_PER_CALL)
            request = fleet_pb.UpdateDevicesRequest(
                devices=[_device(name, ring) for name in names],
                update_mask=FieldMask(paths=["labels"]),
                allow_missing=is_new,
            )
        started = time.monotonic()
        response, _ = await self._call(request, tenant, rng)
        for name in names:
            possible = self._ledger.possible_rings[tenant, name]
            if response is None:
                possible[ring] = time.monotonic()
            else:
                self._ledger.rings[tenant, name] = ring
                self._ledger.possible_rings[tenant, name] = {
                    each: failed
                    for each, failed in possible.items()
                    if failed > started - _MAX_RUNNING_SECONDS
                }
        await asyncio.sleep(rng.uniform(0.02, 0.2))


def _device(name: str, ring: str | None) -> fleet_pb.Device:
    return fleet_pb.Device(device_id=name, labels={"ring": ring or ""})


def _final_report(
    execution: device_pb.DeviceExecution, rng: random.Random
) -> tuple[device_pb.UpdateExecutionRequest, str]:
    """Return a report of the end of an execution, and the status that it reports."""
    status = rng.choice(_FINAL)
    accepts_cancel = execution.cancel_requested and rng.random() < 0.5
    if accepts_cancel:
        status = "REJECTED"
    return (
        device_pb.UpdateExecutionRequest(
            job_id=execution.job_id,
            status=_STATUS.Value(status),
            execution_number=execution.execution_number,
            cancel_accepted=accepts_cancel,
        ),
        status,
    )
