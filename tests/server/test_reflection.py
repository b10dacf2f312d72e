"""gRPC reflection: what tools such as grpcurl ask for, and how much callers can make it hold."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import StatusCode
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from jobs_grpc.server.app import SERVICE_NAMES
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server
from tests.support.server_process import running_server_process
from tests.support.waiting import TIMEOUT

REFLECTIONS = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]

# A request of fewer bytes than its response is cheap for the caller, who may be anonymous.
MAX_RESPONSE_BYTES = 192 * 1024


async def _reflect(
    channel: grpc.aio.Channel, reflection: str = REFLECTIONS[0], **request: Any
) -> ServerReflectionResponse:
    call: Any = channel.stream_stream(
        f"/{reflection}/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    requests = iter([ServerReflectionRequest(**request)])
    [response] = [response async for response in call(requests)]
    assert isinstance(response, ServerReflectionResponse)
    return response


def _files(response: ServerReflectionResponse) -> list[FileDescriptorProto]:
    serialized = response.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(file) for file in serialized]


@pytest.mark.parametrize("reflection", REFLECTIONS)
async def test_reflection_lists_all_services(server: Server, reflection: str) -> None:
    response = await _reflect(server.channel, reflection, list_services="")

    names = {service.name for service in response.list_services_response.service}
    assert names == {*SERVICE_NAMES, "grpc.health.v1.Health", *REFLECTIONS}


@pytest.mark.parametrize("reflection", REFLECTIONS)
async def test_reflection_is_unimplemented_when_turned_off(
    database: Database, reflection: str
) -> None:
    async with running_server(database.request_dsn, JOBS_REFLECTION="false") as server:
        # Sends no request: gRPC raises another error if the call has ended before that.
        call: Any = server.channel.stream_stream(f"/{reflection}/ServerReflectionInfo")()
        with expect_failure(StatusCode.UNIMPLEMENTED):
            await call.read()


async def test_reflection_describes_every_service_that_it_lists(server: Server) -> None:
    services = (await _reflect(server.channel, list_services="")).list_services_response.service

    for service in services:
        files = _files(await _reflect(server.channel, file_containing_symbol=service.name))
        # A file comes after those that it imports.
        pool = DescriptorPool()
        for file in reversed(files):
            pool.Add(file)
        assert pool.FindServiceByName(service.name).methods


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("fleet.jobs.v1.JobService.ListJobs", "fleet/jobs/v1/jobs.proto"),
        ("fleet.jobs.v1.FleetService.ListDevices", "fleet/jobs/v1/fleet.proto"),
        ("fleet.jobs.v1.DeviceJobService.StartExecution", "fleet/jobs/v1/device_jobs.proto"),
        ("fleet.jobs.v1.Job.Status", "fleet/jobs/v1/jobs.proto"),
        ("fleet.jobs.v1.ErrorReason", "fleet/jobs/v1/error_reason.proto"),
        ("fleet.jobs.v1.MethodRules", "fleet/jobs/v1/options.proto"),
        ("google.rpc.ErrorInfo", "google/rpc/error_details.proto"),
        ("grpc.health.v1.Health.Check", "grpc_health/v1/health.proto"),
        (
            "grpc.reflection.v1.ServerReflection.ServerReflectionInfo",
            "grpc_reflection/v1/reflection.proto",
        ),
    ],
)
async def test_reflection_finds_file_by_the_full_name_of_what_it_defines(
    server: Server, symbol: str, file: str
) -> None:
    by_symbol = await _reflect(server.channel, file_containing_symbol=symbol)
    by_name = await _reflect(server.channel, file_by_filename=file)

    assert _files(by_symbol)[0].name == file
    assert _files(by_name) == _files(by_symbol)


@pytest.mark.parametrize(
    "request_fields",
    [
        {"file_containing_symbol": "fleet.jobs.v1.JobService.NoSuchMethod"},
        {"file_containing_symbol": "no.such.Message"},
        # In the memory of the process, but not served.
        {"file_containing_symbol": "google.rpc.Status"},
        {"file_by_filename": "no_such.proto"},
        {
            "file_containing_extension": {
                "containing_type": "fleet.jobs.v1.Job",
                "extension_number": 1,
            }
        },
        {"all_extension_numbers_of_type": "no.such.Message"},
    ],
)
async def test_reflection_answers_not_found_for_what_does_not_exist(
    server: Server, request_fields: dict[str, Any]
) -> None:
    response = await _reflect(server.channel, **request_fields)

    assert response.error_response.error_code == StatusCode.NOT_FOUND.value[0]


async def test_reflection_returns_the_comments_of_the_contract(server: Server) -> None:
    response = await _reflect(server.channel, file_containing_symbol=SERVICE_NAMES[0])

    file = _files(response)[0]
    comments = {
        tuple(location.path): location.leading_comments
        for location in file.source_code_info.location
    }
    assert comments[6, 0].startswith(" JobService is the operators' API.")
    for index, method in enumerate(file.service[0].method):
        assert comments.get((6, 0, 2, index)), method.name


async def test_responses_of_reflection_are_bounded(server: Server) -> None:
    services = (await _reflect(server.channel, list_services="")).list_services_response.service
    symbols = [service.name for service in services] + ["fleet.jobs.v1.ErrorReason"]

    for symbol in symbols:
        response = await _reflect(server.channel, file_containing_symbol=symbol)
        assert response.ByteSize() <= MAX_RESPONSE_BYTES, symbol


@pytest.mark.slow
async def test_unread_responses_of_reflection_hold_a_bounded_part_of_the_memory(
    database: Database, tenant: str
) -> None:
    """A stream has one response in memory, however many requests its caller sends.

    If the server prepared all responses, they would take 16 × 1,000 × 45 kB.
    """
    streams, requests = 16, 1000
    request = ServerReflectionRequest(file_containing_symbol=SERVICE_NAMES[0])
    async with running_server_process(database.request_dsn) as process:
        await _reflect(process.channel, file_containing_symbol=SERVICE_NAMES[0])
        before = process.peak_mib()
        calls = []
        for _ in range(streams):
            call: Any = process.channel.stream_stream(
                f"/{REFLECTIONS[0]}/ServerReflectionInfo",
                request_serializer=ServerReflectionRequest.SerializeToString,
            )
            calls.append(call())
        # All requests fit the windows of their streams, so all writes end.
        async with asyncio.timeout(TIMEOUT):
            for call in calls:
                for _ in range(requests):
                    await call.write(request)
            # Calls of others are served meanwhile.
            assert not (await process.operator(tenant).list()).jobs

        assert process.peak_mib() - before < 32
        for call in calls:
            call.cancel()
