"""Every RPC, called as one tenant for the data of another: it finds and reveals nothing."""

import json
import logging
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from fleet.jobs.v1 import fleet_pb2 as fleet_pb
from google.protobuf.message import Message

from jobs_grpc.errors import JobNotFound
from tests.support.database import Database, request_session
from tests.support.rows_read import reads
from tests.support.rpcs import CallResult, Rpc, list_rpcs, sample_requests
from tests.support.server import Server

JOBS = ("running", "canceled", "retried", "done")

TABLES = (
    "jobs.jobs",
    "jobs.job_progress",
    "jobs.job_executions",
    "jobs.execution_attempts",
    "jobs.job_labels",
    "jobs.devices",
    "jobs.webhooks",
    "public.device_state",
    "public.device_group_members",
)


@dataclass(frozen=True)
class Victim:
    """A tenant whose names all contain a unique mark."""

    tenant: str
    mark: str

    def names(self, job: str) -> dict[str, str]:
        """Return values for request fields, by the ends of the fields' names."""
        return {
            "job_id": self.name(job),
            "device_id": self.name("device"),
            "group_id": self.name("group"),
            "created_by": self.name("user"),
            "document_type": self.name("type"),
            "webhook_id": self.name("webhook"),
            "url": f"https://{self.mark}.example/",
        }

    def name(self, thing: str) -> str:
        return f"{self.mark}-{thing}"


@pytest.fixture(scope="module")
async def victim(database: Database, server: Server) -> Victim:
    """A tenant with jobs in several states, attempts, and secrets in documents and details."""
    victim = Victim(f"tenant-{uuid.uuid4().hex[:12]}", f"v{uuid.uuid4().hex[:12]}")
    operator = server.operator(victim.tenant, user=victim.name("user"))
    device = server.device(victim.tenant, victim.name("device"))
    await database.add_devices(victim.tenant, [device.name], group=victim.name("group"))
    for job in JOBS:
        await operator.create(
            job_id=victim.name(job),
            document_type=victim.name("type"),
            document_params={"secret": victim.name("secret")},
            labels={victim.name("key"): victim.name("value")},
            description=victim.name("description"),
            target_all=True,
        )
    await operator.cancel(victim.name("canceled"), reason=victim.name("reason"))
    labeled = fleet_pb.Device(device_id=device.name, labels={"secret": victim.name("label")})
    await server.fleet(victim.tenant).update(labeled, mask=["labels"])
    await database.owner.execute(
        "SELECT FROM jobs.create_webhook($1, $2, $3, $4, NULL, 'key')",
        victim.tenant,
        victim.name("webhook"),
        f"https://{victim.mark}.example/secret",
        victim.name("description"),
    )
    details = {"secret": victim.name("details")}
    await device.update(victim.name("retried"), "FAILED", status_details=details)
    await operator.retry(victim.name("retried"), "FAILED")
    await device.update(victim.name("done"), "SUCCEEDED", status_details=details)
    await device.start(victim.name("running"), status_details=details)
    return victim


def is_read(rpc: Rpc) -> bool:
    return rpc.method.name.startswith(("Get", "List", "Watch"))


@dataclass
class Stranger:
    """Calls RPCs as another tenant, with a device, a group and a job: a new one for each change."""

    database: Database
    server: Server
    reader: str = ""

    async def call(self, rpc: Rpc, request: Message, values: Mapping[str, str]) -> str:
        if is_read(rpc):
            tenant = self.reader = self.reader or await self._new_tenant()
        else:
            tenant = await self._new_tenant()
        result = await rpc.call(
            self.server.channel, request, tenant=tenant, device=values["device_id"]
        )
        return revealed(result, values).replace(tenant, "<tenant>")

    async def _new_tenant(self) -> str:
        tenant = f"stranger-{uuid.uuid4().hex}"
        await self.database.add_devices(tenant, ["mine"], group="mine")
        await self.server.operator(tenant).create(job_id="mine", target_all=True)
        return tenant


def requests(rpc: Rpc, values: Mapping[str, str]) -> list[Message]:
    """Sample requests in which all fields, one identity or none have these values."""
    return [
        request
        for fields in (tuple(values), ("job_id",), ("device_id",), ())
        for request in sample_requests(rpc, {name: values[name] for name in fields})
    ]


def revealed(result: CallResult, values: Mapping[str, str]) -> str:
    """Return the text of a result without the values of the request, times and positions."""
    text = str(result)
    for field, value in sorted(values.items()):
        text = text.replace(value, f"<{field}>")
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "<time>", text)  # of a forecast
    return "\n".join(
        line
        for line in text.splitlines()
        if not any(name in line for name in ("seconds:", "nanos:", "position:"))
    )


async def all_rows(database: Database, tenant: str) -> dict[str, list[str]]:
    """Return all rows of a tenant, by table, without when a server stored last_seen_at."""
    return {
        table: [
            row["row"]
            for row in await database.owner.fetch(
                f"SELECT (to_jsonb(t) - 'last_seen_at')::text AS row FROM {table} t"
                " WHERE tenant_id = $1 ORDER BY 1",
                tenant,
            )
        ]
        for table in TABLES
    }


@pytest.mark.slow
async def test_no_rpc_finds_changes_or_reveals_data_of_another_tenant(
    database: Database, server: Server, victim: Victim, caplog: pytest.LogCaptureFixture
) -> None:
    """For the data of another tenant, an RPC returns the same as for data that does not exist."""
    caplog.set_level(logging.DEBUG, "jobs_grpc")
    before = await all_rows(database, victim.tenant)
    stranger = Stranger(database, server)
    rpcs = await list_rpcs(server.channel)
    unknown = {field: f"nowhere-{field}" for field in victim.names("any")}
    unknown["url"] = "https://nowhere.example/"

    for rpc in rpcs:
        samples = requests(rpc, unknown)
        results = [await stranger.call(rpc, request, unknown) for request in samples]
        sent: list[Message] = []
        for job in JOBS:
            names = victim.names(job)
            for request, expected in zip(requests(rpc, names), results, strict=True):
                if request in sent:  # the same as for another job
                    continue
                sent.append(request)
                caplog.clear()
                result = await stranger.call(rpc, request, names)

                assert result == expected, rpc.path
                for leak in (victim.mark, victim.tenant):
                    assert leak not in result, rpc.path
                    assert leak not in logged(caplog, names), rpc.path
        # At least one request was valid, so it was rejected only because the data is missing.
        assert any("INVALID_ARGUMENT" not in result for result in results), rpc.path
        assert not any("UNIMPLEMENTED" in result for result in results), rpc.path

    assert len(rpcs) >= 17
    assert await all_rows(database, victim.tenant) == before


def logged(caplog: pytest.LogCaptureFixture, values: Mapping[str, str]) -> str:
    """Return all fields of the log records, without the values of the request."""
    text = " ".join(json.dumps(vars(record), default=str) for record in caplog.records)
    for value in values.values():
        text = text.replace(value, "")
    return text


async def test_same_requests_find_data_when_called_as_the_tenant_itself(
    server: Server, victim: Victim
) -> None:
    """This proves that the test above would notice a leak."""
    found = 0
    for rpc in await list_rpcs(server.channel):
        if is_read(rpc):
            values = victim.names("running")
            results = [
                await rpc.call(
                    server.channel, request, tenant=victim.tenant, device=values["device_id"]
                )
                for request in sample_requests(rpc, values)
            ]
            found += any(victim.mark in revealed(result, values) for result in results)

    assert found >= 6


async def test_rejection_reads_as_much_for_data_of_another_tenant_as_for_missing_data(
    database: Database, tenant: str, victim: Victim
) -> None:
    async with request_session(database) as (session, store):

        async def not_found(job_id: str) -> None:
            with pytest.raises(JobNotFound):
                async with session.transaction():
                    await store.get_job(tenant, job_id=job_id, executions_limit=1)

        of_another, missing = [
            await reads(session, not_found(job_id)) for job_id in (victim.name("done"), "nowhere")
        ]

    assert of_another == missing
