"""JobsClient: each call through the real server."""

import asyncio
import re
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.client import Connection, DeviceClient, JobsClient, RetryPolicy, errors
from tests.client.relay import running_relay
from tests.support.database import Database
from tests.support.server import Server, reserved_address, running_server
from tests.support.waiting import TIMEOUT


@pytest.fixture
async def fleet(database: Database, tenant: str) -> None:
    """Three devices in the test's tenant."""
    await database.add_devices(tenant, 3, group="north")


async def fail_all(server: Server, tenant: str, code: str) -> None:
    """Let each of the three devices start its next execution and fail."""
    for device_id in ("d00001", "d00002", "d00003"):
        async with DeviceClient(server.address, tenant=tenant, device_id=device_id) as device:
            execution = await device.start_next()
            assert execution
            await device.fail(execution, code, {"reason": "checksum"})


async def test_create_generates_a_job_id_and_get_returns_the_job(
    jobs: JobsClient, fleet: None
) -> None:
    created = await jobs.create("reboot", {"delay": 5}, target_group_id="north")

    job = await jobs.get(created.job_id, executions_limit=2)

    assert uuid.UUID(created.job_id).version == 4
    assert dict(job.document_params) == {"delay": 5}
    assert job.created_by == "olivia"
    assert [e.device_id for e in job.executions] == ["d00001", "d00002"]


async def test_caller_returns_the_authenticated_caller(jobs: JobsClient, tenant: str) -> None:
    caller = await jobs.caller()

    assert (caller.tenant_id, caller.user_id) == (tenant, "olivia")
    assert "fleet.jobs.v1.JobService.GetCaller" in caller.methods


async def test_create_rejects_two_targets(jobs: JobsClient) -> None:
    with pytest.raises(ValueError, match="only one target"):
        await jobs.create("reboot", target_group_id="north", target_all=True)


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"serial": 2**53 + 1}, ".serial"),
        ({"a": [1, ({"b": -(2**63)},)]}, ".a[1][0].b"),
        ({"a": 10**400}, ".a"),
    ],
)
async def test_create_refuses_an_integer_that_would_lose_digits(
    jobs: JobsClient, params: dict[str, object], path: str
) -> None:
    problem = (
        f"document_params{path} is an integer beyond ±2^53 and would lose digits; send it as a"
    )

    with pytest.raises(ValueError, match=re.escape(problem)):
        await jobs.create("reboot", params, target_all=True)


async def test_create_keeps_the_largest_exact_integers(jobs: JobsClient, fleet: None) -> None:
    params = {"a": [2**53, -(2**53), True, 0.5, 1e300], "b": str(2**53 + 1)}

    created = await jobs.create("reboot", params, target_all=True)

    job = await jobs.get(created.job_id)
    assert dict(job.document_params) == params


async def test_list_reads_all_pages_that_match_the_filters(jobs: JobsClient, fleet: None) -> None:
    for number in range(5):
        await jobs.create("reboot", target_all=True, job_id=f"j{number}")
    await jobs.create("update", target_all=True, job_id="other")
    await jobs.cancel("j2", reason="wrong")
    hour = timedelta(hours=1)
    now = datetime.now(UTC)

    active = jobs.list(
        status=pb.Job.IN_PROGRESS,
        document_type="reboot",
        target_all=True,
        created_from=now - hour,
        created_until=now + hour,
        page_size=2,
    )

    assert [job.job_id async for job in active] == ["j4", "j3", "j1", "j0"]


async def test_executions_read_all_pages_of_a_job_and_of_a_device(
    jobs: JobsClient, fleet: None
) -> None:
    await jobs.create("reboot", target_all=True, job_id="first")
    await jobs.create("reboot", target_all=True, job_id="second")

    of_job = [e.device_id async for e in jobs.executions("first", page_size=1)]
    of_device = [e.job_id async for e in jobs.executions(device_id="d00002", page_size=1)]

    assert of_job == ["d00001", "d00002", "d00003"]
    assert of_device == ["second", "first"]


async def test_list_continues_after_its_limit_with_its_next_page_token(
    jobs: JobsClient, fleet: None
) -> None:
    for number in range(5):
        await jobs.create("reboot", target_all=True, job_id=f"j{number}")

    first = jobs.list(limit=3, page_size=2)
    shown = [job.job_id async for job in first]
    rest = jobs.list(page_token=first.next_page_token)
    pages = [[job.job_id for job in page] async for page in rest.pages()]

    assert (shown, pages) == (["j4", "j3", "j2"], [["j1", "j0"]])
    assert (first.next_page_token != "", rest.next_page_token) == (True, "")


async def test_failures_retry_and_attempts_follow_a_failed_execution(
    jobs: JobsClient, server: Server, tenant: str, fleet: None
) -> None:
    await jobs.create("reboot", target_all=True, job_id="j")
    await fail_all(server, tenant, "CHECKSUM")

    summary = await jobs.failures("j")
    retried = await jobs.retry("j", [pb.JobExecution.FAILED], failure_codes=["CHECKSUM"])
    attempts = [a.execution_number async for a in jobs.attempts("j", "d00001")]

    assert [(f.failure_code, f.execution_count) for f in summary.failures] == [("CHECKSUM", 3)]
    assert retried.retried_count == 3
    assert attempts == [2, 1]


async def test_explain_says_what_a_device_waits_for(jobs: JobsClient, fleet: None) -> None:
    await jobs.create("reboot", target_all=True, job_id="j")
    await jobs.pause("j", reason="leaks")

    (blocker,) = (await jobs.explain("j", "d00001")).blockers

    assert blocker.kind == pb.StartBlocker.JOB_PAUSED
    assert blocker.pause.reason == "leaks"


async def test_pause_and_resume_change_the_status(jobs: JobsClient, fleet: None) -> None:
    await jobs.create("reboot", target_all=True, job_id="j")

    paused = await jobs.pause("j", reason="error rate")
    resumed = await jobs.resume("j", etag=paused.etag)

    assert (paused.status, paused.pause.reason) == (pb.Job.PAUSED, "error rate")
    assert resumed.status == pb.Job.IN_PROGRESS
    with pytest.raises(errors.JobChanged):
        await jobs.pause("j", etag=paused.etag)


async def test_approve_advance_and_update_control_a_rollout(
    jobs: JobsClient, server: Server, tenant: str, fleet: None
) -> None:
    gate = pb.Gate(require_approval=True, allow_self_approval=True)
    stages = [
        pb.Stage(device_count=1, gate=gate),
        pb.Stage(device_count=1),
        pb.Stage(remainder=True),
    ]
    await jobs.create("reboot", target_all=True, job_id="j", rollout=pb.Rollout(stages=stages))

    updated = await jobs.update("j", ["in_progress_timeout_minutes"], in_progress_timeout_minutes=7)
    approved = await jobs.approve("j", 0, comment="go")
    advanced = await jobs.advance("j", stage=1)

    assert updated.in_progress_timeout_minutes == 7
    assert approved.stages[0].approval.comment == "go"
    assert advanced.stages[1].state == pb.JobStage.OPEN


async def test_cancel_execution_cancel_and_delete_end_a_job(
    jobs: JobsClient, tenant: str, fleet: None
) -> None:
    await jobs.create("reboot", target_all=True, job_id="j")

    execution = await jobs.cancel_execution("j", "d00001", reason="spare")
    await jobs.cancel("j", force=True)
    await jobs.delete("j")

    assert execution.status == pb.JobExecution.REJECTED
    with pytest.raises(errors.JobNotFound) as raised:
        await jobs.get("j")
    assert raised.value.metadata == {"jobId": "j", "tenantId": tenant}
    assert raised.value.request_id


async def test_error_of_an_invalid_request_names_the_fields(jobs: JobsClient) -> None:
    with pytest.raises(errors.InvalidField) as raised:
        await jobs.create("reboot", target_group_id="north", expires_in_hours=0)

    assert list(raised.value.violations) == ["expires_in_hours"]


async def test_wait_returns_the_finished_job(jobs: JobsClient, fleet: None) -> None:
    await jobs.create("reboot", target_all=True, job_id="j")
    waiting = asyncio.create_task(jobs.wait("j"))

    await jobs.cancel("j", reason="enough")

    assert (await waiting).cancel_reason == "enough"


async def test_watch_raises_when_the_job_does_not_exist(jobs: JobsClient) -> None:
    with pytest.raises(errors.JobNotFound):
        await anext(jobs.watch("missing"))


@pytest.mark.slow
async def test_watch_continues_after_the_server_restarts(
    database: Database, tenant: str, quick: RetryPolicy
) -> None:
    await database.add_devices(tenant, 3)
    with reserved_address() as address:
        async with JobsClient(address, tenant=tenant, retry=quick) as jobs:
            async with running_server(database.request_dsn, JOBS_LISTEN=address):
                await jobs.create("reboot", target_all=True, job_id="j")
                states = jobs.watch("j")
                first = await anext(states)
            async with running_server(database.request_dsn, JOBS_LISTEN=address):
                await jobs.cancel_execution("j", "d00001")
                async with asyncio.timeout(TIMEOUT):
                    second = await anext(states)
                    await jobs.cancel("j")
                    rest = [state.status async for state in states]

    # The state before the restart is not repeated.
    assert first.execution_counts == pb.ExecutionCounts(queued=3)
    assert second.execution_counts == pb.ExecutionCounts(queued=2, rejected=1)
    assert rest == [pb.Job.CANCELED]


async def test_connection_spreads_calls_over_its_channels(
    server: Server, tenant: str, fleet: None
) -> None:
    async with (
        running_relay(server.address) as relay,
        Connection(relay.address, channels=3) as connection,
        JobsClient(connection, tenant=tenant) as jobs,
        DeviceClient(connection, tenant=tenant, device_id="d00001") as device,
    ):
        for _ in range(6):
            assert [job async for job in jobs.list()] == []
            assert [execution async for execution in device.pending()] == []

    assert relay.connection_count == 3


def test_client_refuses_to_send_a_token_without_tls() -> None:
    with pytest.raises(ValueError, match="TLS"):
        JobsClient("jobs.example.com:443", token=lambda: "secret")
