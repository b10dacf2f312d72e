"""JobExecution.reported_by: the bridge that started or reported for a device."""

from dataclasses import dataclass
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Device
from tests.support.database import request_session
from tests.support.report_streams import message, report, single
from tests.support.staged_jobs import rollout
from tests.support.waiting import TIMEOUT
from tests.support.world import World


@dataclass(frozen=True)
class Bridge(Device):
    """A bridge that acts for the device `name`."""

    user: str = "mallory"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        user = (("x-user-id", self.user),) if self.user else ()
        return (*super().metadata, ("x-roles", "bridge"), *user)


class Probe(World):
    """Bridges that act for the device "pump", and the job "j" of three devices."""

    def pump_bridge(self, user: str = "mallory") -> Bridge:
        return Bridge(self.pump.stub, self.tenant, "pump", user)

    async def attempts(self) -> list[str | None]:
        """reported_by of the attempts of "pump", the current one first."""
        return [reported_by(attempt) for attempt in await self.operator.attempts("j", "pump")]


def reported_by(execution: pb.JobExecution) -> str | None:
    return execution.reported_by if execution.HasField("reported_by") else None


@pytest.fixture
async def probe(world: World) -> Probe:
    """A job with a retry policy for failures with the code "again"."""
    await world.add_devices(["pump", "tank", "valve"])
    policy = pb.RetryPolicy(rules=[pb.RetryRule(failure_codes=["again"], max_attempts=2)])
    await world.create(retry_policy=policy)
    return Probe(world.database, world.server, world.operator)


async def test_reported_by_is_unset_when_the_device_acts_itself(probe: Probe) -> None:
    await probe.pump.start("j")
    await probe.pump.update("j", "SUCCEEDED")

    assert await probe.attempts() == [None]
    assert {reported_by(e) for e in (await probe.operator.get("j")).executions} == {None}


@pytest.mark.parametrize("user", ["mallory", "", "ü".encode().hex(), "x" * 256])
async def test_all_reads_show_the_subject_of_the_bridge(probe: Probe, user: str) -> None:
    await probe.pump_bridge(user).start("j")
    device = await probe.fleet.get("pump")
    job = await probe.operator.get("j")
    executions = (await probe.operator.executions("j")).executions

    assert await probe.attempts() == [user]
    assert [reported_by(e) for e in device.executions] == [user]
    assert [reported_by(e) for e in job.executions] == [user, None, None]
    assert [reported_by(e) for e in executions] == [user, None, None]
    for fields in ({"device_id": "pump"}, {"device_id": "pump", "limit": 1}):
        page = await probe.operator.executions("", **fields)
        assert [reported_by(e) for e in page.executions] == [user]
    assert reported_by((await probe.operator.explain("j", "pump")).execution) == user
    [execution] = (await probe.operator.executions("j", device_id="pump")).executions
    assert reported_by(execution) == user


async def test_last_bridge_stays_when_the_device_reports_afterwards(probe: Probe) -> None:
    assert await probe.pump_bridge("first").start_next()
    await probe.pump_bridge("second").update("j", "IN_PROGRESS")
    await probe.pump.update("j", "IN_PROGRESS")
    await probe.operator.cancel_execution("j", "pump", force=True)

    assert await probe.attempts() == ["second"]


async def test_bridge_is_not_stored_when_its_report_changes_nothing(probe: Probe) -> None:
    await probe.pump.update("j", "SUCCEEDED")

    await probe.pump_bridge().update("j", "SUCCEEDED")

    assert await probe.attempts() == [None]


async def test_retry_clears_the_bridge_and_the_earlier_attempt_keeps_it(probe: Probe) -> None:
    await probe.pump_bridge("first").update("j", "FAILED", failure_code="again")  # the retry policy
    assert await probe.attempts() == [None, "first"]

    await probe.pump_bridge("second").update("j", "FAILED", execution_number=2)
    await probe.operator.retry("j", "FAILED")
    assert await probe.attempts() == [None, "second", "first"]

    await probe.pump.update("j", "SUCCEEDED", execution_number=3)
    assert await probe.attempts() == [None, "second", "first"]


@pytest.mark.parametrize("several", [False, True])
async def test_stream_of_a_bridge_stores_its_subject(probe: Probe, *, several: bool) -> None:
    stub: Any = probe.pump.stub
    reports = [report(device, "SUCCEEDED") for device in ("pump", "valve")]
    request = message(*reports) if several else single(reports[0])
    metadata = (("x-tenant-id", probe.tenant), ("x-user-id", "mallory"))
    call = stub.ReportExecutions(iter([request]), metadata=metadata, timeout=TIMEOUT)
    assert len([response async for response in call]) == 1

    expected = ["mallory", None, "mallory" if several else None]
    assert [reported_by(e) for e in (await probe.operator.get("j")).executions] == expected


async def test_start_that_waits_for_reports_of_a_batch_stores_its_own_bridge(probe: Probe) -> None:
    """Such starts are applied after the reports, by their position in the batch."""
    stages = rollout({"remainder": True}, max_in_progress=1)
    await probe.create("full", rollout=stages)
    await probe.pump.start("full")
    updates = [
        ExecutionUpdate("full", "pump", "SUCCEEDED", reported={"reported_by": "first"}),
        ExecutionUpdate("full", "tank", None, reported={"reported_by": "second"}),
    ]

    async with request_session(probe.database) as (_, store):
        rows = await store.update_executions(probe.operator.tenant, updates, wait_ms=1000)

    assert [row["outcome"] for row in rows] == ["APPLIED", "APPLIED"]
    executions = (await probe.operator.get("full")).executions
    assert [reported_by(e) for e in executions] == ["first", "second", None]
