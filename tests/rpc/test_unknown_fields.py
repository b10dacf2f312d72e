"""Fields that the contract of the server does not have, in requests of newer clients."""

from typing import Any

import pytest
from fleet.jobs.v1 import fleet_pb2
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.device_jobs_pb2 import UpdateExecutionRequest
from fleet.jobs.v1.jobs_pb2 import JobExecution
from google.protobuf.message import Message
from grpc import StatusCode

from jobs_grpc.contract.methods import METHODS, SERVICES
from tests.support.callers import Operator
from tests.support.failures import expect_error, expect_failure
from tests.support.server import Server
from tests.support.waiting import TIMEOUT
from tests.support.world import World

# The text "a" in the field 1000.
UNKNOWN = b"\xc2\x3e\x01a"

DEVICES = "/fleet.jobs.v1.DeviceJobService"

REFUSING = {
    f"/{service.full_name}/{method.name}"
    for service in SERVICES
    for method in service.methods
    if f"/{service.full_name}" != DEVICES
}


async def call(server: Server, tenant: str, method: str, raw: bytes) -> list[bytes]:
    """Call a method with a serialized request as an admin and a device."""
    stub: Any = server.channel.stream_stream(method)
    metadata = (("x-tenant-id", tenant), ("x-device-id", "d00001"), ("x-roles", "admin,device"))
    return [raw async for raw in stub(iter([raw]), metadata=metadata, timeout=TIMEOUT)]


def with_unknown(message: Message, *path: str | int) -> bytes:
    """Return a request with the unknown field in the message at a path."""
    nested: Any = message
    for step in path:
        nested = nested[step] if isinstance(step, int) else getattr(nested, step)
    nested.MergeFromString(UNKNOWN)
    return message.SerializeToString()


@pytest.mark.parametrize("method", sorted(REFUSING))
async def test_unknown_field_is_refused_in_calls_of_operators(world: World, method: str) -> None:
    failure = await expect_error("INVALID_FIELD", call(world.server, world.tenant, method, UNKNOWN))

    problem = "the request has the unknown field 1000; the client is newer than the server"
    assert failure.violations == {"1000": problem}


async def test_unknown_field_is_ignored_in_calls_of_devices(world: World) -> None:
    await world.add_devices(1)
    await world.create()
    success = UpdateExecutionRequest(job_id="j", status=JobExecution.SUCCEEDED)

    for method, raw in (
        ("ListPendingExecutions", UNKNOWN),
        ("StartNextExecution", UNKNOWN),
        ("UpdateExecution", success.SerializeToString() + UNKNOWN),
    ):
        assert await call(world.server, world.tenant, f"{DEVICES}/{method}", raw)

    assert (await world.operator.get("j")).status == pb.Job.COMPLETED
    assert REFUSING.isdisjoint(m for m, rules in METHODS.items() if rules.ignores_unknown_fields)


STAGE = pb.Stage(remainder=True, gate=pb.Gate(min_succeeded_percent=5))
JOB = pb.CreateJobRequest(
    document_type="a", target_all=True, rollout=pb.Rollout(stages=[STAGE, STAGE])
)


@pytest.mark.parametrize(
    ("method", "request_", "path", "field"),
    [
        ("JobService/CreateJob", JOB, ["rollout", "stages", 1, "gate"], "rollout.stages[1].gate"),
        (
            "JobService/CreateJob",
            pb.CreateJobRequest(target_failed_in=pb.FailedIn(job_id="j")),
            ["target_failed_in"],
            "target_failed_in",
        ),
        ("JobService/UpdateJob", pb.UpdateJobRequest(job_id="j"), ["rollout"], "rollout"),
        (
            "FleetService/UpdateDevices",
            fleet_pb2.UpdateDevicesRequest(
                devices=[fleet_pb2.Device(device_id="d", labels={"a": "b"})] * 2
            ),
            ["devices", 1],
            "devices[1]",
        ),
    ],
)
async def test_unknown_field_is_refused_in_nested_messages(
    server: Server, tenant: str, method: str, request_: Message, path: list[Any], field: str
) -> None:
    request: Any = type(request_)()
    request.CopyFrom(request_)

    failure = await expect_error(
        "INVALID_FIELD",
        call(server, tenant, f"/fleet.jobs.v1.{method}", with_unknown(request, *path)),
    )

    problem = f"{field} has the unknown field 1000; the client is newer than the server"
    assert failure.violations == {f"{field}.1000": problem}


async def test_unknown_field_is_ignored_in_documents_and_times(world: World) -> None:
    await world.add_devices(1)
    request = pb.CreateJobRequest(document_type="a", target_all=True)
    request.document_params.MergeFromString(UNKNOWN)
    request.document_params["a"] = {}
    request.document_params.fields["a"].struct_value.MergeFromString(UNKNOWN)
    raw = with_unknown(request, "start_at")

    assert await call(world.server, world.tenant, "/fleet.jobs.v1.JobService/CreateJob", raw)


async def test_refusal_names_20_of_the_unknown_fields(server: Server, tenant: str) -> None:
    fields = b"".join(bytes([number << 3 | 0x80, 0x3E, 0]) for number in range(16))
    fields += b"".join(bytes([number << 3 | 0x80, 0x3F, 0]) for number in range(16))

    failure = await expect_error(
        "INVALID_FIELD", call(server, tenant, "/fleet.jobs.v1.JobService/GetJob", fields)
    )

    assert list(failure.violations) == [str(number) for number in range(992, 1012)]


@pytest.mark.parametrize("in_document", [False, True])
async def test_many_unknown_fields_are_refused_without_a_search(
    server: Server, tenant: str, *, in_document: bool
) -> None:
    """A search of this request blocks the event loop for 500 ms."""
    request = pb.CreateJobRequest(document_type="a", target_all=True)
    searched: Any = request.document_params if in_document else request
    searched.MergeFromString(b"\xa0\x1f\x01" * 80_000)

    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        raw = request.SerializeToString()
        await call(server, tenant, "/fleet.jobs.v1.JobService/CreateJob", raw)

    [(field, problem)] = failure.violations.items()
    assert field == ""
    assert problem.startswith("the request has 24000")
    assert problem.endswith(" bytes of unknown fields; the client is newer than the server")


async def test_role_is_checked_before_unknown_fields(server: Server, operator: Operator) -> None:
    stub: Any = server.channel.unary_unary("/fleet.jobs.v1.JobService/DeleteJob")
    metadata = (("x-tenant-id", operator.tenant), ("x-roles", "viewer"))

    await expect_error("ROLE_REQUIRED", stub(UNKNOWN, metadata=metadata, timeout=TIMEOUT))
