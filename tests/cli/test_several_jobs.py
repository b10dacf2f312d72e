"""Several jobs in one command, and the question before large ones."""

import io
from types import SimpleNamespace

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.cli import changes
from jobs_grpc.client import JobsClient, errors
from tests.support.callers import Operator
from tests.support.cli import Shell, interrupt_on_terminal
from tests.support.database import Database
from tests.support.server import reserved_address

pytestmark = pytest.mark.usefixtures("shell")


@pytest.fixture
async def jobs(database: Database, operator: Operator) -> list[str]:
    await database.add_devices(operator.tenant, ["pump"])
    for job_id in "ab":
        await operator.create(job_id=job_id, target_all=True)
    return ["a", "b"]


async def test_cancel_stops_when_the_server_is_unavailable(shell: Shell) -> None:
    with reserved_address() as address:
        canceled = await shell("cancel", "a", "b", "--server", address)

    assert (canceled.code, canceled.err.count("\n")) == (5, 1)


@pytest.fixture
async def large_jobs(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 501)
    for job_id in "ab":
        await operator.create(job_id=job_id, target_all=True)


ASKED = "cancel 2 jobs (1,002 devices)? [y/N] "


@pytest.mark.slow
@pytest.mark.usefixtures("large_jobs")
async def test_ctrl_c_at_the_question_changes_nothing(operator: Operator) -> None:
    code, _ = await interrupt_on_terminal(ASKED, "cancel", "a", "b")

    assert (code, (await operator.get("b")).status) == (130, pb.Job.IN_PROGRESS)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_cancel_changes_nothing_when_it_cannot_count_the_devices(
    shell: Shell, operator: Operator, jobs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> pb.Job:
        raise errors.create_error(StatusCode.UNAVAILABLE, "the server restarts")

    monkeypatch.setattr(JobsClient, "get", fail)
    terminal = SimpleNamespace(stdin=_Terminal(), stderr=_Terminal())
    monkeypatch.setattr(changes, "sys", terminal)

    canceled = await shell("cancel", *jobs)

    assert (canceled.code, (await operator.get("a")).status) == (5, pb.Job.IN_PROGRESS)
