"""deploy/cells: Envoy routes each tenant to the server and the database of its cell."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc, jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode
from grpc.aio import EOF

from tests.auth.support import JWT_SETTINGS, KEY
from tests.gateway.support import RestClient, running_gateway
from tests.support.callers import Operator, read_to_end
from tests.support.database import Database, new_database
from tests.support.failures import expect_failure
from tests.support.health import is_healthy
from tests.support.identities import Authority, channel_credentials, claims, jwks, mutual_tls, token
from tests.support.postgres import Postgres, pg_program
from tests.support.processes import running_process
from tests.support.server import Server, open_channel, running_server, running_tls_server
from tests.support.waiting import TIMEOUT, read_until, wait_until_true
from tools.check_deploy import TOOLS

CELLS = Path(__file__).parents[2] / "deploy" / "cells"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tools")]

Change = Callable[[Any], None]


@dataclass
class Envoy:
    """A running Envoy with the configuration of deploy/cells, changed to addresses of the test."""

    folder: Path
    admin: httpx.AsyncClient
    channel: grpc.aio.Channel
    address: str

    def operator(self, tenant: str) -> Operator:
        return self.caller(("x-tenant-id", tenant))

    def caller(self, *metadata: tuple[str, str]) -> Operator:
        """Return a caller that sends exactly this metadata."""
        return Operator(jobs_pb2_grpc.JobServiceStub(self.channel), "", explicit_metadata=metadata)

    async def route(self, tenant: str, like: str) -> None:
        """Route a tenant like another one, as an operator does: replace tenants.yaml."""
        file = self.folder / "tenants.yaml"
        config = yaml.safe_load(file.read_text())
        tenants = config["resources"][0]["virtual_hosts"][0]["matcher"]["matcher_tree"]
        tenants["exact_match_map"]["map"][tenant] = tenants["exact_match_map"]["map"][like]
        updates = partial(self.stat, "http.jobs.rds.tenants.update_success")
        before = await updates()
        (self.folder / "new.yaml").write_text(yaml.safe_dump(config))
        (self.folder / "new.yaml").replace(file)
        await read_until(updates, lambda count: count > before)

    async def stat(self, name: str) -> int:
        stats = await self.admin.get("/stats", params={"filter": f"^{name}$", "format": "json"})
        return int(stats.json()["stats"][0]["value"])

    def access_log(self) -> list[dict[str, Any]]:
        """Return the lines of the access log that Envoy has written so far."""
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]


def no_change(manager: Any) -> None:
    """Leave the configuration as it is."""


@asynccontextmanager
async def running_envoy(
    folder: Path, cells: dict[str, str], change: Change = no_change, authority: Any = None
) -> AsyncIterator[Envoy]:
    """Run Envoy in front of cells, given by name and address.

    `change` changes the connection manager. With an authority, all connections use TLS.
    """
    for file in CELLS.glob("*.yaml"):
        text = file.read_text().replace("/etc/envoy", str(folder))
        (folder / file.name).write_text(text)
    bootstrap = yaml.safe_load((folder / "envoy.yaml").read_text())
    bootstrap["admin"]["address"]["socket_address"]["port_value"] = 0
    (listener,) = bootstrap["static_resources"]["listeners"]
    listener["address"]["socket_address"]["port_value"] = 0
    (chain,) = listener["filter_chains"]
    change(chain["filters"][0]["typed_config"])
    tls = yaml.safe_load((folder / "tls.yaml").read_text())
    if authority:
        chain["transport_socket"] = tls["callers"]
    (folder / "envoy.yaml").write_text(yaml.safe_dump(bootstrap))
    clusters = yaml.safe_load((folder / "cells.yaml").read_text())
    for cluster in clusters["resources"]:
        host, _, port = cells[cluster["name"]].rpartition(":")
        server = {"socket_address": {"address": host, "port_value": int(port)}}
        endpoints = cluster["load_assignment"]["endpoints"][0]
        endpoints["lb_endpoints"] = [{"endpoint": {"address": server}}]
        cluster["health_checks"][0]["interval"] = "0.1s"
        if authority:
            cluster["transport_socket"] = tls["servers"]
    (folder / "cells.yaml").write_text(yaml.safe_dump(clusters))

    command = (
        TOOLS / "bin" / "envoy",
        *("--config-path", folder / "envoy.yaml", "--admin-address-path", folder / "admin"),
        *("--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"),
        *("--file-flush-interval-msec", "10"),
    )
    admin_file, errors_file = folder / "admin", folder / "errors"
    with (folder / "log").open("w") as log, errors_file.open("w") as errors:
        async with running_process(*command, stdout=log, stderr=errors) as process:

            def started() -> bool:
                assert process.returncode is None, errors_file.read_text()
                return admin_file.exists() and ":" in admin_file.read_text()

            await wait_until_true(started)
            url = f"http://{admin_file.read_text()}"
            async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as admin:
                await read_until(lambda: admin.get("/ready"), lambda r: r.status_code == 200)
                listeners = (await admin.get("/listeners", params={"format": "json"})).json()
                bound = listeners["listener_statuses"][0]["local_address"]["socket_address"]
                address = f"{bound['address']}:{bound['port_value']}"
                credentials = channel_credentials(authority) if authority else None
                async with open_channel(address, credentials) as channel:
                    yield Envoy(folder, admin, channel, address)


@asynccontextmanager
async def running_cells(
    cluster: tuple[Postgres, str], **variables: str
) -> AsyncIterator[dict[str, tuple[Database, Server]]]:
    async with AsyncExitStack() as stack:
        cells = {}
        for cell in ("cell-1", "cell-2"):
            database = await stack.enter_async_context(new_database(*cluster))
            await database.add_devices("acme", ["pump"])
            await database.add_devices("initech", ["pump"])
            server = running_server(database.request_dsn, **variables)
            cells[cell] = database, await stack.enter_async_context(server)
        yield cells


@pytest.fixture(scope="module")
async def cells(cluster: tuple[Postgres, str]) -> AsyncIterator[dict[str, tuple[Database, Server]]]:
    async with running_cells(cluster) as cells:
        yield cells


@pytest.fixture(scope="module")
async def envoy(
    cells: dict[str, tuple[Database, Server]], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Envoy]:
    addresses = {name: server.address for name, (_, server) in cells.items()}
    async with running_envoy(tmp_path_factory.mktemp("envoy"), addresses) as envoy:
        yield envoy


async def cells_of(cells: dict[str, tuple[Database, Server]], job_id: str) -> list[str]:
    sql = "SELECT count(*) FROM jobs.jobs WHERE job_id = $1"
    return [name for name, (db, _) in cells.items() if await db.owner.fetchval(sql, job_id)]


async def test_tenant_is_served_by_its_cell(
    envoy: Envoy, cells: dict[str, tuple[Database, Server]]
) -> None:
    await envoy.operator("acme").create(job_id="of-acme", target_all=True)
    await envoy.operator("initech").create(job_id="of-initech", target_all=True)

    assert await cells_of(cells, "of-acme") == ["cell-2"]
    # Its tenant is not in the map.
    assert await cells_of(cells, "of-initech") == ["cell-1"]


async def test_tenant_that_is_sent_twice_is_rejected(envoy: Envoy) -> None:
    twice = envoy.caller(("x-tenant-id", "acme"), ("x-tenant-id", "initech"))

    with expect_failure(StatusCode.UNAUTHENTICATED, "DUPLICATE_METADATA"):
        await twice.list()


async def test_call_without_tenant_is_rejected(envoy: Envoy) -> None:
    with expect_failure(StatusCode.UNAUTHENTICATED) as failure:
        await envoy.caller(("authorization", "Bearer token")).list()

    assert failure.message == "The call names no tenant: send x-tenant-id"
    # Load balancers and the gateway need no tenant.
    assert await is_healthy(envoy.channel)


async def test_streams_pass_until_the_job_is_completed(
    envoy: Envoy, cells: dict[str, tuple[Database, Server]]
) -> None:
    operator = envoy.operator("acme")
    await operator.create(job_id="streams", target_all=True)
    stub: Any = operator.stub
    request = pb.WatchJobRequest(job_id="streams")
    watch = stub.WatchJob(request, metadata=operator.metadata, timeout=TIMEOUT)
    assert (await watch.read()).job.status == pb.Job.IN_PROGRESS

    stub = device_jobs_pb2_grpc.DeviceJobServiceStub(envoy.channel)
    reports = stub.ReportExecutions(metadata=operator.metadata, timeout=TIMEOUT)
    # Together more than what Envoy keeps for a retry.
    statuses = ["IN_PROGRESS"] * 40 + ["SUCCEEDED"]
    for number, status in enumerate(statuses):
        fields: Any = {"status": status, "status_details": {"text": "x" * 4096}}
        update = device_pb.UpdateExecutionRequest(job_id="streams", **fields)
        report = device_pb.ReportExecutionsRequest(
            report_id=f"{number}", device_id="pump", report=update
        )
        await reports.write(report)
        response = await reports.read()
        assert response.execution.version == number + 2, response
    await reports.done_writing()
    await read_to_end(reports)
    last = None
    while (response := await watch.read()) is not EOF:
        last = response.job.status

    assert last == pb.Job.COMPLETED
    assert await cells_of(cells, "streams") == ["cell-2"]


async def test_rest_reaches_the_cell(
    envoy: Envoy, cells: dict[str, tuple[Database, Server]], gateway_binary: Path
) -> None:
    async with (
        running_gateway(gateway_binary, envoy.address) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as http,
    ):
        created = await RestClient(http, "acme").create(job_id="by-rest", target_all=True)
        healthy = await http.get("/healthz")

    assert (created.status_code, healthy.status_code) == (201, 200), created.text
    assert await cells_of(cells, "by-rest") == ["cell-2"]


async def test_access_log_names_tenant_cell_and_status(envoy: Envoy) -> None:
    request_id = "of-the-access-log"
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND") as failure:
        await envoy.caller(("x-tenant-id", "acme"), ("x-request-id", request_id)).get("missing")
    assert failure.request_id == request_id

    def logged() -> list[dict[str, Any]]:
        return [line for line in envoy.access_log() if line["request_id"] == request_id]

    await wait_until_true(lambda: bool(logged()))
    (line,) = logged()
    assert line["path"] == "/fleet.jobs.v1.JobService/GetJob"
    assert (line["tenant"], line["cell"], line["code"]) == ("acme", "cell-2", "NotFound")


async def test_cell_that_is_down_fails_calls_of_its_tenants_only(
    cells: dict[str, tuple[Database, Server]], tmp_path: Path
) -> None:
    async with AsyncExitStack() as server_of_acme:
        running = running_server(cells["cell-2"][0].request_dsn)
        server = await server_of_acme.enter_async_context(running)
        addresses = {"cell-1": cells["cell-1"][1].address, "cell-2": server.address}
        async with running_envoy(tmp_path, addresses) as envoy:
            await envoy.operator("acme").list()
            await server_of_acme.aclose()

            with expect_failure(StatusCode.UNAVAILABLE):
                await envoy.operator("acme").list()
            await envoy.operator("initech").list()


async def psql(url: str, *options: str | Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *(pg_program("psql"), url, "--no-psqlrc", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def test_tenant_moves_to_another_cell(
    envoy: Envoy, cells: dict[str, tuple[Database, Server]], tmp_path: Path
) -> None:
    old, new = cells["cell-1"][0], cells["cell-2"][0]
    operator = envoy.operator("moves")
    await old.add_devices("moves", 3, group="north")
    text = "tab\tnew\nline \\. 'quoted'"
    await operator.create(job_id="moved", target_group_id="north", document_params={"text": text})
    before = await operator.get("moved")
    await envoy.route("moves", like="example-tenant-that-moves")
    with expect_failure(StatusCode.UNAVAILABLE) as failure:
        await operator.list()
    assert "moved" in failure.message
    await envoy.operator("initech").list()

    dump = tmp_path / "moves.sql"
    tenant = ("--set", "tenant=moves")
    dump.write_text(await psql(old.owner_dsn, *tenant, "--file", CELLS / "dump_tenant.sql"))
    await psql(new.owner_dsn, "--quiet", "--single-transaction", "--file", dump)
    await envoy.route("moves", like="acme")
    await psql(old.owner_dsn, *tenant, "--file", CELLS / "delete_tenant.sql")

    assert await operator.get("moved") == before
    assert before.document_params["text"] == text
    assert await cells_of(cells, "moved") == ["cell-2"]
    await operator.create(job_id="after", target_group_id="north")
    assert await cells_of(cells, "after") == ["cell-2"]
    rest = "SELECT count(*) FROM public.device_state WHERE tenant_id = 'moves'"
    assert await old.owner.fetchval(rest) == 0


async def test_tenant_is_not_loaded_into_a_database_of_another_version(
    cells: dict[str, tuple[Database, Server]], tmp_path: Path
) -> None:
    old, new = cells["cell-1"][0], cells["cell-2"][0]
    await old.add_devices("older", 1)
    dump = tmp_path / "older.sql"
    options = ("--set", "tenant=older", "--file", CELLS / "dump_tenant.sql")
    dump.write_text((await psql(old.owner_dsn, *options)).replace("<> ", "<> 9", 1))

    with pytest.raises(AssertionError, match="the schema versions differ"):
        await psql(new.owner_dsn, "--quiet", "--single-transaction", "--file", dump)

    rest = "SELECT count(*) FROM public.device_state WHERE tenant_id = 'older'"
    assert await new.owner.fetchval(rest) == 0


@pytest.fixture
def token_settings(tmp_path: Path) -> dict[str, str]:
    """Settings of servers that accept tokens."""
    keys = tmp_path / "jwks.json"
    keys.write_text(jwks(KEY))
    return JWT_SETTINGS | {"JOBS_JWT_KEYS": str(keys)}


def bearer(tenant: str) -> tuple[str, str]:
    return "authorization", f"Bearer {token(KEY, claims(tenant, 'operator'))}"


async def test_token_must_agree_with_the_tenant_that_routes(
    cells: dict[str, tuple[Database, Server]], tmp_path: Path, token_settings: dict[str, str]
) -> None:
    database = cells["cell-2"][0]
    async with running_server(database.request_dsn, **token_settings) as server:
        addresses = dict.fromkeys(cells, server.address)
        async with running_envoy(tmp_path, addresses) as envoy:
            with expect_failure(StatusCode.PERMISSION_DENIED, "METADATA_MISMATCH"):
                await envoy.caller(bearer("acme"), ("x-tenant-id", "initech")).list()
            await envoy.caller(bearer("acme"), ("x-tenant-id", "acme")).list()


async def test_tls_to_envoy_and_client_certificate_to_the_servers(
    cells: dict[str, tuple[Database, Server]], tmp_path: Path
) -> None:
    authority = Authority()
    authority.server().write(tmp_path, "envoy")
    client = authority.client("envoy", dns="envoy.internal")
    client.write(tmp_path, "client")
    settings = mutual_tls(authority, tmp_path) | {"JOBS_TRUSTED_PEERS": "envoy.internal"}
    database = cells["cell-2"][0]
    trusted = channel_credentials(authority, client)
    async with running_tls_server(database.request_dsn, trusted, **settings) as server:
        addresses = dict.fromkeys(cells, server.address)
        async with running_envoy(tmp_path, addresses, authority=authority) as envoy:
            await envoy.operator("acme").list()


async def test_token_routes_with_the_filter(
    cluster: tuple[Postgres, str], tmp_path: Path, token_settings: dict[str, str]
) -> None:
    def insert_filter(manager: Any) -> None:
        text = (tmp_path / "jwt_filter.yaml").read_text()
        manager["http_filters"].insert(0, yaml.safe_load(text))

    async with running_cells(cluster, **token_settings) as cells:
        addresses = {name: server.address for name, (_, server) in cells.items()}
        async with running_envoy(tmp_path, addresses, insert_filter) as envoy:
            await envoy.caller(bearer("acme")).create(job_id="plain", target_all=True)
            # The filter replaces the tenant that the caller names.
            other = envoy.caller(bearer("acme"), ("x-tenant-id", "initech"))
            await other.create(job_id="named", target_all=True)
            with expect_failure(StatusCode.UNAUTHENTICATED) as failure:
                await envoy.operator("acme").list()
            healthy = await is_healthy(envoy.channel)

        assert await cells_of(cells, "plain") == ["cell-2"]
        assert await cells_of(cells, "named") == ["cell-2"]
        tenants = "SELECT DISTINCT tenant_id FROM jobs.jobs"
        assert await cells["cell-2"][0].owner.fetchval(tenants) == "acme"
    assert failure.message == "Jwt is missing"
    assert healthy
