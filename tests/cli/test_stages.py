"""The bars of stages."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli.rollout_text import format_criterion
from jobs_grpc.cli.stages import bar, split_width, stage_lines

GATE = pb.Gate(
    min_succeeded_percent=95,
    bake_time=Duration(seconds=600),
    require_approval=True,
    advance_after=Duration(seconds=86_400),
)
TIME = Timestamp(seconds=1_900_000_000)


def staged_job(**fields: Any) -> pb.Job:
    """A job with a stage of 4 devices, which is open, and one of 36."""
    job = pb.Job(status=pb.Job.IN_PROGRESS, created_by="olivia", **fields)
    job.rollout.stages.add(percent=10, gate=GATE, releases_per_minute=60)
    job.rollout.stages.add(remainder=True, releases_per_minute=1000)
    job.stages.add(
        state=pb.JobStage.OPEN,
        total_executions=4,
        execution_counts=pb.ExecutionCounts(succeeded=2, failed=1, in_progress=1),
        opened_at=TIME,
    )
    job.stages.add(
        display_name="every\none",
        state=pb.JobStage.PENDING,
        total_executions=36,
        execution_counts=pb.ExecutionCounts(held=36),
    )
    return job


def test_stage_lines_show_state_bar_counts_and_gate() -> None:
    job = staged_job()
    job.stages[0].approval.approved_at.CopyFrom(TIME)
    job.stages[0].approval.approved_by = "aisha"
    job.stages[0].approval.comment = "looks\tgood"

    assert list(stage_lines(job, utc=True)) == [
        " 0 10%        OPEN     ████████████××××××▒▒▒▒▒▒  1 IN_PROGRESS, 2 SUCCEEDED, 1 FAILED",
        "   gate: 50 % succeeded, 95 % required, bake 10m, approval, advance after 24h;"
        " 60 releases per minute",
        "   approved at 2030-03-17 17:46:40Z by aisha: looks\\tgood",
        f" 1 every\\none  PENDING  {'·' * 24}  36 HELD",
        "   1,000 releases per minute",
    ]


def test_stage_lines_show_a_rate_of_one() -> None:
    job = pb.Job()
    job.rollout.stages.add(remainder=True, releases_per_minute=1)
    job.stages.add(state=pb.JobStage.PENDING)

    assert list(stage_lines(job, utc=True))[-1] == "   1 release per minute"


def test_stage_lines_show_what_the_open_stage_waits_for() -> None:
    waits, bakes = staged_job(), staged_job()
    waits.stages[0].awaiting_approval = True
    bakes.stages[0].next_opens_at.CopyFrom(TIME)
    bakes.stages[0].execution_counts.CopyFrom(pb.ExecutionCounts(succeeded=4))

    assert list(stage_lines(waits, utc=True))[2] == (
        "   stage 0 waits for an approval by another user than olivia"
    )
    assert list(stage_lines(bakes, utc=True))[2] == (
        "   stage 0 bakes for 10m; stage 1 opens at 2030-03-17 17:46:40Z"
    )


@pytest.mark.parametrize("status", [pb.Job.CANCELED, pb.Job.COMPLETED])
def test_stage_lines_of_a_finished_job_tell_which_stages_did_not_pass(
    status: pb.Job.Status.ValueType,
) -> None:
    job = staged_job()
    job.status = status
    job.stages[0].execution_counts.CopyFrom(pb.ExecutionCounts(succeeded=2, rejected=2))
    job.stages[1].execution_counts.CopyFrom(pb.ExecutionCounts(rejected=36))
    for stage in job.stages:
        stage.state = pb.JobStage.PASSED

    lines = list(stage_lines(job))

    bars = ["█" * 12 + "/" * 12, "/" * 24]
    rejected = "REJECTED or CANCELED" if status == pb.Job.CANCELED else "REJECTED"
    assert lines[0] == f" 0 10%        STOPPED   {bars[0]}  2 SUCCEEDED, 2 {rejected}"
    assert lines[2] == f" 1 every\\none  UNOPENED  {bars[1]}  36 {rejected}"


@pytest.mark.parametrize(
    ("criterion", "text"),
    [
        ({"count": 3}, "pause at 3 failures"),
        ({"count": 1_000, "action": "FORCE_CANCEL"}, "force cancel at 1,000 failures"),
        ({"percent": 5, "min_finished": 20}, "pause at 5% of the finished, once 20 have finished"),
        (
            {"percent": 5, "basis": "TARGETED", "scope": "STAGE", "action": "CANCEL"},
            "cancel at 5% of the targeted in a stage",
        ),
        ({"count": 3, "statuses": ["FAILED", "TIMED_OUT", "REJECTED"]}, "pause at 3 failures"),
        (
            {"count": 3, "statuses": ["FAILED"], "failure_codes": ["E1", ""]},
            "pause at 3 failures (FAILED, E1, no code)",
        ),
    ],
)
def test_criterion_reads_like_the_options(criterion: dict[str, Any], text: str) -> None:
    assert format_criterion(pb.FailureCriterion(**criterion)) == text


def test_bar_is_blank_when_the_stage_is_empty() -> None:
    assert bar(pb.ExecutionCounts(), 4) == "    "


@pytest.mark.parametrize(
    ("numbers", "width", "parts"),
    [
        ([1, 1], 10, [5, 5]),
        ([1, 999_999], 10, [1, 9]),
        ([999_999, 0, 1], 10, [9, 0, 1]),
        ([1, 1, 1], 10, [3, 4, 3]),
        ([0, 0], 10, [0, 0]),
    ],
)
def test_split_width_gives_every_number_above_zero_a_part(
    numbers: list[int], width: int, parts: list[int]
) -> None:
    assert split_width(numbers, width) == parts
