"""The policy covers every method, and the server enforces it."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2, events_pb2, fleet_pb2, jobs_pb2
from grpc import StatusCode

from jobs_grpc.auth.policy import POLICY, PUBLIC, allowed_roles, is_public
from jobs_grpc.auth.roles import Role
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT

if TYPE_CHECKING:
    from google.protobuf.message import Message

SERVICES = (
    jobs_pb2.DESCRIPTOR.services_by_name["JobService"],
    fleet_pb2.DESCRIPTOR.services_by_name["FleetService"],
    events_pb2.DESCRIPTOR.services_by_name["EventService"],
    device_jobs_pb2.DESCRIPTOR.services_by_name["DeviceJobService"],
)
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for service in SERVICES
    for method in service.methods
}
UNARY = sorted(
    name
    for name, method in METHODS.items()
    if not method.client_streaming and not method.server_streaming
)
MODULES: dict[str, Any] = {
    "JobService": jobs_pb2,
    "FleetService": fleet_pb2,
    "EventService": events_pb2,
    "DeviceJobService": device_jobs_pb2,
}


@contextlib.contextmanager
def allow_not_found_or_invalid() -> Iterator[None]:
    """Ignore NOT_FOUND and INVALID_ARGUMENT: authorization accepted the call."""
    try:
        yield
    except grpc.aio.AioRpcError as e:
        if e.code() not in (StatusCode.NOT_FOUND, StatusCode.INVALID_ARGUMENT):
            raise


async def call(server: Server, method: str, *metadata: tuple[str, str], **fields: Any) -> None:
    """Make a unary call by the full name of its method."""
    service, name = method.removeprefix("/fleet.jobs.v1.").split("/")
    request: Message = getattr(MODULES[service], f"{name}Request")(**fields)
    response: Any = getattr(MODULES[service], f"{name}Response")
    stub: Any = server.channel.unary_unary(
        method,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response.FromString,
    )
    await stub(request, metadata=metadata, timeout=TIMEOUT)


def test_policy_lists_every_call_of_the_contract() -> None:
    listed = {method for method, roles in POLICY.items() if roles is not PUBLIC}

    assert listed == set(METHODS)


def test_only_health_and_reflection_are_public() -> None:
    public = {method for method, roles in POLICY.items() if roles is PUBLIC}

    assert all(method.startswith(("/grpc.health.v1.", "/grpc.reflection.")) for method in public)


def test_no_role_may_call_a_method_that_the_policy_lacks() -> None:
    for method in ("/fleet.jobs.v1.JobService/NoSuchMethod", "/grpc.health.v1.Health/Format"):
        assert allowed_roles(method) == frozenset()
        assert not is_public(method)


def test_is_public_only_for_methods_outside_the_contract() -> None:
    assert {method for method in POLICY if is_public(method)} == set(POLICY) - set(METHODS)


@pytest.mark.parametrize(
    ("role", "methods"),
    [
        ("viewer", {"ListJobs", "GetJob", "ListJobExecutions", "ListExecutionAttempts"}),
        ("operator", {"CreateJob", "CancelJob", "CancelExecution", "RetryExecutions"}),
        ("operator", {"PauseJob", "ResumeJob", "AdvanceJob", "UpdateJob"}),
        ("admin", {"DeleteJob"}),
    ],
)
def test_operator_extends_viewer_and_admin_extends_operator(role: str, methods: set[str]) -> None:
    order = ["viewer", "operator", "admin"]
    for method, roles in POLICY.items():
        name = method.rpartition("/")[2]
        if name in methods and method.startswith("/fleet.jobs.v1.JobService/"):
            assert roles is not None
            assert roles - {Role.APPROVER} == frozenset(map(Role, order[order.index(role) :]))


def test_approver_reads_and_approves_and_does_nothing_else() -> None:
    reads = {method for method, roles in POLICY.items() if roles and Role.VIEWER in roles}
    approves = {"/fleet.jobs.v1.JobService/ApproveStage"}
    assert {method for method, roles in POLICY.items() if roles and Role.APPROVER in roles} == (
        reads | approves
    )
    assert POLICY["/fleet.jobs.v1.JobService/ApproveStage"] == frozenset(
        {Role.APPROVER, Role.ADMIN}
    )


@pytest.mark.parametrize("method", UNARY)
@pytest.mark.parametrize("role", sorted(Role))
async def test_server_enforces_the_policy_for_each_role_and_method(
    server: Server, tenant: str, role: Role, method: str
) -> None:
    """An authorized call with an empty request succeeds, or has an invalid or unknown field."""
    metadata = [("x-tenant-id", tenant), ("x-roles", str(role)), ("x-device-id", "d")]
    roles = allowed_roles(method)
    assert roles is not None

    if role not in roles:
        with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED") as failure:
            await call(server, method, *metadata)
        assert failure.metadata == {"roles": ",".join(sorted(roles))}
    elif "List" in method or "StartNext" in method or "GetCaller" in method:
        fields = {"job_id": "j"} if method.endswith("ListJobExecutions") else {}
        with allow_not_found_or_invalid():
            await call(server, method, *metadata, **fields)
    else:
        with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
            await call(server, method, *metadata)


async def test_caller_may_do_what_any_of_its_roles_allows(server: Server, tenant: str) -> None:
    caller = server.caller(("x-tenant-id", tenant), ("x-roles", "viewer, device"))

    assert not (await caller.list()).jobs
    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED") as failure:
        await caller.delete("j")
    assert failure.message == "This call needs the role admin"


@pytest.mark.parametrize("roles", ["", ",", "root", "viewer,root", "VIEWER", "viewer admin"])
async def test_call_is_rejected_when_x_roles_contains_an_unknown_role(
    server: Server, tenant: str, roles: str
) -> None:
    with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_METADATA") as failure:
        await server.caller(("x-tenant-id", tenant), ("x-roles", roles)).list()
    assert failure.message.startswith("x-roles must be")


async def test_call_is_rejected_when_x_roles_is_sent_twice(server: Server, tenant: str) -> None:
    roles = [("x-roles", "viewer"), ("x-roles", "admin")]

    with expect_failure(StatusCode.UNAUTHENTICATED, "DUPLICATE_METADATA"):
        await server.caller(("x-tenant-id", tenant), *roles).list()


@pytest.mark.slow
async def test_caller_has_default_roles_without_x_roles(
    database: Database, server: Server, tenant: str
) -> None:
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await server.operator(tenant).delete("nowhere")

    async with running_server(database.request_dsn, JOBS_DEFAULT_ROLES="viewer") as strict:
        assert not (await strict.operator(tenant).list()).jobs
        with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
            await strict.operator(tenant).delete("nowhere")
    async with running_server(database.request_dsn, JOBS_DEFAULT_ROLES="none") as strict:
        with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
            await strict.operator(tenant).list()


async def test_caller_is_only_a_device_when_it_sends_x_device_id_without_x_roles(
    server: Server, tenant: str
) -> None:
    assert not (await server.device(tenant, "d").pending()).executions
    caller = server.caller(("x-tenant-id", tenant), ("x-device-id", "d"))
    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await caller.list()


async def test_bridge_must_name_a_device(server: Server, tenant: str) -> None:
    method = "/fleet.jobs.v1.DeviceJobService/StartNextExecution"
    bridge = [("x-tenant-id", tenant), ("x-roles", "bridge")]

    with expect_failure(StatusCode.UNAUTHENTICATED, "DEVICE_REQUIRED"):
        await call(server, method, *bridge)
    await call(server, method, *bridge, ("x-device-id", "d"))


async def test_report_stream_is_rejected_when_device_is_not_named(
    server: Server, tenant: str
) -> None:
    stub: Any = server.device(tenant, "d").stub
    metadata = (("x-tenant-id", tenant), ("x-roles", "device"))

    with expect_failure(StatusCode.UNAUTHENTICATED, "DEVICE_REQUIRED"):
        await stub.ReportExecutions(iter([]), metadata=metadata, timeout=TIMEOUT).read()


async def test_call_is_rejected_when_tenant_contains_a_comma(server: Server) -> None:
    """A proxy may join two headers into one value with a comma."""
    with expect_failure(StatusCode.UNAUTHENTICATED, "DUPLICATE_METADATA"):
        await server.operator("a,b").list()


async def test_token_is_rejected_in_metadata_mode(operator: Operator) -> None:
    """A gateway that requires tokens relies on the server to verify them."""
    metadata = (*operator.metadata, ("authorization", "Bearer made-up"))

    with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN") as failure:
        await operator.stub.ListJobs(jobs_pb2.ListJobsRequest(), metadata=metadata, timeout=TIMEOUT)

    assert "cannot be verified" in failure.message
