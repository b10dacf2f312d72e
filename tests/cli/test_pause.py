"""`jobs-grpc pause` and `jobs-grpc resume`."""

import json

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.cli import Shell, cells, without_times

pytestmark = pytest.mark.usefixtures("started_job")


async def test_pause_prints_reason_counts_and_expiry(shell: Shell, operator: Operator) -> None:
    paused = await shell("pause", "j", "--reason", "error rate")

    first, second = paused.out.splitlines()
    assert paused.code == 0
    assert first.startswith("j is paused since 20")
    assert first.endswith(" by olivia: error rate")
    assert second.startswith("1 QUEUED, 1 IN_PROGRESS, expires: 20")
    assert (await operator.get("j")).status == pb.Job.PAUSED


async def test_get_and_list_show_the_pause(shell: Shell) -> None:
    await shell("pause", "j", "--reason", "error\nrate")

    got = await shell("get", "j")
    listed = await shell("list", "--status", "PAUSED")

    assert "status        PAUSED\n" in got.out
    assert " by olivia: error\\nrate\n" in got.out
    assert cells(listed.out.splitlines()[1])[:2] == ["j", "PAUSED"]


async def test_resume_ends_the_pause(shell: Shell, operator: Operator) -> None:
    await shell("pause", "j")

    resumed = await shell("resume", "j")

    assert (resumed.code, resumed.out) == (0, "resumed j: 1 QUEUED, 1 IN_PROGRESS\n")
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS


async def test_pause_says_that_nothing_changed_when_job_is_paused(shell: Shell) -> None:
    await shell("pause", "j", "--reason", "error rate")

    repeated = await shell("pause", "j", "--reason", "error rate", "--utc")
    other = await shell("pause", "j", "--reason", "holiday", "--utc")

    assert repeated.code == other.code == 0
    assert without_times(repeated.out) == (
        "j was already paused, so nothing changed: since TIME by olivia: error rate\n"
        "1 QUEUED, 1 IN_PROGRESS, expires: TIME\n"
    )
    assert without_times(other.out) == (
        "j was already paused, so nothing changed: since TIME by olivia: error rate\n"
        "to change the reason, resume the job and pause it again\n"
        "1 QUEUED, 1 IN_PROGRESS, expires: TIME\n"
    )


async def test_resume_says_that_nothing_changed_when_job_is_not_paused(shell: Shell) -> None:
    resumed = await shell("resume", "j")

    assert resumed.code == 0
    assert resumed.out == "j was not paused, so nothing changed: 1 QUEUED, 1 IN_PROGRESS\n"


async def test_resume_fails_when_etag_is_old(shell: Shell) -> None:
    etag = json.loads((await shell("pause", "j", "--json")).out)["etag"]
    await shell("resume", "j", "--etag", etag)
    await shell("pause", "j")

    resumed = await shell("resume", "j", "--etag", etag)

    assert resumed.code == 4
    assert resumed.err.startswith("jobs-grpc: ABORTED: Job j has changed: its etag is ")
    assert json.loads((await shell("resume", "j", "--json")).out)["status"] == "IN_PROGRESS"
