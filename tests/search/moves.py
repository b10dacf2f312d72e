"""The calls, and the wait, that a search tries in each state, for the model and for a server.

A period has two hours. All durations of jobs are odd numbers of hours, and a wait ends at the start
of the next period. So each deadline is over after a known number of waits: see search.py.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from fleet.jobs.v1 import fleet_pb2

from tests.machine.machine import Machine
from tests.model import device_calls, joins, operator_calls
from tests.model.device_calls import Report
from tests.model.execution import FAILURES, Seconds
from tests.model.job import Job
from tests.model.targets import Device
from tests.model.tenant import Call, State, step

JOB = "j1"
PERIOD = 7200
HOUR = 3600

Move: TypeAlias = tuple[str, int | None]
"""The name of a move, and the number of its device, if it has one."""

Send: TypeAlias = Callable[[Machine], Awaitable[Any]]
Both: TypeAlias = tuple[Call, Send]


def _start(_: Job, device: str) -> Both:
    call = Call(device_calls.start_execution, JOB, device)
    return call, lambda m: m.caller(device).start(JOB)


def _report(status: str, *, cancel_accepted: bool = False) -> Callable[[Job, str], Both]:
    """A report that names the current attempt."""

    def move(job: Job, device: str) -> Both:
        execution = job.execution(device)
        number = execution.number if execution else 1
        each = Report(device, status, number=number, cancel_accepted=cancel_accepted)
        fields: Any = {"execution_number": number, "cancel_accepted": cancel_accepted}
        return Call(device_calls.report, JOB, each), lambda m: m.caller(device).update(
            JOB, status, **fields
        )

    return move


def _cancel_execution(_: Job, device: str) -> Both:
    call = Call(operator_calls.cancel_execution, JOB, device, "olivia", force=True)
    return call, lambda m: m.operator.cancel_execution(JOB, device, force=True)


def _register(_: Job, device: str) -> Both:
    sent = fleet_pb2.Device(device_id=device)
    return Call(operator_calls.register, Device(device)), lambda m: m.fleet.update(
        sent, mask=["labels", "group_ids"], allow_missing=True
    )


def _delete_device(_: Job, device: str) -> Both:
    return Call(operator_calls.delete_devices, [device]), lambda m: m.fleet.delete(device)


def _retry(hours: int | None) -> Callable[[], Both]:
    def move() -> Both:
        fields: Any = {} if hours is None else {"expires_in_hours": hours}
        expires_after = None if hours is None else HOUR * hours
        call = Call(
            operator_calls.retry_executions,
            JOB,
            "olivia",
            statuses=FAILURES,
            expires_after=expires_after,
        )
        return call, lambda m: m.operator.retry(JOB, *FAILURES, **fields)

    return move


def _join() -> Both:
    arguments: Any = {"device_ids": None, "after": "", "last": None, "wait_ms": 60_000}
    return Call(joins.join, JOB), lambda m: m.service.store.join_devices(
        m.tenant, job_id=JOB, max_targets=1_000_000, **arguments
    )


def _of_job(function: Callable[..., Any], user: str, send: Send, *values: Any, **named: Any) -> Any:
    return lambda: (Call(function, JOB, *values, user, **named), send)


DEVICE_MOVES: dict[str, Callable[[Job, str], Both]] = {
    "start": _start,
    "succeed": _report("SUCCEEDED"),
    "fail": _report("FAILED"),
    "accept cancel": _report("REJECTED", cancel_accepted=True),
    "cancel execution": _cancel_execution,
    "register": _register,
    "delete device": _delete_device,
}

JOB_MOVES: dict[str, Callable[[], Both]] = {
    "wait": lambda: (Call(device_calls.wait), _nothing),
    "sweep": lambda: (Call(device_calls.sweep), lambda m: m.service.sweeper.run_once()),
    "cancel": _of_job(
        operator_calls.cancel_job, "olivia", lambda m: m.operator.cancel(JOB), force=False
    ),
    "force cancel": _of_job(
        operator_calls.cancel_job,
        "olivia",
        lambda m: m.operator.cancel(JOB, force=True),
        force=True,
    ),
    "pause": _of_job(operator_calls.pause_job, "olivia", lambda m: m.operator.pause(JOB)),
    "resume": _of_job(operator_calls.resume_job, "olivia", lambda m: m.operator.resume(JOB)),
    "advance": _of_job(operator_calls.advance_job, "olivia", lambda m: m.operator.advance(JOB)),
    "approve": _of_job(
        operator_calls.approve_stage, "anna", lambda m: m.approver.approve(JOB, 0), 0
    ),
    "reject": _of_job(operator_calls.reject_stage, "anna", lambda m: m.approver.reject(JOB, 0), 0),
    "approve start": _of_job(
        operator_calls.approve_start, "anna", lambda m: m.approver.approve_start(JOB)
    ),
    "reject start": _of_job(
        operator_calls.reject_start, "anna", lambda m: m.approver.reject_start(JOB)
    ),
    "retry": _retry(None),
    "retry with new expiry": _retry(1),
    "join": _join,
}


async def _nothing(_: Machine) -> None:
    pass


def both(move: Move, state: State, devices: list[str]) -> Both:
    """The call of a move in a state: for the model, and for a server."""
    name, number = move
    if number is None:
        return JOB_MOVES[name]()
    return DEVICE_MOVES[name](state.job(JOB), devices[number])


def end_of(move: Move, now: Seconds) -> Seconds:
    """When a move ends that begins at a time."""
    return (now // PERIOD + 1) * PERIOD if move[0] == "wait" else now + 1


def after(move: Move, state: State, devices: list[str]) -> tuple[State, str | None]:
    """The state after a move, and the reason if its call is rejected."""
    call, _ = both(move, state, devices)
    state, answer = step(state, call, end_of(move, state.now))
    return state, answer.reason
