"""`jobs-grpc list`."""

import pytest

from tests.support.callers import Operator
from tests.support.cli import Shell


@pytest.mark.slow
async def test_list_reads_several_pages_when_limit_exceeds_one_page(
    shell: Shell, operator_with_job: Operator
) -> None:
    for _ in range(204):
        await operator_with_job.create(target_all=True)

    listed = await shell("list", "--limit", "203")
    one = await shell("list", "--limit", "1")
    everything = await shell("list", "--all")

    assert len(listed.out.splitlines()) == 1 + 203
    assert listed.err == "the newest 203 jobs; --all shows the rest\n"
    assert one.err == "the newest job; --all shows the rest\n"
    assert (len(everything.out.splitlines()), everything.err) == (1 + 205, "")
