"""x-request-id: the caller's goes through and comes back, and there always is one."""

import uuid

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.failures import expect_failure
from tests.support.waiting import TIMEOUT


async def answered(operator: Operator, *request_ids: str) -> str:
    """The request id of a successful call that was sent with these."""
    metadata = (*operator.metadata, *(("x-request-id", sent) for sent in request_ids))
    call: grpc.aio.UnaryUnaryCall[pb.ListJobsRequest, pb.ListJobsResponse] = operator.stub.ListJobs(
        pb.ListJobsRequest(), metadata=metadata, timeout=TIMEOUT
    )
    await call
    (told,) = [value for key, value in await call.trailing_metadata() if key == "x-request-id"]
    return str(told)


@pytest.mark.parametrize("sent", ["a", "7f3c-x", "x" * 128, "!~/+="])
async def test_the_callers_comes_back(operator: Operator, sent: str) -> None:
    assert await answered(operator, sent) == sent


async def test_one_is_made_if_there_is_none(operator: Operator) -> None:
    made = {await answered(operator) for _ in range(2)}

    assert len(made) == 2
    for request_id in made:
        assert str(uuid.UUID(request_id)) == request_id


@pytest.mark.parametrize("sent", ["", " ", "a b", "x" * 129])
async def test_one_that_is_no_identifier_is_replaced(operator: Operator, sent: str) -> None:
    made = await answered(operator, sent)

    assert str(uuid.UUID(made)) == made


async def test_the_first_of_several_counts(operator: Operator) -> None:
    assert await answered(operator, "a", "b") == "a"


@pytest.mark.parametrize("tenant_known", [True, False])
async def test_the_callers_comes_back_with_a_failure(
    operator: Operator, tenant_known: bool
) -> None:
    metadata = operator.metadata if tenant_known else ()
    code, reason = (
        (StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
        if tenant_known
        else (StatusCode.UNAUTHENTICATED, "TENANT_REQUIRED")
    )

    with expect_failure(code, reason) as failure:
        await operator.stub.GetJob(
            pb.GetJobRequest(job_id="nowhere"),
            metadata=(*metadata, ("x-request-id", "mine")),
            timeout=TIMEOUT,
        )

    assert failure.request_id == "mine"


async def test_one_is_made_for_a_failure_too(operator: Operator) -> None:
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND") as failure:
        await operator.get("nowhere")

    assert str(uuid.UUID(failure.request_id)) == failure.request_id
