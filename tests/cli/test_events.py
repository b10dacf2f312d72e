"""`jobs-grpc events` and `history`, at a scripted server."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1 import jobs_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli.event_text import EVENT_TYPES, event_by, event_detail, event_line
from tests.support.cli import Shell, cells, run_on_terminal, spawn
from tests.support.scripted_server import Answer, Refusal, running_scripted_server
from tests.support.waiting import TIMEOUT

ROOT = Path(__file__).parents[2]
TIME = Timestamp(seconds=1_795_964_737, nanos=120_000_000)
COUNTS = jobs_pb2.ExecutionCounts(queued=998, failed=2)


def event(type_: str, position: int = 1, **fields: Any) -> pb.Event:
    return pb.Event(
        position=position, type=type_, time=TIME, job_id="fw-2", execution_counts=COUNTS, **fields
    )


PAUSED = event(
    "job.paused", 7, cause="FAILURE_CRITERION", reason="2 executions failed (pause at 2)"
)
CREATED = event("job.created", 5, user="olivia", status=jobs_pb2.Job.IN_PROGRESS)


def finished(device: str, status: str, **fields: Any) -> pb.FinishedAttempt:
    number = jobs_pb2.JobExecution.Status.Value(status)
    return pb.FinishedAttempt(device_id=device, status=number, **fields)


@pytest.mark.parametrize(
    ("shown", "by", "detail"),
    [
        (CREATED, "olivia", "1,000 executions"),
        (event("job.created", status=jobs_pb2.Job.SCHEDULED), None, "1,000 executions, SCHEDULED"),
        (event("job.stage_opened", stage=0, cause="GATE"), "gate", "stage 0"),
        (event("job.approved", stage=1, user="amir", reason="fine"), "amir", "stage 1: fine"),
        (PAUSED, "failure criterion", "2 executions failed (pause at 2)"),
        (event("job.tripped", stage=1, reason="2 failed in stage 1"), None, "2 failed in stage 1"),
        (event("job.resumed", user="amir"), "amir", ""),
        (event("job.updated", updated_fields=["labels", "start_at"]), None, "labels, start_at"),
        (event("job.retried", retried_count=1), None, "1 execution queued again"),
        (event("job.completed"), None, "998 QUEUED, 2 FAILED"),
        (event("job.deleted", cause="RETENTION"), "retention", ""),
        (
            event(
                "executions.finished",
                attempts=[
                    finished("a", "FAILED", failure_code="E1", will_retry=True),
                    finished("b", "SUCCEEDED"),
                ],
            ),
            None,
            "a FAILED E1 (will be retried), b SUCCEEDED",
        ),
        (
            event(
                "executions.finished",
                attempts=[finished("a", "FAILED", will_retry=True)] * 3
                + [finished("b", "SUCCEEDED")] * 2,
            ),
            None,
            "3 FAILED, 2 SUCCEEDED, 3 will be retried",
        ),
        (event("job.new", stage=2, reason="why", cause="NEW"), None, "stage 2: why"),
    ],
)
def test_events_are_described_in_words(shown: pb.Event, by: str | None, detail: str) -> None:
    assert (event_by(shown), event_detail(shown)) == (by, detail)


def test_types_are_those_that_the_contract_describes() -> None:
    contract = (ROOT / "protos/fleet/jobs/v1/events.proto").read_text(encoding="utf-8")
    described = re.findall(r"^  //   ((?:job|executions)\.\w+)  ", contract, re.MULTILINE)
    assert [*EVENT_TYPES] == described


def test_line_of_an_event_has_time_job_and_phrase() -> None:
    assert event_line(PAUSED) == (
        "2026-11-29T15:05:37.120Z fw-2 paused by failure criterion: 2 executions failed (pause at"
        " 2)"
    )


async def test_history_shows_the_newest_events_last(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = pb.ListJobEventsResponse(events=[PAUSED, CREATED], next_page_token="older")
    async with running_scripted_server(ListJobEvents=response) as server:
        monkeypatch.setenv("JOBS_SERVER", server.address)
        shown = await shell("history", "fw-2", "--limit", "2", "--utc")
        as_json = await shell("history", "fw-2", "--limit", "2", "--json")
        lines = await shell("history", "fw-2", "--limit", "2", "-o", "jsonl")

    header, *rows = map(cells, shown.out.splitlines())
    assert header == ["TIME", "EVENT", "BY", "DETAIL"]
    assert rows == [
        ["2026-11-29 15:05:37Z", "created", "olivia", "1,000 executions"],
        [
            *("2026-11-29 15:05:37Z", "paused", "failure criterion"),
            "2 executions failed (pause at 2)",
        ],
    ]
    assert shown.err == "the newest 2 events; --all shows the rest\n"
    assert [e["position"] for e in json.loads(as_json.out)["events"]] == ["5", "7"]
    assert [json.loads(line)["type"] for line in lines.out.splitlines()] == [
        "job.created",
        "job.paused",
    ]
    (request, *_) = server.requests
    assert request == pb.ListJobEventsRequest(job_id="fw-2", newest_first=True, limit=2)


@pytest.mark.slow
async def test_history_fits_a_terminal_of_80_columns() -> None:
    long = event("job.canceled", user="o" * 60, reason="because " * 30)
    response = pb.ListJobEventsResponse(events=[PAUSED, long, CREATED])
    async with running_scripted_server(ListJobEvents=response) as server:
        code, shown = await run_on_terminal(
            *("history", "fw-2", "--utc"), JOBS_SERVER=server.address, JOBS_TENANT="demo"
        )

    assert code == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert shown.count("because") == 30


async def test_events_prints_a_line_per_event_and_the_position(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = pb.ListEventsResponse(events=[CREATED, PAUSED], position=9)
    async with running_scripted_server(ListEvents=response) as server:
        monkeypatch.setenv("JOBS_SERVER", server.address)
        argv = ("events", "--after", "3", "--type", "created", "job.paused", "--job", "fw-2")
        shown = await shell(*argv)
        as_json = await shell(*argv, "--json")
        limited = await shell("events", "--limit", "2")

    assert shown.out.splitlines() == [event_line(CREATED), event_line(PAUSED)]
    assert shown.err == "no more events; continue with --after 9\n"
    assert [json.loads(line)["position"] for line in as_json.out.splitlines()] == ["5", "7"]
    assert json.loads(as_json.err) == {"position": "9"}
    assert limited.err == "2 events shown; raise --limit, or continue with --after 9\n"
    assert server.requests[0] == pb.ListEventsRequest(
        after_position=3, types=["job.created", "job.paused"], job_id="fw-2", limit=1000
    )
    assert not server.requests[2].HasField("start")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--type", "pasued"], "invalid choice: job.pasued (did you mean job.paused?)"),
        (["--after", "x"], "--after: must be a whole number from 0 to 9007199254740991"),
        (["--after", "1", "--since", "1h"], "--since: not allowed with argument --after"),
        (["--follow", "--limit", "1"], "--limit: not allowed with argument -f/--follow"),
    ],
)
async def test_events_rejects_invalid_options(shell: Shell, argv: list[str], message: str) -> None:
    result = await shell("events", *argv)

    assert result.code == 2
    assert result.err.splitlines()[-1].endswith(message)


async def test_events_reports_a_lost_position_in_one_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = Refusal(grpc.StatusCode.OUT_OF_RANGE, "EVENTS_PURGED")
    async with running_scripted_server(ListEvents=lost, WatchEvents=lost) as server:
        monkeypatch.setenv("JOBS_SERVER", server.address)
        for option in ("--limit=5", "--follow"):
            result = await shell("events", "--after", "1", option)
            assert (result.code, result.out) == (4, "")
            assert result.err.splitlines()[-1] == "jobs-grpc: OUT_OF_RANGE: scripted"


async def lines_of(stream: asyncio.StreamReader | None) -> AsyncIterator[str]:
    assert stream
    async with asyncio.timeout(TIMEOUT):
        async for line in stream:
            yield line.decode().rstrip()


@pytest.mark.slow
@pytest.mark.parametrize("output", ["text", "jsonl"])
async def test_follow_continues_after_an_outage_and_says_how_to_continue(output: str) -> None:
    answers: list[Answer] = [
        pb.WatchEventsResponse(events=[CREATED], position=5),
        Refusal(grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING", retry_after=0),
        pb.WatchEventsResponse(events=[PAUSED], position=8),
        pb.WatchEventsResponse(position=9),  # the last one stays: heartbeats
    ]
    async with running_scripted_server(WatchEvents=answers) as server:
        process = await spawn(
            *("events", "--follow", "--since", "1h", "-o", output),
            JOBS_SERVER=server.address,
            JOBS_TENANT="demo",
        )
        printed = lines_of(process.stdout)
        lines = [await anext(printed), await anext(printed)]
        # The heartbeat that follows may not have arrived.
        process.send_signal(signal.SIGINT)
        *notes, last = [line async for line in lines_of(process.stderr)]
        code = await process.wait()

    assert code == 130
    if output == "jsonl":
        assert [json.loads(line)["position"] for line in lines] == ["5", "7"]
        assert json.loads(last)["position"] in ("7", "8", "9")
    else:
        assert re.fullmatch(
            r"following all events of all jobs in tenant demo since 20\S+ \S+;"
            r" press Ctrl-C to stop",
            notes[0],
        )
        assert lines == [event_line(CREATED), event_line(PAUSED)]
        assert re.fullmatch(r"stopped; continue with --after [789]", last)
    assert len([note for note in notes if "retrying" in note]) == 1
    assert [r.after_position for r in server.requests[:2]] == [0, 5]


@pytest.mark.slow
async def test_watch_shows_the_last_events_on_a_terminal() -> None:
    job = jobs_pb2.Job(job_id="fw-2", status=jobs_pb2.Job.COMPLETED, created_at=TIME)
    events = pb.ListJobEventsResponse(events=[event("job.completed", 9), PAUSED])
    async with running_scripted_server(
        WatchJob=jobs_pb2.WatchJobResponse(job=job), ListJobEvents=events
    ) as server:
        code, shown = await run_on_terminal(
            "watch", "fw-2", JOBS_SERVER=server.address, JOBS_TENANT="demo"
        )

    assert code == 0
    paused = shown.rindex("2026-11-29 15:05:37Z paused by failure criterion: 2 executions failed")
    assert paused < shown.rindex("2026-11-29 15:05:37Z completed: 998 QUEUED, 2 FAILED")


@pytest.mark.slow
async def test_watch_works_with_a_server_without_events() -> None:
    job = jobs_pb2.Job(job_id="fw-2", status=jobs_pb2.Job.COMPLETED, created_at=TIME)
    async with running_scripted_server(
        WatchJob=jobs_pb2.WatchJobResponse(job=job),
        ListJobEvents=Refusal(grpc.StatusCode.UNIMPLEMENTED),
    ) as server:
        code, shown = await run_on_terminal(
            "watch", "fw-2", JOBS_SERVER=server.address, JOBS_TENANT="demo"
        )

    assert (code, "fw-2 is COMPLETED" in shown) == (0, True)


async def test_create_can_add_events_of_executions(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = jobs_pb2.CreateJobResponse(job_id="fw-2", execution_count=1)
    missing = Refusal(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    async with running_scripted_server(CreateJob=created, GetJob=missing) as server:
        monkeypatch.setenv("JOBS_SERVER", server.address)
        argv = ("create", "--type", "update", "--all", "--job-id", "fw-2")
        await shell(*argv, "--execution-events")
        await shell(*argv)

    requests = [r for r in server.requests if isinstance(r, jobs_pb2.CreateJobRequest)]
    assert [request.execution_events for request in requests] == [True, False]
