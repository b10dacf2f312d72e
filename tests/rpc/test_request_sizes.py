"""Requests without a document, reports, stages or ids of many devices have at most 16 KiB."""

from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.descriptor import Descriptor

from jobs_grpc.contract.methods import METHODS, SERVICES
from jobs_grpc.services import page_tokens
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.rpcs import padded
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT

MAX_BYTES = 16 * 1024

GET_JOB = "/fleet.jobs.v1.JobService/GetJob"
WATCH_JOB = "/fleet.jobs.v1.JobService/WatchJob"

# The tenant can hold two decoded requests of 16 KiB.
SMALL_BUDGET = {
    "JOBS_MAX_REQUEST_BYTES": "65536",
    "JOBS_MAX_DOCUMENT_BYTES": "8192",
    "JOBS_MAX_TENANT_BUFFERED_BYTES": "1048576",
}


# Messages that can be larger than 16 KiB: documents, and the stages of a rollout.
LARGE_MESSAGES = {"google.protobuf.Struct", pb.Rollout.DESCRIPTOR.full_name}


def has_large_message(message: Descriptor) -> bool:
    """Whether a message is a large one or has one, also in its fields."""
    return message.full_name in LARGE_MESSAGES or any(
        has_large_message(field.message_type) for field in message.fields if field.message_type
    )


def test_methods_with_large_requests_are_those_with_documents_stages_or_ids_of_devices() -> None:
    assert {
        f"/{service.full_name}/{method.name}"
        for service in SERVICES
        for method in service.methods
        if has_large_message(method.input_type)
        or {"device_ids", "devices"} & {*method.input_type.fields_by_name}
    } == {name for name, method in METHODS.items() if method.large_request}


@pytest.mark.parametrize("method", [GET_JOB, WATCH_JOB])
async def test_request_without_document_is_rejected_when_it_is_larger_than_16_kib(
    server: Server, operator_with_job: Operator, method: str
) -> None:
    def call(size: int) -> Any:
        stub: Any = server.channel.unary_stream(method)
        metadata = (("x-tenant-id", operator_with_job.tenant),)
        return stub(padded(size), metadata=metadata, timeout=TIMEOUT)

    assert await call(MAX_BYTES).read()
    failure = await expect_error("MALFORMED_REQUEST", call(MAX_BYTES + 1).read())

    assert failure.message == (
        "The request has 16385 bytes; requests of this method have at most 16384"
    )


def test_request_with_the_longest_page_token_has_less_than_16_kib() -> None:
    longest_id = "\U0001f600" * 256
    request = device_pb.ListPendingExecutionsRequest(limit=100)
    request.page_token = page_tokens.page_token(
        request, longest_id, "IN_PROGRESS", 2**55, longest_id
    )

    assert request.ByteSize() < MAX_BYTES


@pytest.mark.parametrize("request_type", [pb.RetryExecutionsRequest, pb.GetFailureSummaryRequest])
def test_request_with_the_most_failure_codes_has_less_than_16_kib(request_type: Any) -> None:
    request = request_type(job_id="j" * 128, statuses=["FAILED"] * 16)
    request.failure_codes.extend(["x" * 64] * 100)

    assert request.ByteSize() < MAX_BYTES


async def test_retry_selects_as_many_devices_as_permitted(operator_with_job: Operator) -> None:
    """Their ids have more than 16 KiB together."""
    device_ids = [f"{number:036}" for number in range(1000)]

    response = await operator_with_job.retry("j", pb.JobExecution.FAILED, device_ids=device_ids)

    assert response.retried_count == 0


async def test_watch_holds_no_bytes_while_it_waits(
    database: Database, operator_with_job: Operator
) -> None:
    """Requests of six watches do not fit the tenant's memory limit together."""
    async with running_server(database.request_dsn, **SMALL_BUDGET) as server:
        stub: Any = server.channel.unary_stream(WATCH_JOB)
        metadata = (("x-tenant-id", operator_with_job.tenant),)
        watches = [stub(padded(MAX_BYTES), metadata=metadata, timeout=TIMEOUT) for _ in range(6)]

        for watch in watches:
            assert await watch.read()
        assert (await server.operator(operator_with_job.tenant).list()).jobs
        for watch in watches:
            watch.cancel()
