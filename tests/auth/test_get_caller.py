"""GetCaller returns the caller as the server has authenticated it."""

import time

import pytest

from jobs_grpc.auth.policy import POLICY
from jobs_grpc.auth.roles import Role
from tests.auth.support import KEY
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.identities import claims, token
from tests.support.proxy import running_proxy
from tests.support.server import Server, running_server
from tests.support.world import World


@pytest.mark.parametrize("role", sorted(Role))
async def test_caller_has_its_roles_and_the_methods_that_they_allow(
    server: Server, tenant: str, role: Role
) -> None:
    metadata = [("x-tenant-id", tenant), ("x-user-id", "olivia"), ("x-roles", str(role))]

    response = await server.caller(*metadata).get_caller()

    assert (response.tenant_id, response.user_id) == (tenant, "olivia")
    assert list(response.roles) == [role]
    assert not response.HasField("device_id")
    assert not response.HasField("credential_expires_at")
    allowed = [method for method, roles in POLICY.items() if roles and role in roles]
    assert list(response.methods) == sorted(m[1:].replace("/", ".") for m in allowed)
    assert "fleet.jobs.v1.JobService.GetCaller" in response.methods


async def test_caller_has_its_device_and_no_user_when_it_names_only_a_device(world: World) -> None:
    metadata = [("x-tenant-id", world.tenant), ("x-device-id", "pump-1")]

    response = await world.server.caller(*metadata).get_caller()

    assert response.device_id == "pump-1"
    assert not response.HasField("user_id")
    assert list(response.roles) == ["device"]
    assert not any(".JobService.List" in method for method in response.methods)


async def test_caller_comes_from_its_token(jwt: Server, tenant: str) -> None:
    payload = claims(tenant, "viewer", "approver", "unknown", exp=int(time.time()) + 600)

    response = await jwt.bearer(token(KEY, payload), ("x-roles", "admin")).get_caller()

    assert (response.tenant_id, response.user_id) == (tenant, "olivia")
    assert list(response.roles) == ["approver", "viewer"]
    leeway = response.credential_expires_at.seconds - payload["exp"]
    assert 0 <= leeway <= 60
    assert "fleet.jobs.v1.JobService.ApproveStage" in response.methods
    assert "fleet.jobs.v1.JobService.DeleteJob" not in response.methods


async def test_call_is_rejected_when_caller_is_not_authenticated(jwt: Server, tenant: str) -> None:
    await expect_error("INVALID_TOKEN", jwt.bearer("junk").get_caller())
    await expect_error("ROLE_REQUIRED", jwt.bearer(token(KEY, claims(tenant))).get_caller())


@pytest.mark.slow
async def test_caller_is_returned_while_the_database_does_not_respond(
    database: Database, tenant: str
) -> None:
    async with running_proxy(database.request_dsn) as proxy, running_server(proxy.dsn) as server:
        proxy.freeze()
        caller = await server.operator(tenant).get_caller()
        proxy.thaw()

    assert caller.tenant_id == tenant
