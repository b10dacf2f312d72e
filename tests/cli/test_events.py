"""`jobs-grpc events` and events in `watch`, except what transcripts/events.txt has."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1 import jobs_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli.event_text import EVENT_TYPES, event_line
from tests.support.cli import run_on_terminal, spawn
from tests.support.scripted_server import Answer, Refusal, running_scripted_server
from tests.support.waiting import TIMEOUT

ROOT = Path(__file__).parents[2]
TIME = Timestamp(seconds=1_795_964_737)
CREATED = pb.Event(type="job.created", position=5, job_id="fw-2", user_id="olivia", time=TIME)
PAUSED = pb.Event(type="job.paused", position=7, job_id="fw-2", reason="too hot", time=TIME)


def test_types_are_those_that_the_contract_describes() -> None:
    contract = (ROOT / "protos/fleet/jobs/v1/events.proto").read_text(encoding="utf-8")
    described = re.findall(r"^  //   ((?:job|executions)\.\w+)  ", contract, re.MULTILINE)
    assert [*EVENT_TYPES] == described


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


@pytest.mark.parametrize(
    ("events", "shown"),
    [
        (
            pb.ListJobEventsResponse(events=[PAUSED, CREATED]),
            r"2026-11-29 15:05:37Z created by olivia: .*\n.*15:05:37Z paused: too hot",
        ),
        (Refusal(grpc.StatusCode.UNIMPLEMENTED), "fw-2 is COMPLETED"),
    ],
    ids=["events", "older server"],
)
async def test_watch_shows_the_last_events_on_a_terminal(events: Answer, shown: str) -> None:
    job = jobs_pb2.Job(job_id="fw-2", status=jobs_pb2.Job.COMPLETED, created_at=TIME)
    watched = jobs_pb2.WatchJobResponse(job=job)
    async with running_scripted_server(WatchJob=watched, ListJobEvents=events) as server:
        code, output = await run_on_terminal(
            "watch", "fw-2", JOBS_SERVER=server.address, JOBS_TENANT="demo"
        )

    assert (code, re.search(shown, output.replace("\r", "")) is None) == (0, False)
