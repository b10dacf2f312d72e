"""Every RPC, as one tenant against the data of another: nothing is there, and nothing is told."""

import json
import logging
import statistics
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.rpcs import CallResult, Rpc, list_rpcs, sample_requests
from tests.support.server import Server

JOBS = ("running", "canceled", "retried", "done")

TABLES = (
    "jobs.jobs",
    "jobs.job_progress",
    "jobs.job_executions",
    "jobs.execution_attempts",
    "public.device_state",
    "public.device_group_members",
)


@dataclass(frozen=True)
class Victim:
    """A tenant whose every name is its own, and occurs nowhere else."""

    tenant: str
    mark: str

    def names(self, job: str) -> dict[str, str]:
        """What request fields could say of it, by the ends of their names."""
        return {
            "job_id": self.name(job),
            "device_id": self.name("device"),
            "group_id": self.name("group"),
            "created_by": self.name("user"),
            "document_type": self.name("type"),
        }

    def name(self, thing: str) -> str:
        """The name of something of the tenant's."""
        return f"{self.mark}-{thing}"


@pytest.fixture(scope="module")
async def victim(database: Database, server: Server) -> Victim:
    """A tenant with a job in each state, attempts, and secrets in documents and details."""
    victim = Victim(f"tenant-{uuid.uuid4().hex[:12]}", f"v{uuid.uuid4().hex[:12]}")
    operator = server.operator(victim.tenant, user=victim.name("user"))
    device = server.device(victim.tenant, victim.name("device"))
    await database.add_devices(victim.tenant, [device.name], group=victim.name("group"))
    for job in JOBS:
        await operator.create(
            job_id=victim.name(job),
            document_type=victim.name("type"),
            document_params={"secret": victim.name("secret")},
            target_all=True,
        )
    await operator.cancel(victim.name("canceled"), reason=victim.name("reason"))
    details = {"secret": victim.name("details")}
    await device.update(victim.name("retried"), "FAILED", status_details=details)
    await operator.retry(victim.name("retried"), "FAILED")
    await device.update(victim.name("done"), "SUCCEEDED", status_details=details)
    await device.start(victim.name("running"), status_details=details)
    return victim


@dataclass(frozen=True)
class Stranger:
    """Another tenant, new for each request, with a device, a group and a job of its own."""

    database: Database
    server: Server

    async def ask(
        self, rpc: Rpc, names: Sequence[str], request: int, values: Mapping[str, str]
    ) -> str:
        """All that is answered to one of the requests with the values of those names."""
        self_made = f"stranger-{uuid.uuid4().hex}"
        await self.database.add_devices(self_made, ["mine"], group="mine")
        await self.server.operator(self_made).create(job_id="mine", target_all=True)
        made = list(sample_requests(rpc, {name: values[name] for name in names}))[request]
        answer = await rpc.call(
            self.server.channel, made, tenant=self_made, device=values["device_id"]
        )
        return told(answer, values).replace(self_made, "<tenant>")


def asked(rpc: Rpc, values: Mapping[str, str]) -> Iterator[tuple[Sequence[str], int]]:
    """With all names, with one identity alone, with none; and the requests made of each."""
    for names in (tuple(values), ("job_id",), ("device_id",), ()):
        for request, _ in enumerate(sample_requests(rpc, {name: values[name] for name in names})):
            yield names, request


def told(answer: CallResult, values: Mapping[str, str]) -> str:
    """What an answer says, apart from what the request said and from the time."""
    text = str(answer)
    for field, value in sorted(values.items()):
        text = text.replace(value, f"<{field}>")
    return "\n".join(
        line for line in text.splitlines() if "seconds:" not in line and "nanos:" not in line
    )


async def everything(database: Database, tenant: str) -> dict[str, list[str]]:
    """All rows of a tenant."""
    return {
        table: [
            row["row"]
            for row in await database.owner.fetch(
                f"SELECT to_jsonb(t)::text AS row FROM {table} t WHERE tenant_id = $1 ORDER BY 1",
                tenant,
            )
        ]
        for table in TABLES
    }


async def test_no_rpc_finds_or_changes_or_tells_anything_of_another_tenant(
    database: Database, server: Server, victim: Victim, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked for what is another's, each answers as for what is nowhere."""
    caplog.set_level(logging.DEBUG, "jobs_grpc")
    before = await everything(database, victim.tenant)
    stranger = Stranger(database, server)
    walked = await list_rpcs(server.channel)
    nowhere = {field: f"nowhere-{field}" for field in victim.names("any")}

    for rpc in walked:
        answers = []
        for names, request in asked(rpc, nowhere):
            expected = await stranger.ask(rpc, names, request, nowhere)
            for job in JOBS:
                caplog.clear()
                answer = await stranger.ask(rpc, names, request, victim.names(job))

                assert answer == expected, rpc.path
                for leak in (victim.mark, victim.tenant):
                    assert leak not in answer, rpc.path
                    assert leak not in logged(caplog, victim.names(job)), rpc.path
            answers.append(expected)
        # At least one of the requests was one, and was refused for what it asked after.
        assert any("INVALID_ARGUMENT" not in answer for answer in answers), rpc.path
        assert not any("UNIMPLEMENTED" in answer for answer in answers), rpc.path

    assert len(walked) >= 17
    assert await everything(database, victim.tenant) == before


def logged(caplog: pytest.LogCaptureFixture, values: Mapping[str, str]) -> str:
    """All that log records hold, shown or not, apart from what the request said itself."""
    text = " ".join(json.dumps(vars(record), default=str) for record in caplog.records)
    for value in values.values():
        text = text.replace(value, "")
    return text


async def test_the_walk_would_notice(server: Server, victim: Victim) -> None:
    """As the tenant itself, the same requests do find something."""
    found = 0
    for rpc in await list_rpcs(server.channel):
        if rpc.method.name.startswith(("Get", "List", "Watch")):
            values = victim.names("running")
            answers = [
                await rpc.call(
                    server.channel, request, tenant=victim.tenant, device=values["device_id"]
                )
                for request in sample_requests(rpc, values)
            ]
            found += any(victim.mark in told(answer, values) for answer in answers)

    assert found >= 6


async def test_it_takes_no_longer_to_refuse_what_is_anothers(
    server: Server, operator: Operator, victim: Victim
) -> None:
    async def seconds(job_id: str) -> float:
        started = time.perf_counter()
        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
            await operator.get(job_id)
        return time.perf_counter() - started

    # In turn, so that whatever else the machine does hits both.
    pairs = [(await seconds(victim.name("done")), await seconds("nowhere")) for _ in range(150)]

    anothers, nobodys = map(statistics.median, zip(*pairs, strict=True))
    assert 0.5 < anothers / nobodys < 2
