"""x-request-id: every response has one, the caller's if the call has a valid one."""

import uuid

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.failures import expect_failure
from tests.support.waiting import TIMEOUT


async def response_request_id(operator: Operator, *request_ids: str) -> str:
    """Send a call with these request ids and return the one of the response."""
    metadata = (*operator.metadata, *(("x-request-id", sent) for sent in request_ids))
    call: grpc.aio.UnaryUnaryCall[pb.ListJobsRequest, pb.ListJobsResponse] = operator.stub.ListJobs(
        pb.ListJobsRequest(), metadata=metadata, timeout=TIMEOUT
    )
    await call
    (request_id,) = [
        value for key, value in await call.trailing_metadata() if key == "x-request-id"
    ]
    return str(request_id)


@pytest.mark.parametrize("sent", ["a", "7f3c-x", "x" * 128, "!~/+="])
async def test_request_id_of_the_caller_is_returned(operator: Operator, sent: str) -> None:
    assert await response_request_id(operator, sent) == sent


async def test_request_id_is_generated_when_the_call_has_none(operator: Operator) -> None:
    request_ids = {await response_request_id(operator) for _ in range(2)}

    assert len(request_ids) == 2
    for request_id in request_ids:
        assert str(uuid.UUID(request_id)) == request_id


@pytest.mark.parametrize("sent", ["", " ", "a b", "x" * 129])
async def test_request_id_is_replaced_when_it_is_invalid(operator: Operator, sent: str) -> None:
    request_id = await response_request_id(operator, sent)

    assert str(uuid.UUID(request_id)) == request_id


async def test_first_request_id_is_used_when_the_call_has_several(operator: Operator) -> None:
    assert await response_request_id(operator, "a", "b") == "a"


@pytest.mark.parametrize("sent", ["mine", None])
async def test_response_of_a_failed_call_has_a_request_id(
    operator: Operator, sent: str | None
) -> None:
    sent_ids = (("x-request-id", sent),) if sent else ()
    for metadata, code, reason in (
        (operator.metadata, StatusCode.NOT_FOUND, "JOB_NOT_FOUND"),
        ((), StatusCode.UNAUTHENTICATED, "TENANT_REQUIRED"),
    ):
        with expect_failure(code, reason) as failure:
            request = pb.GetJobRequest(job_id="missing")
            await operator.stub.GetJob(request, metadata=(*metadata, *sent_ids), timeout=TIMEOUT)

        assert failure.request_id == (sent or str(uuid.UUID(failure.request_id)))
