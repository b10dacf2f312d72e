"""Fixtures: each test runs through each door."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobs_grpc.client import Connection, DeviceClient, EventsClient, FleetClient, JobsClient
from tests.cli.conftest import config_file, shell
from tests.doors.doors import Cli, Client, Door, Grpc, Rest, client_of, client_of_device
from tests.gateway.conftest import gateway, gateway_binary, http, rest
from tests.gateway.support import RestClient
from tests.support.callers import Fleet
from tests.support.cli import Shell
from tests.support.server import Server

__all__ = ["config_file", "gateway", "gateway_binary", "http", "rest", "shell"]

PUMP = ("x-device-id", "pump")


@pytest.fixture
def grpc_door(server: Server, tenant: str) -> Grpc:
    return Grpc(server.channel, (("x-tenant-id", tenant), ("x-user-id", "olivia")))


@pytest.fixture
def rest_door(rest: RestClient) -> Rest:
    return Rest(rest)


@pytest.fixture
async def client_door(server: Server, tenant: str) -> AsyncIterator[Client]:
    caller: Any = {"tenant": tenant, "user": "olivia"}
    async with Connection(server.address) as connection:
        yield client_of(
            JobsClient(connection, **caller),
            FleetClient(connection, **caller),
            EventsClient(connection, **caller),
        )


@pytest.fixture
def cli_door(shell: Shell, tmp_path: Path) -> Cli:
    return Cli(shell, tmp_path)


@pytest.fixture(params=["grpc", "rest", "client", "cli"])
def door(request: pytest.FixtureRequest) -> Door:
    found: Door = request.getfixturevalue(f"{request.param}_door")
    return found


@pytest.fixture
def fleet(server: Server, tenant: str) -> Fleet:
    return server.fleet(tenant)


@pytest.fixture
def grpc_device(server: Server, tenant: str) -> Grpc:
    return Grpc(server.channel, (("x-tenant-id", tenant), PUMP))


@pytest.fixture
def rest_device(rest: RestClient) -> Rest:
    return Rest(rest, (PUMP,))


@pytest.fixture
async def client_device(server: Server, tenant: str) -> AsyncIterator[Client]:
    async with DeviceClient(server.address, tenant=tenant, device_id="pump") as client:
        yield client_of_device(client)


@pytest.fixture(params=["grpc", "rest", "client"])
def device(request: pytest.FixtureRequest) -> Door:
    """A door of the device "pump". The command line has no calls of devices."""
    found: Door = request.getfixturevalue(f"{request.param}_device")
    return found
