"""Estimates of the size of responses that are not pages."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.byte_budget import response_bytes
from jobs_grpc.rpc.page_sizes import page_size_estimator
from jobs_grpc.services.pagination import max_page_bytes
from jobs_grpc.services.rollout_conversions import MAX_DETAILS_BYTES


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


def _largest_details() -> pb.Job:
    """The rollout and criteria with the largest valid values."""
    million, time = 1_000_000, Timestamp(seconds=2**33, nanos=999_999_999)
    month = Duration(seconds=30 * 24 * 3600)
    gate = pb.Gate(
        min_succeeded_percent=100,
        bake_time=month,
        advance_after=month,
        require_approval=True,
        allow_self_approval=True,
    )
    name = "\U0001f600" * 100
    stage = pb.Stage(
        display_name=name,
        group_id="\U0001f600" * 256,
        releases_per_minute=million,
        gate=gate,
    )
    counts = pb.ExecutionCounts(
        **{field.name: million for field in pb.ExecutionCounts.DESCRIPTOR.fields}
    )
    state = pb.JobStage(
        display_name=name,
        state=pb.JobStage.OPEN,
        total_executions=million,
        execution_counts=counts,
        released_count=million,
        opened_at=time,
        next_opens_at=time,
        awaiting_approval=True,
        approval=pb.StageApproval(
            approved_at=time, approved_by="u" * 256, comment="\U0001f600" * 200
        ),
    )
    criterion = pb.FailureCriterion(
        statuses=[pb.JobExecution.FAILED] * 16,
        failure_codes=["c" * 64] * 100,
        percent=100,
        basis=pb.FailureCriterion.FINISHED,
        min_finished=million,
        scope=pb.FailureCriterion.STAGE,
        action=pb.FailureCriterion.FORCE_CANCEL,
    )
    return pb.Job(
        rollout=pb.Rollout(stages=[stage] * 100, max_in_progress=million, seed="\U0001f600" * 128),
        failure_criteria=[criterion] * 10,
        stages=[state] * 100,
        trip=pb.Trip(
            tripped_at=time,
            criterion=criterion,
            stage=99,
            failure_count=million,
            basis_count=million,
        ),
    )


def test_maximum_of_details_is_a_close_upper_bound() -> None:
    size = _largest_details().ByteSize()

    assert size <= MAX_DETAILS_BYTES < 1.02 * size


@pytest.mark.parametrize(
    "name", ["GetJob", "PauseJob", "ResumeJob", "AdvanceJob", "ApproveStage", "UpdateJob"]
)
def test_estimate_for_a_job_includes_its_details(name: str) -> None:
    estimate = page_size_estimator(f"/fleet.jobs.v1.JobService/{name}")

    assert estimate
    request = pb.GetJobRequest(executions_limit=0)
    assert estimate(request) >= response_bytes(max_page_bytes(0) + MAX_DETAILS_BYTES)
