"""Large pages let other calls run while they are converted."""

from typing import Any

import pytest
from fleet.jobs.v1.jobs_pb2 import ListJobExecutionsResponse, ListJobsResponse

from jobs_grpc.services.execution_page import append_executions
from jobs_grpc.services.response_pages import fill_page, max_page_elements
from tests.services.test_execution_page import VALUES, page_row


class Pauses:
    """Counts the pauses of a page."""

    def __init__(self) -> None:
        self.count = 0

    async def pause(self) -> None:
        self.count += 1


def executions(details_bytes: int) -> list[dict[str, Any]]:
    first = {name: values[-1] for name, values in VALUES.items()} | {"status": "FAILED"}
    return [
        first | {"device_id": f"d{n}", "status_details": f'{{"{n}": "{"x" * details_bytes}"}}'}
        for n in range(10)
    ]


@pytest.mark.parametrize(("details_bytes", "pauses"), [(10, 0), (12_000, 3), (40_000, 10)])
async def test_page_of_executions_pauses_after_each_32_kib(details_bytes: int, pauses: int) -> None:
    counted, response = Pauses(), ListJobExecutionsResponse()

    await append_executions(response, page_row(executions(details_bytes)), 100, counted.pause)

    assert len(response.executions) == 10
    assert counted.count == pauses


@pytest.mark.parametrize(("document_bytes", "pauses"), [(10, 0), (12_000, 3), (40_000, 10)])
async def test_page_of_jobs_pauses_after_each_32_kib(document_bytes: int, pauses: int) -> None:
    counted, response = Pauses(), ListJobsResponse()
    jobs: list[Any] = [{"document_type": "x" * document_bytes}] * 10

    await fill_page(response.jobs, jobs, dict, 100, counted.pause)

    assert len(response.jobs) == 10
    assert counted.count == pauses


ZEROS = '{"a": [' + ", ".join(["0"] * 998) + "]}"
"""A document of about a thousand elements."""


def jobs_of(document: str, count: int) -> list[Any]:
    return [{"document_params": document}] * count


@pytest.mark.parametrize(("limit", "size"), [(100, 20), (2, 2), (1000, 20)])
async def test_page_ends_when_it_has_20_000_elements(limit: int, size: int) -> None:
    counted, response = Pauses(), ListJobsResponse()

    left_over = await fill_page(
        response.jobs, jobs_of(ZEROS, 30), lambda row: {"job_id": "j"}, limit, counted.pause
    )

    assert left_over
    assert len(response.jobs) == size
    # 1,024 elements take as long as 32 KiB of text.
    assert counted.count == size // 2


async def test_page_has_an_item_that_alone_exceeds_the_elements() -> None:
    large = '{"a": [' + ", ".join(["[]"] * 30_000) + "]}"
    assert max_page_elements(1) < 30_000
    counted, response = Pauses(), ListJobsResponse()

    left_over = await fill_page(
        response.jobs, jobs_of(large, 2), lambda row: {"job_id": "j"}, 1000, counted.pause
    )

    assert left_over
    assert len(response.jobs) == 1


@pytest.mark.parametrize("shared", [True, False])
async def test_page_of_executions_ends_when_its_details_have_20_000_elements(shared: bool) -> None:
    rows = [
        execution | {"status_details": ZEROS if shared else ZEROS.replace("[0", f"[{n}")}
        for n, execution in enumerate(executions(1) * 3)
    ]
    response = ListJobExecutionsResponse()

    assert await append_executions(response, page_row(rows), 1000, Pauses().pause)

    assert len(response.executions) == 20
