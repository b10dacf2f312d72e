"""WatchPendingExecutions: what a device has to do, and again whenever that changes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Device, Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT


def watch(device: Device, **fields: Any) -> AsyncIterator[device_pb.WatchPendingExecutionsResponse]:
    """The answers of an open watch."""
    stub: Any = device.stub
    call = stub.WatchPendingExecutions(
        device_pb.WatchPendingExecutionsRequest(**fields),
        metadata=(("x-tenant-id", device.tenant), ("x-device-id", device.name)),
        timeout=TIMEOUT,
    )

    async def responses() -> AsyncIterator[device_pb.WatchPendingExecutionsResponse]:
        try:
            async for response in call:
                yield response
        finally:
            call.cancel()

    return responses()


def ids(response: device_pb.WatchPendingExecutionsResponse) -> list[str]:
    """The jobs in an answer."""
    return [execution.job_id for execution in response.executions]


@pytest.fixture
async def device(database: Database, server: Server, tenant: str) -> Device:
    """One of two devices of the test's tenant."""
    await database.add_devices(tenant, ["other", "pump"])
    return server.device(tenant, "pump")


async def test_it_tells_of_new_work_and_of_work_that_is_gone(
    device: Device, operator: Operator
) -> None:
    responses = watch(device)

    nothing = await anext(responses)
    await operator.create(job_id="first", target_all=True, document_params={"n": 1})
    first = await anext(responses)
    await operator.create(job_id="second", target_all=True)
    both = await anext(responses)
    await operator.cancel("first")
    second = await anext(responses)

    assert ids(nothing) == []
    assert ids(first) == ["first"]
    assert first.executions[0].document_params == {"n": 1}
    assert ids(both) == ["first", "second"]
    assert ids(second) == ["second"]


async def test_it_tells_of_progress(device: Device, operator: Operator) -> None:
    await operator.create(job_id="j", target_all=True)
    responses = watch(device)
    await anext(responses)

    await device.start("j")

    (execution,) = (await anext(responses)).executions
    assert execution.status == pb.JobExecution.IN_PROGRESS


async def test_other_devices_work_is_not_told(device: Device, operator: Operator) -> None:
    responses = watch(device)
    await anext(responses)

    await operator.create(job_id="others", target_device_id="other")
    await operator.create(job_id="mine", target_device_id="pump")

    assert ids(await anext(responses)) == ["mine"]


async def test_the_limit_is_that_of_an_answer(device: Device, operator: Operator) -> None:
    for job_id in ("first", "second"):
        await operator.create(job_id=job_id, target_all=True)

    response = await anext(watch(device, limit=1))

    assert ids(response) == ["first"]
    assert response.has_more


async def test_a_limit_out_of_range_is_refused(device: Device) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await anext(watch(device, limit=101))


async def test_watchers_wait_while_all_of_them_ask_at_once(
    database: Database, tenant: str, operator: Operator
) -> None:
    """There is one connection, and hardly any patience for it."""
    narrow = {"JOBS_POOL_MAX_SIZE": "1", "JOBS_POOL_TIMEOUT": "0.01"}
    names = [f"d{n}" for n in range(60)]
    await database.add_devices(tenant, names)
    async with running_server(database.request_dsn, **narrow) as own:
        watches = [watch(own.device(tenant, name)) for name in names]
        await asyncio.gather(*(anext(responses) for responses in watches))
        await operator.create(job_id="j", target_all=True)

        told = await asyncio.gather(*(anext(responses) for responses in watches))

    assert [ids(response) for response in told] == [["j"]] * 60
