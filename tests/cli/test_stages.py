"""The bars of stages. transcripts/stages.txt has what is around them."""

import pytest

from jobs_grpc.cli.stages import split_width


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
