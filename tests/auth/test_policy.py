"""Who may call what: the table is whole, and the server goes by it."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2, jobs_pb2
from grpc import StatusCode

from jobs_grpc.auth.policy import POLICY, PUBLIC, allowed_roles, is_public
from jobs_grpc.auth.principal import Role
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT

if TYPE_CHECKING:
    from google.protobuf.message import Message

SERVICES = (
    jobs_pb2.DESCRIPTOR.services_by_name["JobService"],
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
MODULES: dict[str, Any] = {"JobService": jobs_pb2, "DeviceJobService": device_jobs_pb2}


@contextlib.contextmanager
def suppress_not_there() -> Iterator[None]:
    """The call may find nothing, or lack a field; it must not be refused."""
    try:
        yield
    except grpc.aio.AioRpcError as e:
        if e.code() not in (StatusCode.NOT_FOUND, StatusCode.INVALID_ARGUMENT):
            raise


async def call(server: Server, method: str, *stated: tuple[str, str], **fields: Any) -> None:
    """Make a call with one answer by its full name."""
    service, name = method.removeprefix("/fleet.jobs.v1.").split("/")
    request: Message = getattr(MODULES[service], f"{name}Request")(**fields)
    answer: Any = getattr(MODULES[service], f"{name}Response")
    stub: Any = server.channel.unary_unary(
        method,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    await stub(request, metadata=stated, timeout=TIMEOUT)


def test_every_call_of_the_contract_has_a_line() -> None:
    ours = {method for method, roles in POLICY.items() if roles is not PUBLIC}

    assert ours == set(METHODS)


def test_only_health_and_reflection_are_public() -> None:
    public = {method for method, roles in POLICY.items() if roles is PUBLIC}

    assert all(method.startswith(("/grpc.health.v1.", "/grpc.reflection.")) for method in public)


def test_what_has_no_line_is_for_nobody() -> None:
    for method in ("/fleet.jobs.v1.JobService/Format", "/grpc.health.v1.Health/Format"):
        assert allowed_roles(method) == frozenset()
        assert not is_public(method)


def test_what_has_no_roles_is_open() -> None:
    assert {method for method in POLICY if is_public(method)} == set(POLICY) - set(METHODS)


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("viewer", {"ListJobs", "GetJob", "ListJobExecutions", "ListExecutionAttempts"}),
        ("operator", {"CreateJob", "CancelJob", "CancelExecution", "RetryExecutions"}),
        ("admin", {"DeleteJob"}),
    ],
)
def test_each_role_may_what_the_one_before_may_and_more(role: str, may: set[str]) -> None:
    order = ["viewer", "operator", "admin"]
    for method, roles in POLICY.items():
        name = method.rpartition("/")[2]
        if name in may and method.startswith("/fleet.jobs.v1.JobService/"):
            assert roles == frozenset(map(Role, order[order.index(role) :]))


@pytest.mark.parametrize("method", UNARY)
@pytest.mark.parametrize("role", sorted(Role))
async def test_a_role_reaches_what_the_table_says(
    server: Server, tenant: str, role: Role, method: str
) -> None:
    """An empty request that passes the policy is refused for what it lacks, or answered."""
    stated = [("x-tenant-id", tenant), ("x-roles", str(role)), ("x-device-id", "d")]
    roles = allowed_roles(method)
    assert roles is not None

    if role not in roles:
        with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED") as failure:
            await call(server, method, *stated)
        assert failure.metadata == {"roles": ",".join(sorted(roles))}
    elif "List" in method or "StartNext" in method:
        fields = {"job_id": "j"} if method.endswith("ListJobExecutions") else {}
        with suppress_not_there():
            await call(server, method, *stated, **fields)
    else:
        with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
            await call(server, method, *stated)


async def test_roles_add_up(server: Server, tenant: str) -> None:
    caller = server.caller(("x-tenant-id", tenant), ("x-roles", "viewer, device"))

    assert not (await caller.list()).jobs
    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED") as failure:
        await caller.delete("j")
    assert failure.message == "This call needs the role admin"


@pytest.mark.parametrize("roles", ["", ",", "root", "viewer,root", "VIEWER", "viewer admin"])
async def test_roles_that_are_none_are_refused_not_ignored(
    server: Server, tenant: str, roles: str
) -> None:
    with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_METADATA") as failure:
        await server.caller(("x-tenant-id", tenant), ("x-roles", roles)).list()
    assert failure.message.startswith("x-roles must be")


async def test_roles_are_stated_once(server: Server, tenant: str) -> None:
    twice = [("x-roles", "viewer"), ("x-roles", "admin")]

    with expect_failure(StatusCode.UNAUTHENTICATED, "DUPLICATE_METADATA"):
        await server.caller(("x-tenant-id", tenant), *twice).list()


async def test_who_states_no_roles_has_the_default_ones(
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


async def test_who_states_a_device_and_no_roles_is_that_device_and_no_more(
    server: Server, tenant: str
) -> None:
    assert not (await server.device(tenant, "d").pending()).executions
    caller = server.caller(("x-tenant-id", tenant), ("x-device-id", "d"))
    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await caller.list()


async def test_a_bridge_says_which_device_it_acts_for(server: Server, tenant: str) -> None:
    method = "/fleet.jobs.v1.DeviceJobService/StartNextExecution"
    bridge = [("x-tenant-id", tenant), ("x-roles", "bridge")]

    with expect_failure(StatusCode.UNAUTHENTICATED, "DEVICE_REQUIRED"):
        await call(server, method, *bridge)
    await call(server, method, *bridge, ("x-device-id", "d"))


async def test_a_device_that_does_not_say_which_reports_nothing(
    server: Server, tenant: str
) -> None:
    stub: Any = server.device(tenant, "d").stub
    stated = (("x-tenant-id", tenant), ("x-roles", "device"))

    with expect_failure(StatusCode.UNAUTHENTICATED, "DEVICE_REQUIRED"):
        await stub.ReportExecutions(iter([]), metadata=stated, timeout=TIMEOUT).read()


async def test_a_tenant_with_a_comma_is_two(server: Server) -> None:
    """A proxy that folds two headers makes one of them."""
    with expect_failure(StatusCode.UNAUTHENTICATED, "DUPLICATE_METADATA"):
        await server.operator("a,b").list()


async def test_where_metadata_is_believed_a_token_is_refused(operator: Operator) -> None:
    """Else a gateway that demands tokens, before a server that does not look, lets all pass."""
    metadata = (*operator.metadata, ("authorization", "Bearer made-up"))

    with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN") as failure:
        await operator.stub.ListJobs(jobs_pb2.ListJobsRequest(), metadata=metadata, timeout=TIMEOUT)

    assert "is not verified here" in failure.message
