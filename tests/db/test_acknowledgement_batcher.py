"""Acknowledgements that arrive while a batch runs form the next one."""

import asyncio
from typing import Any, cast

import pytest

from jobs_grpc.db.acknowledgement_batcher import AcknowledgementBatcher
from jobs_grpc.db.store import Store
from jobs_grpc.errors import DatabaseUnavailable

TENANT = "t"


class ScriptedStore:
    """A store whose calls wait for their responses."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        """The devices of each call."""
        self.responses: asyncio.Queue[list[str] | Exception] = asyncio.Queue()
        """The busy jobs of each call, or its error."""

    async def acknowledge_executions(self, tenant_id: str, **values: Any) -> dict[str, list[str]]:
        assert tenant_id == TENANT
        self.calls.append(values["device_ids"])
        response = await self.responses.get()
        if isinstance(response, Exception):
            raise response
        return {"busy_job_ids": response}


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


@pytest.fixture
async def calls(store: ScriptedStore) -> list["asyncio.Task[None]"]:
    """The calls of "a", whose batch runs, and of "b", "c" and "d", which wait."""
    batcher = AcknowledgementBatcher(cast(Store, store))
    calls = []
    for device, job in {"a": "j", "b": "j", "c": "k", "d": "k"}.items():
        call = batcher.acknowledge(TENANT, device, [(job, 1)])
        calls.append(asyncio.create_task(call))
        await asyncio.sleep(0)
    return calls


async def test_calls_that_arrive_during_a_batch_form_the_next_one(
    store: ScriptedStore, calls: list["asyncio.Task[None]"]
) -> None:
    calls[2].cancel()
    store.responses.put_nowait([])
    await calls[0]
    store.responses.put_nowait([])
    await asyncio.gather(calls[1], calls[3])

    assert store.calls == [["a"], ["b", "d"]]


async def test_only_calls_with_locked_jobs_are_sent_again(
    store: ScriptedStore, calls: list["asyncio.Task[None]"]
) -> None:
    for response in (["j"], ["j"], [], []):
        store.responses.put_nowait(response)
    await asyncio.gather(*calls)

    assert store.calls[:2] == [["a"], ["b", "c", "d"]]
    # In one batch or in two.
    assert [device for batch in store.calls[2:] for device in batch] == ["a", "b"]


async def test_error_fails_the_calls_of_its_batch_only(
    store: ScriptedStore, calls: list["asyncio.Task[None]"]
) -> None:
    store.responses.put_nowait([])
    store.responses.put_nowait(DatabaseUnavailable("away"))
    results = await asyncio.gather(*calls, return_exceptions=True)

    assert results[0] is None
    assert len({id(result) for result in results[1:]}) == 3
    assert all(isinstance(result, DatabaseUnavailable) for result in results[1:])


async def test_locked_job_is_not_tried_with_each_batch(store: ScriptedStore) -> None:
    """Otherwise the tries would be over within milliseconds while others acknowledge."""
    batcher = AcknowledgementBatcher(cast(Store, store))
    for _ in range(1000):
        store.responses.put_nowait(["j"])
    busy = asyncio.create_task(batcher.acknowledge(TENANT, "busy", [("j", 1)]))
    for _ in range(30):
        await batcher.acknowledge(TENANT, "other", [("k", 1)])
    store.responses = asyncio.Queue()
    store.responses.put_nowait([])

    await busy
