"""Estimates of the size of responses that are not pages."""

import pytest
from fleet.jobs.v1 import events_pb2 as events_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.limits.memory_limit import response_bytes
from jobs_grpc.rpc.response_sizes import page_size_estimator
from jobs_grpc.services.job_watch import MAX_LABELS_BYTES
from jobs_grpc.services.response_pages import max_page_bytes
from jobs_grpc.services.rollout_conversions import MAX_DETAILS_BYTES
from jobs_grpc.services.rollout_validation import MAX_CRITERIA_BYTES, MAX_ROLLOUT_BYTES
from jobs_grpc.services.timeline import MAX_BUCKETS, MAX_MARKS


def test_estimate_for_a_failure_summary_is_a_close_upper_bound() -> None:
    largest = pb.FailureCount(
        status=pb.JobExecution.TIMED_OUT,
        failure_code="x" * 64,
        execution_count=2**31 - 1,
        device_ids=["\U0001f600" * 256] * 5,
    )
    summary = pb.GetFailureSummaryResponse(failures=[largest] * 100, other_failure_count=2**31 - 1)
    estimate = page_size_estimator("/fleet.jobs.v1.JobService/GetFailureSummary")

    assert estimate
    size = response_bytes(summary.ByteSize())
    assert size <= estimate(pb.GetFailureSummaryRequest(job_id="j")) < 1.02 * size


def test_estimate_for_a_timeline_is_a_close_upper_bound() -> None:
    time = Timestamp(seconds=2**33, nanos=999_999_999)
    bucket = pb.TimelineBucket(
        time=time,
        succeeded_count=2**31 - 1,
        failed_count=2**31 - 1,
        canceled_count=2**31 - 1,
        expired_count=2**31 - 1,
    )
    mark = pb.TimelineMark(
        time=time,
        type="job.stage_opened",
        user_id="u" * 256,
        cause="FAILURE_CRITERION",
        reason="\U0001f600" * 200,
        stage=99,
        retried_count=2**31 - 1,
    )
    timeline = pb.GetJobTimelineResponse(
        computed_at=time,
        bucket_size=Duration(seconds=31_449_600),
        buckets=[bucket] * MAX_BUCKETS,
        marks=[mark] * MAX_MARKS,
    )
    estimate = page_size_estimator("/fleet.jobs.v1.JobService/GetJobTimeline")

    assert estimate
    size = response_bytes(timeline.ByteSize())
    assert size <= estimate(pb.GetJobTimelineRequest(job_id="j")) < 1.1 * size


def test_estimate_for_a_list_of_webhooks_is_a_close_upper_bound() -> None:
    time = Timestamp(seconds=2**33, nanos=999_999_999)
    webhook = events_pb.Webhook(
        webhook_id=f"wh_{'f' * 16}",
        url="u" * 2048,
        description="\U0001f600" * 1000,
        types=[f"{'t' * 20}.{'t' * 30}"] * 20,
        enabled=True,
        disabled_cause=events_pb.Webhook.GONE,
        position=2**53 - 1,
        purged_position=2**53 - 1,
        created_at=time,
        last_success_at=time,
        last_attempt_at=time,
        last_http_status=599,
        last_error=events_pb.Webhook.TLS_FAILED,
        failure_count=2**31 - 1,
        next_attempt_at=time,
        due_since=time,
    )
    webhooks = events_pb.ListWebhooksResponse(webhooks=[webhook] * 16)
    estimate = page_size_estimator("/fleet.jobs.v1.EventService/ListWebhooks")

    assert estimate
    size = response_bytes(webhooks.ByteSize())
    assert size <= estimate(events_pb.ListWebhooksRequest()) < 1.2 * size


def _largest_details() -> pb.Job:
    """The largest valid details: most of the rollout is names, which occur twice."""
    million, time = 1_000_000, Timestamp(seconds=2**33, nanos=999_999_999)
    stages = [pb.Stage(display_name="\U0001f600" * 38 + "x", device_count=million)] * 100
    rollout = pb.Rollout(stages=stages)
    assert 0.99 * MAX_ROLLOUT_BYTES < rollout.ByteSize() <= MAX_ROLLOUT_BYTES
    # UpdateJob can set stages of that size after CreateJob has set these two.
    rollout.seed = "\U0001f600" * 128
    rollout.max_in_progress = million
    counts = pb.ExecutionCounts(
        **{field.name: million for field in pb.ExecutionCounts.DESCRIPTOR.fields}
    )
    state = pb.JobStage(
        display_name=stages[0].display_name,
        state=pb.JobStage.OPEN,
        total_executions=million,
        execution_counts=counts,
        released_count=million,
        opened_at=time,
        next_opens_at=time,
        awaiting_approval=True,
    )
    approval = pb.StageApproval(approved_at=time, approved_by="u" * 256, comment="\U0001f600" * 200)
    approved = pb.JobStage(approval=approval)
    approved.MergeFrom(state)
    criterion = pb.FailureCriterion(
        failure_codes=[f"{code:064}" for code in range(100)], percent=100, min_finished=million
    )
    rest = pb.FailureCriterion(failure_codes=["c" * 64] * 2, percent=100, min_finished=million)
    criteria = [criterion, *[rest] * 9]
    assert 0.95 * MAX_CRITERIA_BYTES < sum(c.ByteSize() for c in criteria) <= MAX_CRITERIA_BYTES
    for each in criteria:
        # What the response has although the request does not.
        each.MergeFrom(
            pb.FailureCriterion(
                statuses=[
                    pb.JobExecution.FAILED,
                    pb.JobExecution.TIMED_OUT,
                    pb.JobExecution.REJECTED,
                ],
                basis=pb.FailureCriterion.FINISHED,
                scope=pb.FailureCriterion.JOB,
                action=pb.FailureCriterion.PAUSE,
            )
        )
    return pb.Job(
        rollout=rollout,
        failure_criteria=criteria,
        stages=[approved] * 20 + [state] * 80,
        trip=pb.Trip(
            tripped_at=time,
            criterion=criterion,
            stage=99,
            failure_count=million,
            basis_count=million,
        ),
        criterion_states=[
            pb.CriterionState(
                criterion_index=9,
                stage=99,
                failure_count=million,
                basis_count=million,
                threshold=million,
            )
        ]
        * 1000,
        start_approval=pb.StartApproval(
            approved_at=time, approved_by=approval.approved_by, comment=approval.comment
        ),
        waits_for=[
            pb.JobWait(kind=pb.JobWait.START_APPROVAL, message="u" * 350),
            pb.JobWait(kind=pb.JobWait.RESUME, message="u" * 256 + "\U0001f600" * 1000),
            *[pb.JobWait(stage=99, message="u" * 350 + "\U0001f600" * 100, until=time)] * 3,
        ],
    )


def test_maximum_of_details_is_a_close_upper_bound() -> None:
    size = _largest_details().ByteSize()

    assert size <= MAX_DETAILS_BYTES < 1.1 * size
    assert MAX_DETAILS_BYTES < 116 * 1024


def test_maximum_of_labels_and_description_is_a_close_upper_bound() -> None:
    labels = {f"{n:063}": "😀" * 63 for n in range(32)}
    size = pb.Job(labels=labels, description="😀" * 1000).ByteSize()

    assert size <= MAX_LABELS_BYTES < 1.1 * size


@pytest.mark.parametrize(
    "name",
    [
        *("GetJob", "PauseJob", "ResumeJob", "AdvanceJob", "UpdateJob"),
        *("ApproveStage", "RejectStage", "ApproveStart", "RejectStart"),
    ],
)
def test_estimate_for_a_job_includes_its_details(name: str) -> None:
    estimate = page_size_estimator(f"/fleet.jobs.v1.JobService/{name}")

    assert estimate
    request = pb.GetJobRequest(executions_limit=0)
    assert estimate(request) >= response_bytes(max_page_bytes(0) + MAX_DETAILS_BYTES)
