"""The server around the services: reflection, its address, and what nobody serves."""

import socket
import tempfile
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from jobs_grpc.server.app import SERVICES
from jobs_grpc.server.sockets import CannotListen
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server, starting_server

REFLECTIONS = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]


async def _reflect(
    channel: grpc.aio.Channel, reflection: str, **request: Any
) -> ServerReflectionResponse:
    call: Any = channel.stream_stream(
        f"/{reflection}/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    [response] = [answer async for answer in call(iter([ServerReflectionRequest(**request)]))]
    assert isinstance(response, ServerReflectionResponse)
    return response


@pytest.mark.parametrize("reflection", REFLECTIONS)
async def test_reflection_lists_what_is_served(server: Server, reflection: str) -> None:
    response = await _reflect(server.channel, reflection, list_services="")

    names = {service.name for service in response.list_services_response.service}
    assert names == {*SERVICES, "grpc.health.v1.Health", *REFLECTIONS}


@pytest.mark.parametrize("reflection", REFLECTIONS)
async def test_reflection_knows_the_messages(server: Server, reflection: str) -> None:
    response = await _reflect(
        server.channel, reflection, file_containing_symbol="fleet.jobs.v1.CreateJobRequest"
    )

    assert b"expires_in_hours" in response.file_descriptor_response.file_descriptor_proto[0]


@pytest.mark.parametrize("reflection", REFLECTIONS)
async def test_reflection_can_be_switched_off(database: Database, reflection: str) -> None:
    async with running_server(database.request_dsn, JOBS_REFLECTION="false") as server:
        with expect_failure(StatusCode.UNIMPLEMENTED):
            await _reflect(server.channel, reflection, list_services="")


@pytest.mark.parametrize("method", ["fleet.jobs.v1.JobService/NoSuch", "no.Such/Method"])
async def test_what_nobody_serves_is_unimplemented(server: Server, method: str) -> None:
    call: Any = server.channel.unary_unary(f"/{method}")

    with expect_failure(StatusCode.UNIMPLEMENTED):
        await call(b"", metadata=(("x-tenant-id", "any"),))


async def test_a_second_server_on_the_port_is_refused(server: Server, database: Database) -> None:
    with pytest.raises(CannotListen, match=f"can't listen on {server.address}: it is in use"):
        async with starting_server(database.request_dsn, JOBS_LISTEN=server.address):
            pass

    assert not (await server.operator("any").list()).jobs


async def test_an_address_of_another_machine_is_refused(database: Database) -> None:
    """192.0.2.0/24 is for documentation and nobody's."""
    variables = {"JOBS_LISTEN": "192.0.2.1:50051", "JOBS_INSECURE_METADATA": "true"}

    with pytest.raises(CannotListen, match="not an address here"):
        async with starting_server(database.request_dsn, **variables):
            pass


async def test_it_serves_on_a_unix_socket(database: Database) -> None:
    with tempfile.TemporaryDirectory(prefix="jobs-test-") as folder:
        address = f"unix:{folder}/jobs.sock"
        async with running_server(database.request_dsn, JOBS_LISTEN=address) as server:
            assert server.address == address
            assert not (await server.operator("any").list()).jobs


async def test_a_second_server_on_the_unix_socket_is_refused(database: Database) -> None:
    with tempfile.TemporaryDirectory(prefix="jobs-test-") as folder:
        for written in (f"unix:{folder}/jobs.sock", f"unix://{folder}/jobs.sock"):
            async with running_server(database.request_dsn, JOBS_LISTEN=written) as server:
                with pytest.raises(CannotListen, match=f"can't listen on {written}: it is in use"):
                    async with starting_server(database.request_dsn, JOBS_LISTEN=written):
                        pass

                assert not (await server.operator("any").list()).jobs


async def test_a_unix_socket_that_was_left_behind_is_used_again(database: Database) -> None:
    with tempfile.TemporaryDirectory(prefix="jobs-test-") as folder:
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(f"{folder}/jobs.sock")
        async with running_server(
            database.request_dsn, JOBS_LISTEN=f"unix:{folder}/jobs.sock"
        ) as server:
            assert not (await server.operator("any").list()).jobs


async def test_a_unix_socket_of_a_server_that_hangs_is_not_taken(database: Database) -> None:
    with tempfile.TemporaryDirectory(prefix="jobs test ") as folder, ExitStack() as waiting:
        hanging = waiting.enter_context(socket.socket(socket.AF_UNIX))
        hanging.bind(f"{folder}/jobs.sock")
        hanging.listen(0)
        with suppress(BlockingIOError):
            while True:
                one = waiting.enter_context(socket.socket(socket.AF_UNIX))
                one.setblocking(False)
                one.connect(f"{folder}/jobs.sock")

        with pytest.raises(CannotListen):
            async with starting_server(
                database.request_dsn, JOBS_LISTEN=f"unix:{folder.replace(' ', '%20')}/jobs.sock"
            ):
                pass
