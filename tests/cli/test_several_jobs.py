"""Several jobs in one command, and the question before large ones."""

import io
import json
from types import SimpleNamespace

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.cli import questions
from jobs_grpc.client import JobsClient, errors
from tests.support.callers import Operator
from tests.support.cli import Shell, answer_on_terminal
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server, reserved_address


@pytest.fixture
async def jobs(database: Database, operator: Operator) -> list[str]:
    """Two jobs, "a" and "b", for the device "pump"."""
    await database.add_devices(operator.tenant, ["pump"])
    for job_id in "ab":
        await operator.create(job_id=job_id, target_all=True)
    return ["a", "b"]


async def test_cancel_and_delete_take_several_jobs(
    shell: Shell, operator: Operator, jobs: list[str]
) -> None:
    canceled = await shell("cancel", *jobs, "--reason", "smoke")
    reasons = [(await operator.get(job_id)).cancel_reason for job_id in jobs]
    deleted = await shell("delete", *jobs, "-o", "jsonl")

    assert (canceled.code, canceled.out) == (0, "canceled a\ncanceled b\n")
    assert reasons == ["smoke", "smoke"]
    assert (deleted.code, deleted.out) == (0, "{}\n{}\n")
    for job_id in jobs:
        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
            await operator.get(job_id)


async def test_cancel_of_a_device_takes_several_jobs(
    shell: Shell, operator: Operator, jobs: list[str]
) -> None:
    canceled = await shell("cancel", *jobs, "--device", "pump")

    assert canceled.out == "canceled a on pump\ncanceled b on pump\n"
    assert [(await operator.get(j)).execution_counts.rejected for j in jobs] == [1, 1]


async def test_etag_is_of_one_job(shell: Shell, operator: Operator, jobs: list[str]) -> None:
    etag = (await operator.get("a")).etag
    several = await shell("cancel", *jobs, "--etag", etag)
    device = await shell("cancel", "a", "--device", "pump", "--etag", etag)
    old = await shell("cancel", "a", "--etag", "old")
    canceled = await shell("cancel", "a", "--etag", etag)
    deleted = await shell("delete", "a", "--etag", (await operator.get("a")).etag)

    assert (several.code, several.out) == (2, "")
    assert several.err.endswith("--etag is of one job: name only one\n")
    assert device.err.endswith("--etag can't be combined with --device\n")
    assert "has changed: its etag is" in old.err
    assert (canceled.out, deleted.out) == ("canceled a\n", "deleted a\n")


async def test_cancel_reports_each_job_that_fails_and_cancels_the_others(
    shell: Shell, operator: Operator, jobs: list[str]
) -> None:
    canceled = await shell("cancel", "nowhere-1", "a", "nowhere-2", "b")
    as_json = await shell("cancel", "nowhere-1", "nowhere-2", "--json")

    assert (canceled.code, canceled.out) == (3, "canceled a\ncanceled b\n")
    lines = canceled.err.splitlines()
    assert len(lines) == 2
    assert "nowhere-1" in lines[0]
    assert "nowhere-2" in lines[1]
    errors = [json.loads(line)["error"] for line in as_json.err.splitlines()]
    assert [error["reason"] for error in errors] == ["JOB_NOT_FOUND", "JOB_NOT_FOUND"]


async def test_cancel_stops_when_the_server_is_unavailable(shell: Shell) -> None:
    with reserved_address() as address:
        canceled = await shell("cancel", "a", "b", "--server", address)

    assert (canceled.code, canceled.err.count("\n")) == (5, 1)


@pytest.fixture
async def large_jobs(database: Database, operator: Operator) -> None:
    """Two jobs, "a" and "b", for 501 devices each."""
    await database.add_devices(operator.tenant, 501)
    for job_id in "ab":
        await operator.create(job_id=job_id, target_all=True)


@pytest.mark.slow
@pytest.mark.usefixtures("large_jobs")
@pytest.mark.parametrize("answer", ["", "n", "y"])
async def test_cancel_asks_on_a_terminal_before_more_than_1000_devices(
    server: Server, operator: Operator, answer: str
) -> None:
    code, shown = await answer_on_terminal(
        *("cancel 2 jobs (1,002 devices)? [y/N] ", answer),
        *("cancel", "a", "b"),
        JOBS_SERVER=server.address,
        JOBS_TENANT=operator.tenant,
    )

    status = (await operator.get("b")).status
    if answer == "y":
        assert (code, status) == (0, pb.Job.CANCELED)
        assert "canceled b" in shown
    else:
        assert (code, status) == (1, pb.Job.IN_PROGRESS)
        assert "nothing was changed; to cancel without this question, add --yes" in shown


@pytest.mark.slow
@pytest.mark.usefixtures("large_jobs")
@pytest.mark.parametrize("arguments", [("a",), ("a", "b", "--yes")], ids=" ".join)
async def test_cancel_does_not_ask_before_few_devices_or_with_yes(
    server: Server, operator: Operator, arguments: tuple[str, ...]
) -> None:
    code, shown = await answer_on_terminal(
        *("?", ""),
        *("cancel", *arguments),
        JOBS_SERVER=server.address,
        JOBS_TENANT=operator.tenant,
    )

    assert (code, "?" in shown) == (0, False)


@pytest.mark.usefixtures("large_jobs")
async def test_cancel_and_delete_do_not_ask_on_a_pipe(shell: Shell, operator: Operator) -> None:
    assert (await shell("cancel", "a", "b")).code == 0
    assert (await shell("delete", "a", "b")).code == 0


@pytest.mark.slow
@pytest.mark.usefixtures("large_jobs")
async def test_delete_asks_on_a_terminal_before_more_than_1000_devices(
    server: Server, operator: Operator, shell: Shell
) -> None:
    await shell("cancel", "a", "b")
    code, shown = await answer_on_terminal(
        *("delete 2 jobs (1,002 devices)? [y/N] ", "y"),
        *("delete", "a", "b"),
        JOBS_SERVER=server.address,
        JOBS_TENANT=operator.tenant,
    )

    assert code == 0
    assert "deleted b" in shown


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
    monkeypatch.setattr(questions, "sys", terminal)

    canceled = await shell("cancel", *jobs)

    assert (canceled.code, (await operator.get("a")).status) == (5, pb.Job.IN_PROGRESS)


@pytest.mark.slow
@pytest.mark.usefixtures("large_jobs")
async def test_cancel_changes_nothing_when_ctrl_c_answers_the_question(
    server: Server, operator: Operator
) -> None:
    code, _ = await answer_on_terminal(
        *("[y/N] ", "\x03"),
        *("cancel", "a", "b"),
        JOBS_SERVER=server.address,
        JOBS_TENANT=operator.tenant,
    )

    assert (code, (await operator.get("a")).status) == (130, pb.Job.IN_PROGRESS)
