"""The gRPC server: unknown methods, and its address."""

import socket
import tempfile
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from grpc import StatusCode

from jobs_grpc.server.sockets import ListenError
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server, starting_server


@pytest.mark.parametrize("method", ["fleet.jobs.v1.JobService/NoSuch", "no.Such/Method"])
async def test_unknown_method_is_unimplemented(server: Server, method: str) -> None:
    call: Any = server.channel.unary_unary(f"/{method}")

    with expect_failure(StatusCode.UNIMPLEMENTED):
        await call(b"", metadata=(("x-tenant-id", "any"),))


async def test_server_fails_when_port_is_in_use(server: Server, database: Database) -> None:
    with pytest.raises(ListenError, match=f"can't listen on {server.address} .*: it is in use"):
        async with starting_server(database.request_dsn, JOBS_LISTEN=server.address):
            pass

    assert not (await server.operator("any").list()).jobs


async def test_server_fails_when_address_is_of_another_machine(database: Database) -> None:
    """192.0.2.0/24 is reserved for documentation, so no machine has these addresses."""
    variables = {"JOBS_LISTEN": "192.0.2.1:50051", "JOBS_INSECURE_METADATA": "true"}

    with pytest.raises(ListenError, match="not an address of this machine"):
        async with starting_server(database.request_dsn, **variables):
            pass


@pytest.mark.parametrize("scheme", ["unix:", "unix://"])
async def test_server_serves_on_a_unix_socket_that_no_other_can_use(
    database: Database, scheme: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="jobs-test-") as folder:
        address = f"{scheme}{folder}/jobs.sock"
        async with running_server(database.request_dsn, JOBS_LISTEN=address) as server:
            assert server.address == address
            with pytest.raises(ListenError, match=f"can't listen on {address} .*: it is in use"):
                async with starting_server(database.request_dsn, JOBS_LISTEN=address):
                    pass
            assert not (await server.operator("any").list()).jobs


async def test_server_reuses_a_stale_unix_socket(database: Database) -> None:
    with tempfile.TemporaryDirectory(prefix="jobs-test-") as folder:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(f"{folder}/jobs.sock")
        async with running_server(
            database.request_dsn, JOBS_LISTEN=f"unix:{folder}/jobs.sock"
        ) as server:
            assert not (await server.operator("any").list()).jobs


async def test_server_fails_when_unix_socket_belongs_to_a_hanging_server(
    database: Database,
) -> None:
    with tempfile.TemporaryDirectory(prefix="jobs test ") as folder, ExitStack() as sockets:
        hanging = sockets.enter_context(socket.socket(socket.AF_UNIX))
        hanging.bind(f"{folder}/jobs.sock")
        hanging.listen(0)
        with suppress(BlockingIOError):
            while True:
                client = sockets.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(f"{folder}/jobs.sock")

        with pytest.raises(ListenError):
            async with starting_server(
                database.request_dsn, JOBS_LISTEN=f"unix:{folder.replace(' ', '%20')}/jobs.sock"
            ):
                pass
