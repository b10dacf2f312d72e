"""Large pages let other calls run while they are converted."""

from typing import Any

import pytest
from fleet.jobs.v1.jobs_pb2 import ListJobExecutionsResponse, ListJobsResponse

from jobs_grpc.services.execution_page import append_executions
from jobs_grpc.services.response_pages import fill_page
from tests.services.test_execution_page import VALUES, page_row


class Pauses:
    """Counts the pauses of a page."""

    def __init__(self) -> None:
        self.count = 0

    async def pause(self) -> None:
        """Count a pause."""
        self.count += 1


def executions(details_bytes: int) -> list[dict[str, Any]]:
    """Ten executions with different details."""
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
    jobs = [{"document_type": "x" * document_bytes}] * 10

    await fill_page(response.jobs, jobs, 100, counted.pause)

    assert len(response.jobs) == 10
    assert counted.count == pauses
