"""Random calls of devices, and background work."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.error_reason_pb2 import ErrorReason

from jobs_grpc.db.store import ExecutionUpdate
from tests.machine.clock import seconds
from tests.machine.machine import Machine
from tests.machine.operators import CODES, retry_chosen
from tests.model import device_calls as calls
from tests.model.device_calls import Outcome, Report, queue
from tests.model.execution import FAILURES, Seconds
from tests.model.explanations import blockers, job_before
from tests.model.tenant import Call
from tests.support.callers import ended_of
from tests.support.report_streams import reporting


async def start(m: Machine) -> None:
    job_id, execution = m.execution()
    await start_one(m, job_id, execution.device)


async def start_one(m: Machine, job_id: str, device: str) -> bool:
    """StartExecution; return whether it succeeds."""
    call = Call(calls.start_execution, job_id, device)
    response, _ = await m.both(call, m.caller(device).start(job_id))
    assert response is None or response.status == pb.JobExecution.IN_PROGRESS
    check_cancel(m, response)
    return response is not None


async def start_next(m: Machine) -> None:
    """StartNextExecution."""
    device = m.device()
    response, job_id = await m.both(
        Call(calls.start_next, device), m.caller(device).start_next_response()
    )
    assert (response.execution.job_id or None) == job_id
    assert ended_of(response) == calls.ended_by_others(m.state, device)
    check_cancel(m, response.execution)


async def start_next_of_several(m: Machine) -> None:
    """StartNextExecutions, as a bridge."""
    known = [device.device_id for device in m.devices]
    chosen = m.random.sample(known, m.random.randint(1, len(known)))
    results, job_ids = await m.both(
        Call(calls.start_next_of_all, chosen),
        m.service.server.bridge(m.tenant).start_next(*chosen),
    )
    for device, job_id, result in zip(chosen, job_ids, results, strict=True):
        assert not result.HasField("error")
        assert (result.execution.job_id or None) == job_id
        assert ended_of(result) == calls.ended_by_others(m.state, device)
        check_cancel(m, result.execution)


async def start_some(m: Machine) -> None:
    for _ in range(4):
        await start_next(m)


def check_cancel(m: Machine, execution: device_pb.DeviceExecution | None) -> None:
    """Check what a device learns of a cancel of the job, from an execution in a response."""
    if execution is not None and execution.job_id:
        requested = calls.cancel_requested(m.state, execution.job_id, execution.device_id)
        assert execution.cancel_requested == requested


async def accept_cancel(m: Machine) -> None:
    """UpdateExecution of a device that accepts the cancel of the job, or rejects the execution.

    Mostly there was a cancel, and sometimes the device has already done one of both.
    """
    canceled = [
        (job.job_id, each)
        for job in m.state.jobs
        for each in job.executions
        if job.status == "CANCELED" and each.started and each.status in ("IN_PROGRESS", "REJECTED")
    ]
    is_any = not canceled or m.random.random() < 0.2
    job_id, execution = m.execution() if is_any else m.choice(canceled)
    accepted = m.choice([True, True, False])
    each = Report(execution.device, "REJECTED", cancel_accepted=accepted)
    call = m.caller(execution.device).update(job_id, "REJECTED", cancel_accepted=accepted)
    response, _ = await m.both(Call(calls.report, job_id, each, m.jitter), call)
    assert response is None or response.status == pb.JobExecution.REJECTED
    check_cancel(m, response)


async def acknowledge(m: Machine) -> None:
    """AcknowledgeExecutions, of what others ended, or of later attempts."""
    devices = [
        device.device_id for device in m.devices if calls.ended_by_others(m.state, device.device_id)
    ]
    device = m.choice(devices) if devices else m.device()
    attempts = [
        (job_id, number + m.choice([0, 0, 1]))
        for job_id, number, _ in calls.ended_by_others(m.state, device)
    ] or [(m.job().job_id, m.random.randint(1, 2))]
    call = Call(calls.acknowledge, device, attempts)
    await m.both(call, m.caller(device).acknowledge(*attempts))


def _report(m: Machine, device: str, number: int | None = None) -> Report:
    if m.random.random() < m.success:
        return Report(device, "SUCCEEDED", number=number)
    status = m.choice(["FAILED", "FAILED", "FAILED", "REJECTED"])
    return Report(device, status, m.choice(CODES), number)


def _any_report(m: Machine, device: str) -> Report:
    return Report(device, "IN_PROGRESS") if m.random.random() < 0.2 else _report(m, device)


async def report(m: Machine) -> None:
    """UpdateExecution."""
    job_id, execution = m.execution()
    each = _any_report(m, execution.device)
    call = Call(calls.report, job_id, each, m.jitter)
    caller = m.caller(execution.device)
    response, expected = await m.both(
        call, caller.update(job_id, each.status, failure_code=each.code)
    )
    if response is not None:
        got = (response.execution_number, pb.JobExecution.Status.Name(response.status))
        assert got == (expected.number, expected.status)
        check_cancel(m, response)


async def report_on_stream(m: Machine) -> None:
    """ReportExecutions, as a bridge."""
    job_id, execution = m.execution()
    each = _any_report(m, execution.device)
    fields: Any = {"job_id": job_id, "status": each.status, "failure_code": each.code}
    message = device_pb.UpdateExecutionRequest(**fields)

    async def send() -> str | None:
        async with reporting(m.service.server, m.tenant) as stream:
            await stream.write(
                device_pb.ReportExecutionsRequest(device_id=execution.device, report=message)
            )
            response: Any = await stream.read()
        return ErrorReason.Name(response.error.reason) if response.HasField("error") else None

    # An error is part of the response, so the stream accepts every report.
    got, (expected,) = await m.both(Call(calls.report_all, job_id, [each], m.jitter), send())
    assert got == (None if expected.name in ("APPLIED", "REPEATED") else expected.name)


async def report_batch(m: Machine) -> None:
    """Reports of many devices in one batch, some of them starts."""
    job = m.job()
    most = min(len(job.executions), m.profile.batch)
    executions = m.random.sample(job.executions, m.random.randint(1, most))
    starts = 0.2 if m.random.random() < 0.2 else 0.0
    reports = []
    for execution in executions:
        number = m.choice([1, None]) if execution.number == 1 else execution.number
        is_start = m.random.random() < starts
        each = Report(execution.device, None) if is_start else _report(m, execution.device, number)
        reports.append(each)
    await _send_batch(m, job.job_id, reports)


async def report_late(m: Machine) -> None:
    """Reports of the ends of earlier attempts, or without the number of an attempt."""
    job = m.job()
    retried = [execution for execution in job.executions if execution.earlier]
    reports = []
    for execution in m.random.sample(retried, min(len(retried), 3)):
        number = m.choice([*range(1, execution.number), None])
        earlier = execution.earlier[(number or execution.number - 1) - 1]
        each = _report(m, execution.device, number)
        if earlier.status in ("FAILED", "REJECTED") and m.random.random() < 0.6:
            each = Report(execution.device, earlier.status, earlier.code or "", number)
        reports.append(each)
    if reports:
        await _send_batch(m, job.job_id, reports)


async def retry_others(m: Machine) -> None:
    """Retry all failures except E1, and then send a report.

    The retries can raise the percentage of E1 above its threshold.
    """
    job_id = m.job().job_id
    await retry_chosen(m, job_id, {"statuses": FAILURES, "codes": ["", "E2"]})
    job = m.state.job(job_id)
    released = [each for each in job.executions if each.is_pending and not job.is_held(each)]
    if released:
        status, code = m.choice([("SUCCEEDED", ""), ("FAILED", "E2")])
        await _send_batch(m, job_id, [Report(m.choice(released).device, status, code)])


async def _send_batch(m: Machine, job_id: str, reports: Sequence[Report]) -> None:
    updates = [
        ExecutionUpdate(
            job_id,
            each.device,
            each.status,
            execution_number=each.number,
            failure_code=each.code or None,
        )
        for each in reports
    ]
    call = Call(calls.report_all, job_id, reports, m.jitter)
    rows, outcomes = await m.both(
        call, m.service.store.update_executions(m.tenant, updates, wait_ms=60_000)
    )
    for row, expected in zip(rows, outcomes, strict=True):
        got = Outcome(row["outcome"])
        if expected.number:
            attempt = [row[name] for name in ("execution_number", "status", "failure_code")]
            got = Outcome(row["outcome"], *attempt)
        assert got == expected


async def wait(m: Machine) -> None:
    """Let time pass, sometimes beyond timeouts and the expiry."""
    await _pass(m, m.choice(m.profile.waits))


async def wait_and_sweep(m: Machine) -> None:
    """Let a minute pass, and do what is due then."""
    await _pass(m, 60)
    await sweep(m)


async def _pass(m: Machine, time: int) -> None:
    await m.set_time(m.now + time)
    await m.both(Call(calls.wait), _nothing())


async def _nothing() -> None:
    pass


async def sweep(m: Machine) -> None:
    """Background work. Readers see no difference where it writes what is derived."""
    await m.both(Call(calls.sweep, m.jitter), m.service.sweeper.run_once())


# Readers


async def list_pending(m: Machine) -> None:
    device, limit = m.device(), m.random.randint(1, 3)
    page = await m.caller(device).pending(limit=limit)
    assert [each.job_id for each in page.executions] == pending(m, device)[:limit]
    _check_response(m, device, page)


def _check_response(
    m: Machine,
    device: str,
    page: device_pb.ListPendingExecutionsResponse | device_pb.WatchPendingExecutionsResponse,
) -> None:
    assert ended_of(page) == calls.ended_by_others(m.state, device)
    for each in page.executions:
        check_cancel(m, each)


async def watch_pending(m: Machine) -> None:
    """WatchPendingExecutions. It sends an execution up to a minute after a window has opened."""
    device, limit = m.device(), m.random.randint(1, 3)
    async with aclosing(m.caller(device).watch(limit=limit)) as responses:
        first = await anext(responses)
    assert [each.job_id for each in first.executions] == pending(m, device)[:limit]
    assert first.has_more == (len(pending(m, device)) > limit)
    _check_response(m, device, first)


def pending(m: Machine, device: str) -> list[str]:
    queued = [m.state.find(job_id, device) for job_id in queue(m.state, device)]
    return [job.job_id for job, execution in queued if not job.is_waiting(execution)]


async def explain(m: Machine) -> tuple[str, str, Seconds | None]:
    """ExplainExecution. Return the job, the device, and when the device can start, if known."""
    job_id, execution = m.execution()
    await m.both(Call(calls.wait), _nothing())
    explanation = await m.operator.explain(job_id, execution.device)
    job, execution = m.state.find(job_id, execution.device)
    kinds = {pb.StartBlocker.Kind.Name(blocker.kind) for blocker in explanation.blockers}
    status = pb.JobExecution.Status.Name(explanation.execution.status)
    assert status == job.visible(execution)
    expected = blockers(m.state, job, execution)
    assert kinds - {"EXPIRES_FIRST"} == expected, f"{kinds}, but expected {expected}"
    first = {blocker.other_job_id for blocker in explanation.blockers} - {""}
    assert first <= {job_before(m.state, job, execution)}
    is_known = explanation.HasField("earliest_start_at")
    earliest = seconds(explanation.earliest_start_at) if is_known else None
    return job_id, execution.device, earliest


async def explain_and_start(m: Machine) -> None:
    """ExplainExecution: the device can start at exactly the time that it says."""
    job_id, device, earliest = await explain(m)
    if earliest is not None:
        if m.now <= earliest - 2 * m.profile.tick:
            await m.set_time(earliest - 2 * m.profile.tick)
            assert not await start_one(m, job_id, device)
        assert m.now + m.profile.tick == earliest
        assert await start_one(m, job_id, device)
