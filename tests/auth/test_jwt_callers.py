"""JOBS_AUTH=jwt: the caller that a token identifies, and until when."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.auth.support import KEY, jwt_settings
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.identities import claims, token
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT


@pytest.mark.parametrize("key", ["x-tenant-id", "x-user-id", "x-device-id"])
async def test_call_is_rejected_when_metadata_contradicts_the_token(
    jwt: Server, tenant: str, key: str
) -> None:
    text = token(KEY, claims(tenant, "viewer", "device", device_id="d"))

    # The second call finds the token in the cache.
    for _ in range(2):
        failure = await expect_error("METADATA_MISMATCH", jwt.bearer(text, (key, "other")).list())
        assert failure.metadata == {"key": key}


async def test_roles_come_from_the_token_when_x_roles_is_sent(jwt: Server, tenant: str) -> None:
    text = token(KEY, claims(tenant, "viewer"))

    await expect_error("ROLE_REQUIRED", jwt.bearer(text, ("x-roles", "admin")).delete("j"))
    await expect_error("ROLE_REQUIRED", jwt.bearer(token(KEY, claims(tenant))).list())


def list_pending(server: Server, text: str, *metadata: tuple[str, str]) -> Any:
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)
    authorization = ("authorization", f"Bearer {text}")
    request = device_pb.ListPendingExecutionsRequest()
    return stub.ListPendingExecutions(request, metadata=(authorization, *metadata), timeout=TIMEOUT)


async def test_device_comes_from_the_token(database: Database, jwt: Server, tenant: str) -> None:
    await database.add_devices(tenant, ["own", "other"])
    await jwt.bearer(token(KEY, claims(tenant, "operator"))).create(job_id="j", target_all=True)
    text = token(KEY, claims(tenant, "device", device_id="own"))

    [execution] = (await list_pending(jwt, text)).executions
    assert execution.device_id == "own"
    await expect_error("METADATA_MISMATCH", list_pending(jwt, text, ("x-device-id", "other")))
    await expect_error("ROLE_REQUIRED", jwt.bearer(text).list())
    await expect_error("DEVICE_REQUIRED", list_pending(jwt, token(KEY, claims(tenant, "device"))))
    await expect_error(
        "METADATA_MISMATCH",
        list_pending(jwt, token(KEY, claims(tenant, "device")), ("x-device-id", "own")),
    )


async def test_device_reports_only_for_itself_and_bridge_for_any_device(
    database: Database, jwt: Server, tenant: str
) -> None:
    await database.add_devices(tenant, ["own", "other"])
    await jwt.bearer(token(KEY, claims(tenant, "operator"))).create(job_id="j", target_all=True)
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(jwt.channel)

    async def report(device: str, text: str) -> device_pb.ReportExecutionsResponse:
        update = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.SUCCEEDED)
        request = device_pb.ReportExecutionsRequest(device_id=device, report=update)
        metadata = (("authorization", f"Bearer {text}"),)
        call = stub.ReportExecutions(iter([request]), metadata=metadata, timeout=TIMEOUT)
        [response] = [response async for response in call]
        assert isinstance(response, device_pb.ReportExecutionsResponse)
        return response

    device = token(KEY, claims(tenant, "device", device_id="own"))
    refused = await report("other", device)
    assert refused.error.message == "device_id must be empty or the id of the calling device"
    bridge = token(KEY, claims(tenant, "bridge", device_id=None))
    assert (await report("other", bridge)).execution.status == pb.JobExecution.SUCCEEDED


@pytest.mark.parametrize("roles", [["bridge"], ["bridge", "device"]])
async def test_report_is_a_devices_own_when_the_token_names_the_device(
    database: Database, jwt: Server, tenant: str, roles: list[str]
) -> None:
    await database.add_devices(tenant, ["own", "other"])
    operator = jwt.bearer(token(KEY, claims(tenant, "operator")))
    await operator.create(job_id="j", target_all=True)
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(jwt.channel)

    async def start(device: str, **names: str) -> None:
        text = token(KEY, claims(tenant, *roles, sub="s", **names))
        metadata = (("authorization", f"Bearer {text}"), ("x-device-id", device))
        request = device_pb.StartExecutionRequest(job_id="j")
        await stub.StartExecution(request, metadata=metadata, timeout=TIMEOUT)

    await start("own", device_id="own")
    await start("other")

    other, own = (await operator.get("j")).executions
    assert (other.reported_by, own.HasField("reported_by")) == ("s", False)


async def test_bridge_acts_for_the_device_in_x_device_id(
    database: Database, jwt: Server, tenant: str
) -> None:
    await database.add_devices(tenant, ["d"])
    await jwt.bearer(token(KEY, claims(tenant, "operator"))).create(job_id="j", target_all=True)
    text = token(KEY, claims(tenant, "bridge"))

    for device, count in (("d", 1), ("other", 0)):
        pending = (await list_pending(jwt, text, ("x-device-id", device))).executions
        assert len(pending) == count


async def test_claims_are_read_from_configured_names_and_paths(
    database: Database, tenant: str, tmp_path: Path
) -> None:
    names = {
        "JOBS_JWT_TENANT_CLAIM": "https://acme.example/tenant",
        "JOBS_JWT_ROLES_CLAIM": "realm_access.roles",
        "JOBS_JWT_SUBJECT_CLAIM": "email",
    }
    settings = jwt_settings(tmp_path) | names
    async with running_server(database.request_dsn, **settings) as server:
        payload = claims("wrong") | {
            "https://acme.example/tenant": tenant,
            "realm_access": {"roles": ["offline_access", "operator"]},
            "email": "olivia@acme.example",
        }
        await database.add_devices(tenant, 1)
        caller = server.bearer(token(KEY, payload))
        await caller.create(job_id="j", target_all=True)
        assert (await caller.get("j")).created_by == "olivia@acme.example"


async def test_roles_claim_may_be_a_space_separated_text(jwt: Server, tenant: str) -> None:
    payload = claims(tenant) | {"roles": "openid viewer"}

    assert not (await jwt.bearer(token(KEY, payload)).list()).jobs


@pytest.mark.parametrize("roles", [7, {"admin": True}, [["admin"]], "administrator", None])
async def test_caller_has_no_role_when_roles_claim_has_none(
    jwt: Server, tenant: str, roles: Any
) -> None:
    payload = claims(tenant) | {"roles": roles}

    await expect_error("ROLE_REQUIRED", jwt.bearer(token(KEY, payload)).list())


@pytest.mark.slow
async def test_stream_ends_when_its_token_expires(
    database: Database, tenant: str, tmp_path: Path
) -> None:
    await database.add_devices(tenant, ["d"])
    variables = jwt_settings(tmp_path) | {"JOBS_JWT_LEEWAY": "0"}
    async with running_server(database.request_dsn, **variables) as server:
        await server.bearer(token(KEY, claims(tenant, "operator"))).create(
            job_id="j", target_all=True
        )
        payload = claims(tenant, "viewer", "device", device_id="d", exp=int(time.time()) + 2)
        caller = server.bearer(token(KEY, payload))
        stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)

        async def watch_job() -> None:
            watch: Any = caller.stub.WatchJob(
                pb.WatchJobRequest(job_id="j"), metadata=caller.metadata, timeout=TIMEOUT
            )
            async for response in watch:
                assert response.job.job_id == "j"

        async def watch_pending() -> None:
            request = device_pb.WatchPendingExecutionsRequest()
            watch = stub.WatchPendingExecutions(request, metadata=caller.metadata, timeout=TIMEOUT)
            async for response in watch:
                assert len(response.executions) == 1

        async def report() -> None:
            call = stub.ReportExecutions(metadata=caller.metadata, timeout=TIMEOUT)
            update = device_pb.UpdateExecutionRequest(
                job_id="j", status=pb.JobExecution.IN_PROGRESS
            )
            await call.write(device_pb.ReportExecutionsRequest(report=update))
            assert (await call.read()).execution.device_id == "d"
            await call.read()

        async def expect_expiry(read_stream: Any) -> None:
            failure = await expect_error("INVALID_TOKEN", read_stream())
            assert failure.message == "The token has expired"
            assert time.time() >= payload["exp"]

        await asyncio.gather(*map(expect_expiry, (watch_job, watch_pending, report)))
        await expect_error("INVALID_TOKEN", caller.list())
