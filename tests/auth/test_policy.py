"""The policy covers every method, and the server enforces it."""

from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2

from jobs_grpc.auth.policy import POLICY, PUBLIC, allowed_roles, is_public
from jobs_grpc.auth.roles import Role
from jobs_grpc.contract.methods import SERVICES
from tests.support.callers import Operator
from tests.support.failures import Failure, expect_error
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT
from tests.support.world import World

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


async def call(server: Server, method: str, *metadata: tuple[str, str]) -> None:
    stub: Any = server.channel.unary_unary(method)
    await stub(b"", metadata=metadata, timeout=TIMEOUT)


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
    names = ("ApproveStage", "RejectStage", "ApproveStart", "RejectStart")
    approves = {f"/fleet.jobs.v1.JobService/{name}" for name in names}
    assert {method for method, roles in POLICY.items() if roles and Role.APPROVER in roles} == (
        reads | approves
    )
    assert POLICY["/fleet.jobs.v1.JobService/ApproveStage"] == frozenset(
        {Role.APPROVER, Role.ADMIN}
    )


@pytest.mark.parametrize("role", sorted(Role))
async def test_server_enforces_the_policy_for_each_role_and_method(
    server: Server, tenant: str, role: Role
) -> None:
    """An authorized call with an empty request succeeds, or has an invalid field."""
    metadata = [("x-tenant-id", tenant), ("x-roles", str(role)), ("x-device-id", "d")]
    refused: dict[str, tuple[str, dict[str, str]]] = {}
    for method in UNARY:
        try:
            await call(server, method, *metadata)
        except grpc.aio.AioRpcError as e:
            failure = Failure(e.code())
            failure.read(e)
            if failure.reason != "INVALID_FIELD":
                refused[method] = (failure.reason, failure.metadata)

    assert refused == {
        method: ("ROLE_REQUIRED", {"roles": ",".join(sorted(roles))})
        for method in UNARY
        if role not in (roles := allowed_roles(method) or frozenset())
    }


async def test_caller_may_do_what_any_of_its_roles_allows(server: Server, tenant: str) -> None:
    caller = server.caller(("x-tenant-id", tenant), ("x-roles", "viewer, device"))

    assert not (await caller.list()).jobs
    failure = await expect_error("ROLE_REQUIRED", caller.delete("j"))
    assert failure.message == "This call needs the role admin"


@pytest.mark.parametrize("roles", ["", ",", "root", "viewer,root", "VIEWER", "viewer admin"])
async def test_call_is_rejected_when_x_roles_contains_an_unknown_role(
    server: Server, tenant: str, roles: str
) -> None:
    failure = await expect_error(
        "INVALID_METADATA", server.caller(("x-tenant-id", tenant), ("x-roles", roles)).list()
    )
    assert failure.message.startswith("x-roles must be")


async def test_call_is_rejected_when_x_roles_is_sent_twice(server: Server, tenant: str) -> None:
    roles = [("x-roles", "viewer"), ("x-roles", "admin")]

    await expect_error("DUPLICATE_METADATA", server.caller(("x-tenant-id", tenant), *roles).list())


@pytest.mark.slow
async def test_caller_has_default_roles_without_x_roles(world: World) -> None:
    await expect_error("JOB_NOT_FOUND", world.operator.delete("nowhere"))

    async with running_server(world.database.request_dsn, JOBS_DEFAULT_ROLES="viewer") as strict:
        assert not (await strict.operator(world.tenant).list()).jobs
        await expect_error("ROLE_REQUIRED", strict.operator(world.tenant).delete("nowhere"))
    async with running_server(world.database.request_dsn, JOBS_DEFAULT_ROLES="none") as strict:
        await expect_error("ROLE_REQUIRED", strict.operator(world.tenant).list())


async def test_caller_is_only_a_device_when_it_sends_x_device_id_without_x_roles(
    server: Server, tenant: str
) -> None:
    assert not (await server.device(tenant, "d").pending()).executions
    caller = server.caller(("x-tenant-id", tenant), ("x-device-id", "d"))
    await expect_error("ROLE_REQUIRED", caller.list())


async def test_bridge_must_name_a_device(server: Server, tenant: str) -> None:
    method = "/fleet.jobs.v1.DeviceJobService/StartNextExecution"
    bridge = [("x-tenant-id", tenant), ("x-roles", "bridge")]

    await expect_error("DEVICE_REQUIRED", call(server, method, *bridge))
    await call(server, method, *bridge, ("x-device-id", "d"))


async def test_report_stream_is_rejected_when_device_is_not_named(world: World) -> None:
    stub: Any = world.device("d").stub
    metadata = (("x-tenant-id", world.tenant), ("x-roles", "device"))

    await expect_error(
        "DEVICE_REQUIRED",
        stub.ReportExecutions(iter([]), metadata=metadata, timeout=TIMEOUT).read(),
    )


async def test_call_is_rejected_when_tenant_contains_a_comma(server: Server) -> None:
    """A proxy may join two headers into one value with a comma."""
    await expect_error("DUPLICATE_METADATA", server.operator("a,b").list())


async def test_token_is_rejected_in_metadata_mode(operator: Operator) -> None:
    """A gateway that requires tokens relies on the server to verify them."""
    metadata = (*operator.metadata, ("authorization", "Bearer made-up"))

    failure = await expect_error(
        "INVALID_TOKEN",
        operator.stub.ListJobs(jobs_pb2.ListJobsRequest(), metadata=metadata, timeout=TIMEOUT),
    )

    assert "cannot be verified" in failure.message
