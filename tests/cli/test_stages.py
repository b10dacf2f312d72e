"""The bars of stages."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.stages import bar, split_width, stage_lines


def test_stage_lines_show_state_bar_counts_and_what_is_next() -> None:
    job = pb.Job(rollout=pb.Rollout(stages=[pb.Stage(percent=10), pb.Stage(remainder=True)]))
    job.stages.add(
        state=pb.JobStage.OPEN,
        total_executions=4,
        execution_counts=pb.ExecutionCounts(succeeded=2, failed=1, in_progress=1),
        awaiting_approval=True,
    )
    job.stages.add(
        display_name="every\none",
        state=pb.JobStage.PENDING,
        total_executions=36,
        execution_counts=pb.ExecutionCounts(held=36),
    )

    first, second = stage_lines(job)

    counts = "1 IN_PROGRESS, 2 SUCCEEDED, 1 FAILED  waits for an approval"
    assert first == f" 0 10%        OPEN     ████████████××××××▒▒▒▒▒▒  {counts}"
    assert second == f" 1 every\\none  PENDING  {'·' * 24}  36 HELD"


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
