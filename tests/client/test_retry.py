"""Which calls the client tries again, when, and what it raises."""

import asyncio
import dataclasses
from types import SimpleNamespace

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.error_reason_pb2 import ErrorReason
from grpc import StatusCode
from grpc.aio import Metadata

from jobs_grpc.client import (
    JobsClient,
    JobsError,
    RetryPolicy,
    errors,
    execution_status_name,
    job_status_name,
)
from jobs_grpc.client.retry import Delays
from tests.client.scripted import QUICK, scripted_jobs
from tests.support.clock import Clock
from tests.support.database import Database
from tests.support.scripted_server import Answer, Refusal, running_scripted_server
from tests.support.server import running_server

AWAY = Refusal(StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
BUSY = Refusal(StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after=1)


async def test_create_is_repeated_with_the_same_job_id() -> None:
    answers: list[Answer] = [AWAY, AWAY, pb.CreateJobResponse(execution_count=1)]
    async with scripted_jobs(CreateJob=answers) as (server, jobs):
        created = await jobs.create("reboot", target_all=True)

    assert created.execution_count == 1
    assert server.calls["CreateJob"] == 3
    assert len({request.job_id for request in server.requests}) == 1


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.CANCELLED])
async def test_call_that_is_not_safe_to_repeat_is_made_once(code: StatusCode) -> None:
    async with scripted_jobs(RetryExecutions=Refusal(code), CancelJob=Refusal(code)) as (
        server,
        jobs,
    ):
        with pytest.raises(JobsError):
            await jobs.retry("j", [pb.JobExecution.FAILED])
        with pytest.raises(JobsError) as raised:
            await jobs.cancel("j")

    assert server.calls == {"RetryExecutions": 1, "CancelJob": 1}
    assert raised.value.code is StatusCode.UNAVAILABLE


async def test_call_that_the_server_reset_is_repeated() -> None:
    """A server that stops resets calls that reach it before its clients know."""
    answers: list[Answer] = [
        Refusal(StatusCode.CANCELLED),
        pb.GetJobResponse(job=pb.Job(job_id="j")),
    ]
    retried: list[JobsError] = []
    retry = dataclasses.replace(QUICK, on_retry=retried.append)
    async with scripted_jobs({"retry": retry}, GetJob=answers) as (_, jobs):
        assert (await jobs.get("j")).job_id == "j"

    [error] = retried
    assert error.code is StatusCode.UNAVAILABLE
    assert error.message == errors.CALL_RESET


def test_stream_that_the_server_reset_before_it_started_is_unavailable() -> None:
    error = grpc.aio.AioRpcError(
        StatusCode.INTERNAL, Metadata(), Metadata(), details="Internal error from Core"
    )

    converted = errors.from_rpc_error(error)

    assert (converted.code, converted.message) == (StatusCode.UNAVAILABLE, errors.CALL_RESET)


@pytest.mark.parametrize(("etag", "calls"), [("", 1), ("e1", 5)])
async def test_resume_is_repeated_only_with_an_etag(etag: str, calls: int) -> None:
    async with scripted_jobs(ResumeJob=AWAY) as (server, jobs):
        with pytest.raises(errors.DatabaseUnavailable):
            await jobs.resume("j", etag=etag)

    assert server.calls["ResumeJob"] == calls


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"),
        Refusal(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"),
        Refusal(StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_permanent_error_is_not_retried(refusal: Refusal) -> None:
    async with scripted_jobs(GetJob=refusal) as (server, jobs):
        with pytest.raises(errors.BY_REASON[refusal.reason]):
            await jobs.get("j")

    assert server.calls["GetJob"] == 1


async def test_retry_waits_for_the_delay_that_the_server_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("jobs_grpc.client.calls.asyncio.sleep", note)
    answers: list[Answer] = [BUSY, pb.RetryExecutionsResponse(retried_count=2)]
    async with scripted_jobs(RetryExecutions=answers) as (_, jobs):
        # The server refused the call before it did anything, so that any call is safe to repeat.
        response = await jobs.retry("j", [pb.JobExecution.FAILED])

    assert response.retried_count == 2
    assert [1 <= seconds < 1.5 for seconds in slept if seconds] == [True]


async def test_error_is_raised_at_once_when_the_delay_is_past_the_deadline() -> None:
    async with scripted_jobs({"timeout": 0.9}, GetJob=BUSY) as (server, jobs):
        with pytest.raises(errors.Overloaded) as raised:
            await jobs.get("j")

    assert raised.value.retry_after == 1
    assert server.calls["GetJob"] == 1


@pytest.mark.slow
async def test_call_beyond_the_rate_limit_succeeds_after_the_delay(
    database: Database, tenant: str, quick: RetryPolicy
) -> None:
    async with (
        running_server(database.request_dsn, JOBS_MAX_TENANT_RATE="1") as server,
        JobsClient(server.address, tenant=tenant, retry=quick) as jobs,
    ):
        for _ in range(3):
            assert [job async for job in jobs.list()] == []


async def test_unknown_reason_raises_the_base_class() -> None:
    async with scripted_jobs(GetJob=Refusal(StatusCode.ABORTED, "NEW_REASON")) as (_, jobs):
        with pytest.raises(JobsError) as raised:
            await jobs.get("j")

    assert type(raised.value) is JobsError
    assert (raised.value.code, raised.value.reason) == (StatusCode.ABORTED, "NEW_REASON")


async def test_error_of_grpc_itself_raises_the_base_class() -> None:
    async with JobsClient("127.0.0.1:1", tenant="t", retry=RetryPolicy(max_attempts=1)) as jobs:
        with pytest.raises(JobsError) as raised:
            await jobs.get("j")

    assert type(raised.value) is JobsError
    assert (raised.value.code, raised.value.reason) == (StatusCode.UNAVAILABLE, "")


def test_every_reason_of_the_contract_has_a_class() -> None:
    assert {"ERROR_REASON_UNSPECIFIED", *errors.BY_REASON} == set(ErrorReason.keys())


async def test_unknown_enum_values_do_not_raise() -> None:
    job = pb.Job.FromString(pb.Job(job_id="j").SerializeToString() + b"\x40\x63")  # status = 99
    async with (
        running_scripted_server(
            GetJob=pb.GetJobResponse(job=job),
            ListJobs=pb.ListJobsResponse(jobs=[job]),
            WatchJob=pb.WatchJobResponse(job=job),
        ) as server,
        JobsClient(server.address, tenant="t") as jobs,
    ):
        states = [await jobs.get("j"), await jobs.wait("j"), *[j async for j in jobs.list()]]

    assert [job_status_name(state.status) for state in states] == ["UNKNOWN_99"] * 3
    assert job_status_name(pb.Job.COMPLETED) == "COMPLETED"
    assert execution_status_name(pb.JobExecution.TIMED_OUT) == "TIMED_OUT"
    assert execution_status_name(77) == "UNKNOWN_77"


async def test_token_is_requested_for_each_try() -> None:
    tokens = iter(["first", "second"])

    async def next_token() -> str:
        return next(tokens)

    answers: list[Answer] = [AWAY, pb.GetJobResponse()]
    async with scripted_jobs({"token": next_token}, GetJob=answers) as (server, jobs):
        await jobs.get("j")

    assert [m["authorization"] for m in server.metadata] == ["Bearer first", "Bearer second"]


async def test_time_that_a_token_takes_counts_against_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("jobs_grpc.client.calls.time", SimpleNamespace(monotonic=clock))

    def take_a_minute() -> str:
        clock.now += 60
        return "token"

    async with scripted_jobs(
        {"token": take_a_minute, "timeout": 30}, GetJob=pb.GetJobResponse()
    ) as (server, jobs):
        with pytest.raises(JobsError) as raised:
            await jobs.get("j")

    assert raised.value.code is StatusCode.DEADLINE_EXCEEDED
    assert server.calls["GetJob"] == 0


async def test_watch_reconnects_with_a_new_token_when_the_token_expires() -> None:
    tokens = iter(["first", "second"])
    running = pb.WatchJobResponse(job=pb.Job(job_id="j", status=pb.Job.IN_PROGRESS))
    done = pb.WatchJobResponse(job=pb.Job(job_id="j", status=pb.Job.COMPLETED))
    expired = Refusal(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN")
    async with scripted_jobs(
        {"token": lambda: next(tokens)}, WatchJob=[running, expired, running, done]
    ) as (server, jobs):
        states = [job.status async for job in jobs.watch("j")]

    assert states == [pb.Job.IN_PROGRESS, pb.Job.COMPLETED]
    assert [m["authorization"] for m in server.metadata] == ["Bearer first", "Bearer second"]


async def test_watch_raises_when_a_token_is_refused_at_once() -> None:
    refused = Refusal(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN")
    async with scripted_jobs({"token": lambda: "wrong"}, WatchJob=refused) as (server, jobs):
        with pytest.raises(errors.InvalidToken):
            await anext(jobs.watch("j"))

    assert server.calls["WatchJob"] == 1


@pytest.mark.parametrize("retry_after", [None, 1])
def test_reconnects_of_many_clients_are_spread(retry_after: float | None) -> None:
    policy = RetryPolicy(reconnect_within=5)
    error = errors.create_error(StatusCode.UNAVAILABLE, "text", retry_after=retry_after)

    first = retry_after or 0
    delays = sorted(Delays(policy).before_reconnect(error) - first for _ in range(1000))

    assert 0 <= delays[0] < 0.5
    assert 2 < delays[500] < 3
    assert 4.5 < delays[-1] <= 5


async def test_on_retry_gets_each_error_that_is_retried() -> None:
    retried: list[JobsError] = []
    policy = RetryPolicy(first_delay=0.02, max_attempts=3, on_retry=retried.append)
    async with scripted_jobs({"retry": policy}, GetJob=AWAY) as (_, jobs):
        with pytest.raises(errors.DatabaseUnavailable):
            await jobs.get("j")

    assert [error.reason for error in retried] == ["DATABASE_UNAVAILABLE"] * 2


async def test_watch_reconnects_when_a_proxy_resets_the_stream() -> None:
    running = pb.WatchJobResponse(job=pb.Job(job_id="j", status=pb.Job.IN_PROGRESS))
    done = pb.WatchJobResponse(job=pb.Job(job_id="j", status=pb.Job.COMPLETED))
    async with scripted_jobs(WatchJob=[running, Refusal(StatusCode.INTERNAL), done]) as (
        server,
        jobs,
    ):
        job = await jobs.wait("j")

    assert job.status == pb.Job.COMPLETED
    assert server.calls["WatchJob"] == 2


def test_retry_policy_needs_at_least_one_attempt() -> None:
    with pytest.raises(ValueError, match="max_attempts"):
        RetryPolicy(max_attempts=0)
