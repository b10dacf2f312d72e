"""Estimates of the size of responses that are not pages."""

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.byte_budget import response_bytes
from jobs_grpc.rpc.page_sizes import page_size_estimator


def test_estimate_for_a_failure_summary_is_a_close_upper_bound() -> None:
    largest = pb.FailureCount(
        status=pb.JobExecution.TIMED_OUT,
        failure_code="x" * 64,
        execution_count=2**31 - 1,
        device_ids=["\U0001f600" * 256] * 5,
    )
    summary = pb.GetFailureSummaryResponse(failures=[largest] * 100, other_count=2**31 - 1)
    estimate = page_size_estimator("/fleet.jobs.v1.JobService/GetFailureSummary")

    assert estimate
    size = response_bytes(summary.ByteSize())
    assert size <= estimate(pb.GetFailureSummaryRequest(job_id="j")) < 1.02 * size
