"""The checker of histories finds each way in which the service can be wrong, and no other."""

import asyncio
import json
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.client import JobsError
from tests.gateway.support import require_go
from tests.harness.calls import Calls
from tests.harness.history import CHECKER, History, ImpossibleHistory, check_history
from tests.support.database import edited_function, uncommitted
from tests.support.retry_policies import rule
from tests.support.world import World

pytestmark = [pytest.mark.wrong_counts("plants mistakes"), pytest.mark.slow]

_STATUS = pb.JobExecution.Status
_POLICY = pb.RetryPolicy(rules=[rule(initial=1)])
Line = dict[str, Any]

# The function, what is wrong, and the change of the function.
_PLANTED = {
    "a version is not incremented": (
        "change_executions",
        "e.version + 1 + c.is_requeued::integer",
        "e.version + c.is_requeued::integer",
    ),
    "a repeated report counts twice": ("update_outcome", "'REPEATED'::text", "'APPLIED'::text"),
    "an execution starts after its end": (
        "update_outcome",
        "'EXECUTION_FINISHED'::text",
        "'APPLIED'::text",
    ),
    "an etag is reused": ("set_paused", "revision = j.revision + 1", "revision = j.revision"),
    "an etag is ignored": ("check_etag", "p_etag <> ''", "false"),
    "a cancel is lost": ("set_canceled", "j.job_id = p_job_id", "false"),
    "a canceled job retries": ("decide_retries", "AND j.canceled_at IS NULL", ""),
    "a retry keeps its number": (
        "queue_next_attempts",
        "execution_number = e.execution_number + 1",
        "execution_number = e.execution_number",
    ),
    "a paused job starts": ("update_outcome", "WHEN job_is_paused", "WHEN false"),
    "an acknowledgement is lost": (
        "acknowledge_executions",
        "SET ended_number = NULL",
        "SET retries = 0",
    ),
    "a lock is lost": ("lock_job", "FOR UPDATE;", ";"),
}


class Scenario:
    """Calls of two devices and an operator, one after the other unless it says so."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self._history = History(folder)
        self._calls = Calls(world.server.channel, self._history)

    async def _call(self, request: Any, device: str = "") -> None:
        with suppress(JobsError):
            await self._calls.call(request, self._world.tenant, user="u", device=device)

    async def run(self) -> None:
        await self._world.add_devices(["d1", "d2"])
        await self._report_and_cancel()
        await self._retry()
        await self._pause_twice_at_once()
        await self._time_out()
        await self._acknowledge()
        self._history.close()

    async def _report_and_cancel(self) -> None:
        await self._create("a")
        await self._start("a", "d1")
        await self._read("a", "d1")
        await self._report("a", "d1", "SUCCEEDED")
        await self._report("a", "d1", "SUCCEEDED")
        await self._start("a", "d1")
        await self._call(pb.PauseJobRequest(job_id="a"))
        await self._start("a", "d2")
        await self._call(pb.ResumeJobRequest(job_id="a", etag="1"))
        await self._call(pb.ResumeJobRequest(job_id="a", etag="2"))
        await self._read("a", "d2")
        await self._call(pb.CancelJobRequest(job_id="a"))
        await self._read("a", "d2")
        await self._start("a", "d2")
        await self._call(pb.CancelJobRequest(job_id="a"))
        await self._call(pb.DeleteJobRequest(job_id="a"))
        await self._read("a", "d2")

    async def _retry(self) -> None:
        await self._create("b", retry_policy=_POLICY)
        await self._start("b", "d1")
        await self._report("b", "d1", "FAILED")
        await self._report("b", "d1", "FAILED")
        await self._start("b", "d2")
        await self._call(pb.RetryExecutionsRequest(job_id="b", statuses=[_STATUS.FAILED]))
        await self._read("b", "d1")
        await self._call(pb.CancelExecutionRequest(job_id="b", device_id="d1"))
        await self._call(pb.RetryExecutionsRequest(job_id="b", statuses=[_STATUS.REJECTED]))
        await self._read("b", "d1")
        await self._call(pb.CancelJobRequest(job_id="b"))
        await self._report("b", "d2", "FAILED")
        await self._read("b", "d2")

    async def _pause_twice_at_once(self) -> None:
        await self._create("c")
        world, pause = self._world, pb.PauseJobRequest(job_id="c")
        recorded = self._history.begin(pause, world.tenant)
        sql = "SELECT FROM jobs.pause_job($1, $2, '', 'u', '')"
        async with uncommitted(world.database, sql, world.tenant, "c"):
            other = await world.blocked(self._call(pause))
        await other
        recorded.answer(pb.PauseJobResponse())
        await self._read("c", "d1")

    async def _time_out(self) -> None:
        await self._create("d", in_progress_timeout_minutes=1)
        await self._start("d", "d1")
        await self._world.make_overdue("d")
        await self._world.sweep()
        await self._read("d", "d1")

    async def _acknowledge(self) -> None:
        await self._create("e")
        starts = device_pb.StartNextExecutionsRequest(device_ids=["d1", "d2"])
        await self._start("e", "d1")
        await self._start("e", "d2")
        await self._call(pb.CancelExecutionRequest(job_id="e", device_id="d1", force=True))
        await self._call(pb.CancelJobRequest(job_id="e"))
        await self._read("e", "d1")
        await self._read("e", "d2")
        await self._report("e", "d2", "REJECTED", cancel_accepted=True)
        ended = device_pb.EndedExecution(job_id="e", execution_number=1)
        await self._call(device_pb.AcknowledgeExecutionsRequest(executions=[ended]), "d1")
        await self._read("e", "d1")
        await self._call(starts)
        await self._read("d", "d2")

    async def _create(self, job_id: str, **fields: Any) -> None:
        devices = pb.DeviceIds(device_ids=["d1", "d2"])
        await self._call(
            pb.CreateJobRequest(
                job_id=job_id, document_type="reboot", target_device_ids=devices, **fields
            )
        )

    async def _start(self, job_id: str, device: str) -> None:
        await self._call(device_pb.StartExecutionRequest(job_id=job_id), device)

    async def _report(self, job_id: str, device: str, status: str, **fields: Any) -> None:
        await self._call(
            device_pb.UpdateExecutionRequest(
                job_id=job_id, status=_STATUS.Value(status), execution_number=1, **fields
            ),
            device,
        )

    async def _read(self, job_id: str, device: str) -> None:
        await self._call(pb.GetJobRequest(job_id=job_id))
        await self._call(pb.ListExecutionAttemptsRequest(job_id=job_id, device_id=device))
        await self._call(device_pb.GetExecutionRequest(job_id=job_id), device)
        await self._call(device_pb.ListPendingExecutionsRequest(), device)


async def _check(folder: Path) -> str:
    return await asyncio.to_thread(check_history, folder)


@pytest.fixture
async def good(world: World, tmp_path: Path) -> Path:
    """The history of the scenario, without a mistake."""
    require_go()
    await Scenario(world, tmp_path / "good").run()
    return tmp_path / "good"


@pytest.mark.parametrize("name", _PLANTED)
async def test_planted_mistake_is_found(world: World, tmp_path: Path, name: str) -> None:
    require_go()
    function, part, wrong = _PLANTED[name]
    async with edited_function(world.database, function, part, wrong):
        await Scenario(world, tmp_path / "history").run()

    with pytest.raises(ImpossibleHistory, match="no order of these calls"):
        await _check(tmp_path / "history")


def _find(lines: list[Line], job_id: str, method: str, device: str = "", nth: int = 0) -> Line:
    found = [
        line
        for line in lines
        if line["request"].get("job_id", "") == job_id
        and line["method"] == method
        and line["device"] == device
    ]
    return found[nth]


def _stale_read(lines: list[Line]) -> None:
    """A read after the cancel returns what the one before it returned."""
    before, after = (_find(lines, "a", "GetJob", nth=n) for n in (1, 2))
    after.update(jobs=before["jobs"], executions=before["executions"])


def _lost_write(lines: list[Line]) -> None:
    """A start is acknowledged, and no later answer knows of it."""
    start, read = (_find(lines, "a", m, "d2") for m in ("StartExecution", "GetExecution"))
    (execution,) = read["executions"]
    started = execution | {"status": "IN_PROGRESS", "version": execution["version"] + 1}
    start.update(error="", executions=[started], jobs=[])


def _lost_delete(lines: list[Line]) -> None:
    """A read after the delete returns the job."""
    before, after = (_find(lines, "a", "GetJob", nth=n) for n in (2, 3))
    after.update(error="", jobs=before["jobs"], executions=before["executions"])


def _lost_device(lines: list[Line]) -> None:
    """A job has an execution less than before."""
    _find(lines, "b", "GetJob", nth=1)["jobs"][0]["total_executions"] -= 1


def _hidden_execution(lines: list[Line]) -> None:
    """The list of pending executions lacks the one that the device works on."""
    _find(lines, "", "ListPendingExecutions", "d1").update(executions=[])


def _hidden_cancel(lines: list[Line]) -> None:
    """A device does not learn that its job is canceled."""
    (execution,) = _find(lines, "e", "GetExecution", "d2")["executions"]
    execution["cancel_requested"] = False


def _lost_start(lines: list[Line]) -> None:
    """One of the devices of a call for several gets no execution, but works on one."""
    _find(lines, "", "StartNextExecution", "d2", nth=-1).update(executions=[])


@pytest.mark.parametrize(
    "change",
    [
        _stale_read,
        _lost_write,
        _lost_delete,
        _lost_device,
        _hidden_execution,
        _hidden_cancel,
        _lost_start,
    ],
)
async def test_wrong_answer_is_found(good: Path, change: Callable[[list[Line]], None]) -> None:
    _edit(good, change)

    with pytest.raises(ImpossibleHistory, match="no order of these calls"):
        await _check(good)


def test_checker_makes_the_transitions_of_the_model() -> None:
    """Its transitions of executions are those that tests/search/ finds in tests/model/."""
    command = [require_go(), "test", "./..."]
    result = subprocess.run(  # noqa: S603
        command, cwd=CHECKER, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


def _unanswered(*methods: str) -> Callable[[list[Line]], None]:
    def change(lines: list[Line]) -> None:
        for line in lines:
            if line["method"] in methods:
                line.update(answered=False, error="", executions=[], jobs=[])

    return change


@pytest.mark.parametrize(
    "methods",
    [
        (),
        ("CancelJob", "DeleteJob", "RetryExecutions"),
        ("StartExecution", "UpdateExecution", "PauseJob", "ResumeJob"),
    ],
)
async def test_call_without_an_answer_can_have_happened(
    good: Path, methods: tuple[str, ...]
) -> None:
    _edit(good, _unanswered(*methods))

    assert "0 violations, 0 undecided" in await _check(good)


async def test_violation_is_described(good: Path) -> None:
    _edit(good, _stale_read)

    with pytest.raises(ImpossibleHistory) as raised:
        await _check(good)

    text = str(raised.value)
    assert "/a: no order of these calls is possible" in text
    assert "CancelJob" in text
    assert "_a.html" in text


def _edit(folder: Path, change: Callable[[list[Line]], None]) -> None:
    path = folder / "calls.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
