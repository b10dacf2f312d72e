"""The devices: a bridge starts and reports for most of them; the others make their own calls."""

import time
from collections.abc import Sequence
from typing import Any

from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1 import error_reason_pb2
from fleet.jobs.v1.jobs_pb2 import JobExecution

from bench.year import fleet
from bench.year.calls import Callers
from bench.year.ledger import LedgerJob
from tests.harness.calls import metadata
from tests.model.device_calls import queue_key

_BATCH = 100
_STATUS = JobExecution.Status
# A failure criterion that trips stops devices that were about to start.
_STOPPED = ("JOB_PAUSED", "EXECUTION_FINISHED")
_MAX_STARTS = 8

Work = tuple[LedgerJob, str]
"""A job, and a device that carries it out."""


async def act(calls: Callers, tenant: str) -> None:
    """Let all devices of a tenant act that may start an execution."""
    bridged: list[Work] = []
    calling: set[str] = set()
    for job in calls.ledger.open_jobs(tenant):
        for device_id in job.ready():
            if job.devices[device_id].calls_itself:
                calling.add(device_id)
            elif _result(job, device_id)[0] == fleet.STAYS_OFFLINE:
                job.offline.add(device_id)
            else:
                bridged.append((job, device_id))
    if bridged:
        await _act_by_bridge(calls, tenant, bridged)
    removed = calls.ledger.directories[tenant].removed
    for device_id in sorted(calling - removed):
        await _act_alone(calls, tenant, device_id)
    # Last, so that no device joins a job, and starts it, before the ledger knows.
    await _report_facts(calls, tenant)


async def _report_facts(calls: Callers, tenant: str) -> None:
    directory = calls.ledger.directories[tenant]
    bridged = []
    for device_id, version in directory.unreported.items():
        facts = {"version": version}
        if directory.by_id[device_id].calls_itself:
            request = pb.UpdateFactsRequest(facts=facts)
            _store_facts(calls, tenant, [device_id], await calls.device(tenant, device_id, request))
        else:
            bridged.append(pb.DeviceFacts(device_id=device_id, facts=facts))
    for first in range(0, len(bridged), _BATCH):
        batch = bridged[first : first + _BATCH]
        answer = await calls.device(tenant, "", pb.UpdateFactsRequest(devices=batch))
        _store_facts(calls, tenant, [each.device_id for each in batch], answer)
    directory.unreported.clear()


def _store_facts(
    calls: Callers, tenant: str, device_ids: Sequence[str], answer: tuple[Any, str]
) -> None:
    """Record the facts of devices, unless an answer refuses them."""
    response, reason = answer
    if response is None or any(result.HasField("error") for result in response.results):
        calls.ledger.problem("facts are refused", f"{tenant} {device_ids}: {reason} {response}")
        return
    directory = calls.ledger.directories[tenant]
    for device_id in device_ids:
        directory.set_value(device_id, "fact.version", directory.unreported[device_id])
    calls.ledger.done["facts reported"] += len(device_ids)


def _finish(calls: Callers, job: LedgerJob, device_id: str, status: str, code: str) -> None:
    """Record an acknowledged end. A device reports the version that it has installed."""
    job.report(device_id, status, code, calls.ledger.now())
    if job.kind == "firmware" and status == "SUCCEEDED":
        version = job.job_id.removeprefix("firmware-")
        calls.ledger.directories[job.tenant].unreported[device_id] = version


def _result(job: LedgerJob, device_id: str) -> tuple[str, str]:
    return fleet.result(
        *(job.kind, job.job_id, job.devices[device_id], job.executions[device_id].number),
        bad=job.is_bad,
    )


async def _act_by_bridge(calls: Callers, tenant: str, work: Sequence[Work]) -> None:
    stream = calls.calls.method("ReportExecutions")(metadata=metadata(tenant))
    for first in range(0, len(work), _BATCH):
        batch = work[first : first + _BATCH]
        starts = [_report(job, device_id, "IN_PROGRESS", "") for job, device_id in batch]
        started: list[tuple[Work, tuple[str, str]]] = []
        for (job, device_id), answer in zip(batch, await _send(calls, stream, starts), strict=True):
            if _is_accepted(calls, job, device_id, answer, "IN_PROGRESS"):
                job.start(device_id, calls.ledger.now())
                if (result := _result(job, device_id))[0] != fleet.HANGS:
                    started.append(((job, device_id), result))
        if not started:
            continue
        ends = [_report(*each, *result) for each, result in started]
        for ((job, device_id), result), answer in zip(
            started, await _send(calls, stream, ends), strict=True
        ):
            if _is_accepted(calls, job, device_id, answer, result[0]):
                _finish(calls, job, device_id, *result)
    await stream.done_writing()
    calls.ledger.done["executions by a bridge"] += len(work)


def _report(job: LedgerJob, device_id: str, status: str, code: str) -> pb.ExecutionReport:
    report = pb.UpdateExecutionRequest(
        job_id=job.job_id,
        status=_STATUS.Value(status),
        execution_number=job.executions[device_id].number,
        failure_code=code,
    )
    return pb.ExecutionReport(device_id=device_id, report=report)


async def _send(
    calls: Callers, stream: Any, reports: Sequence[pb.ExecutionReport]
) -> Sequence[Any]:
    started = time.perf_counter()
    await stream.write(pb.ReportExecutionsRequest(reports=reports))
    response = await stream.read()
    calls.calls.add_latency("ReportExecutions", time.perf_counter() - started)
    return response.results  # type: ignore[no-any-return]


def _is_accepted(calls: Callers, job: LedgerJob, device_id: str, answer: Any, status: str) -> bool:
    if answer.WhichOneof("result") == "error":
        reason = error_reason_pb2.ErrorReason.Name(answer.error.reason)
        _check_refusal(calls, job, device_id, status, reason)
        return False
    _check_answer(calls, job, device_id, answer.execution, status)
    return True


def _check_answer(
    calls: Callers, job: LedgerJob, device_id: str, execution: pb.DeviceExecution, status: str
) -> None:
    expected = job.executions[device_id].number, status
    found = execution.execution_number, _STATUS.Name(execution.status)
    if found != expected:
        calls.ledger.problem(
            "a response has another attempt", f"{job.job_id} {device_id}: {found}, not {expected}"
        )


def _check_refusal(
    calls: Callers, job: LedgerJob, device_id: str, status: str, reason: str
) -> None:
    calls.ledger.done[f"refused with {reason}"] += 1
    if not (job.is_bad and status == "IN_PROGRESS" and reason in _STOPPED):
        calls.ledger.problem(
            f"a device is refused {status} with {reason}",
            f"{job.tenant} {job.job_id} {device_id} at {calls.ledger.now()}",
        )


async def _act_alone(calls: Callers, tenant: str, device_id: str) -> None:
    """Start one execution after the other, until there is none."""
    for _ in range(_MAX_STARTS):
        jobs = [job for job in calls.ledger.open_jobs(tenant) if job.may_start(device_id)]
        expected = sorted(jobs, key=lambda job: queue_key(job.model, job.executions[device_id]))
        response, reason = await calls.device(tenant, device_id, pb.StartNextExecutionRequest())
        if response is None:
            calls.ledger.problem(f"StartNextExecution fails with {reason}", device_id)
            return
        job_id = response.execution.job_id
        job = calls.ledger.jobs.get((tenant, job_id))
        is_next = job_id == (expected[0].job_id if expected else "")
        # A bad release may have tripped, or a stage opened, since the operators looked.
        is_possible = expected[0].is_bad if expected and job is None else False
        if job is not None:
            is_possible = job.is_in_backoff(device_id) or not job.is_released(device_id)
        if not is_next and not is_possible:
            calls.ledger.problem(
                "StartNextExecution starts another job",
                f"{tenant} {device_id}: {job_id or 'none'}, not {[j.job_id for j in expected]}",
            )
        if job is None:
            return
        calls.ledger.done["executions by devices that call"] += 1
        _check_answer(calls, job, device_id, response.execution, "IN_PROGRESS")
        job.start(device_id, calls.ledger.now())
        status, code = _result(job, device_id)
        update = _report(job, device_id, status, code).report
        answer, reason = await calls.device(tenant, device_id, update)
        if answer is None:
            _check_refusal(calls, job, device_id, status, reason)
            return
        _check_answer(calls, job, device_id, answer.execution, status)
        _finish(calls, job, device_id, status, code)
