"""`jobs-grpc dev`."""

import asyncio
import base64
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fleet.jobs.v1 import (
    device_jobs_pb2,
    device_jobs_pb2_grpc,
    events_pb2_grpc,
    fleet_pb2_grpc,
    jobs_pb2_grpc,
)
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.fleet_pb2 import Device
from google.protobuf import json_format

from jobs_grpc.cli.program import _parser
from jobs_grpc.dev import embedded_postgres
from tests.support.callers import Fleet, Operator
from tests.support.cli import Shell, spawn
from tests.support.endpoints import Endpoint, running_endpoint
from tests.support.postgres import connected, new_data_dir
from tests.support.server import open_channel, reserved_address
from tests.support.waiting import TIMEOUT, wait_until, wait_until_true
from tests.support.webhooks import WebhookCaller, is_signed

pytestmark = pytest.mark.slow

CALLS = (Path(__file__).parents[2] / "docs" / "reference" / "calls.md").read_text()
END_OF_GREETING = b"Press Ctrl-C to stop.\n"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with new_data_dir() as folder:
        yield folder


@pytest.fixture(scope="module")
async def endpoint() -> AsyncIterator[Endpoint]:
    """A receiver of webhooks without TLS."""
    async with running_endpoint(None) as running:
        yield running


async def _spawn_dev(data_dir: Path, *options: str, **settings: str) -> asyncio.subprocess.Process:
    listen = {"JOBS_LISTEN": "127.0.0.1:0", "JOBS_METRICS_LISTEN": ""}
    variables = {"JOBS_DATA_DIR": str(data_dir)} | listen | settings
    return await spawn("dev", *options, stdin=None, **variables)


async def _read_greeting(process: asyncio.subprocess.Process) -> tuple[str, str]:
    """Return the address and the whole greeting."""
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT):
        greeting = (await process.stdout.readuntil(END_OF_GREETING)).decode()
    address = re.search(r"Serving on (\S+);", greeting)
    assert address is not None
    return address[1], greeting


async def _wait_for_exit(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Return the exit code and what the process wrote to stderr."""
    code, _, errors = await _wait_for_output(process)
    return code, errors


async def _wait_for_output(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    """Return the exit code and what the process wrote to stdout and stderr."""
    out, errors = await asyncio.wait_for(process.communicate(), TIMEOUT)
    return process.returncode, out.decode(), errors.decode()


@asynccontextmanager
async def _running_dev(
    data_dir: Path, *options: str, **settings: str
) -> AsyncIterator[tuple[str, str]]:
    """Run `jobs-grpc dev`, yield its address and greeting, and stop it with Ctrl-C."""
    process = await _spawn_dev(data_dir, *options, **settings)
    try:
        yield await _read_greeting(process)
    finally:
        # A terminal sends SIGINT to the whole process group.
        os.killpg(process.pid, signal.SIGINT)
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert b"JOBS_OWNER_DATABASE_URL" not in errors, "dev must run the sweeper"
    assert not (data_dir / "pgdata" / "postmaster.pid").exists()


@dataclass(frozen=True)
class Dev:
    """A running `jobs-grpc dev`."""

    address: str
    greeting: str
    data_dir: Path
    metrics: str


@pytest.fixture(scope="module")
async def dev(endpoint: Endpoint) -> AsyncIterator[Dev]:
    """`jobs-grpc dev`, shared by the tests that do not restart it. It logs no calls."""
    with new_data_dir() as data_dir, reserved_address() as metrics:
        settings = {"JOBS_WEBHOOK_ALLOWED_PORTS": str(endpoint.port)}
        process = await _spawn_dev(data_dir, JOBS_METRICS_LISTEN=metrics, **settings)
        try:
            yield Dev(*await _read_greeting(process), data_dir, metrics)
        finally:
            process.send_signal(signal.SIGINT)
            code, errors = await _wait_for_exit(process)
    assert code == 0
    assert [line for line in errors.splitlines() if " audit " not in line] == [
        f"Starting PostgreSQL in {data_dir} …",
        "PostgreSQL has stopped; its data is kept.",
    ]


async def test_dev_keeps_data_when_restarted_and_names_a_remedy_when_it_cannot_migrate(
    data_dir: Path,
) -> None:
    changed = Device(device_id="device-0007", labels={"ring": "early"})
    async with _running_dev(data_dir) as (address, _), open_channel(address) as channel:
        operator = Operator(jobs_pb2_grpc.JobServiceStub(channel), "demo")
        fleet = Fleet(fleet_pb2_grpc.FleetServiceStub(channel), "demo")
        everything = await operator.create(job_id="everything", target_all=True)
        north = await operator.create(target_group_id="north")
        before = (await fleet.get("device-0007")).device
        await fleet.update(changed, mask=["labels"])
    (keys,) = data_dir.rglob("webhook-keys")  # noqa: ASYNC240 - a small folder
    keys_before = keys.read_text()

    async with _running_dev(data_dir) as (address, _), open_channel(address) as channel:
        operator = Operator(jobs_pb2_grpc.JobServiceStub(channel), "demo")
        fleet = Fleet(fleet_pb2_grpc.FleetServiceStub(channel), "demo")
        job = await operator.get("everything")
        after = (await fleet.get("device-0007")).device

    assert (everything.execution_count, north.execution_count) == (1000, 333)
    assert job.total_executions == 1000
    assert (before.labels["ring"], before.time_zone) == ("canary", "Europe/Lisbon")
    assert dict(after.labels) == dict(before.labels) | {"ring": "early"}
    assert keys.read_text() == keys_before

    with embedded_postgres.running(data_dir) as cluster:
        async with connected(cluster.dsn("jobs")) as connection:
            await connection.execute("UPDATE jobs.migrations SET checksum = 'other'")
    code, errors = await _wait_for_exit(await _spawn_dev(data_dir))

    assert code == 1
    assert f"To start with an empty database, move {data_dir} away or set JOBS_DATA_DIR\n" in errors
    assert not (data_dir / "pgdata" / "postmaster.pid").exists()


async def test_doctor_examines_dev_without_further_settings(
    dev: Dev, data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOBS_DATABASE_URL", raising=False)
    monkeypatch.setenv("JOBS_DATA_DIR", str(dev.data_dir))
    monkeypatch.setenv("JOBS_LISTEN", dev.address)
    running = await Shell(capsys)("doctor", "--json")
    monkeypatch.setenv("JOBS_DATA_DIR", str(data_dir))
    stopped = await Shell(capsys)("doctor")

    findings = {f["check"]: f["status"] for f in json.loads(running.out)["findings"]}
    assert (findings["schema"], findings["isolation"]) == ("OK", "OK")
    assert "ERROR" not in findings.values()
    assert (stopped.code, stopped.err) == (
        2,
        "jobs-grpc: JOBS_DATABASE_URL is not set, and no `jobs-grpc dev` runs with the data in"
        f" {data_dir}: set it, or start one (JOBS_DATA_DIR names another folder)\n",
    )


async def test_dev_sends_webhooks_to_this_machine(dev: Dev, endpoint: Endpoint) -> None:
    async with open_channel(dev.address) as channel:
        caller = WebhookCaller(events_pb2_grpc.EventServiceStub(channel), "demo")
        created = await caller.create(url=endpoint.url())
        assert (await caller.test(created.webhook.webhook_id)).http_status == 204
        await Operator(jobs_pb2_grpc.JobServiceStub(channel), "demo").create(target_all=True)
        await endpoint.received(2)

    secret = base64.b64decode(created.secret.removeprefix("whsec_"))
    assert all(is_signed(request, secret) for request in endpoint.requests)
    (keys,) = dev.data_dir.rglob("webhook-keys")
    assert keys.stat().st_mode & 0o077 == 0
    destinations = f"public addresses and 127.0.0.0/8; https and http; ports {endpoint.port}"
    assert f"\nWebhooks: to {destinations}\n" in dev.greeting


async def test_dev_prints_commands_that_work(dev: Dev, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(capsys)
    lines = [line for line in dev.greeting.splitlines() if f"--server {dev.address}" in line]
    create, list_jobs, watch, simulate = (shlex.split(line)[1:] for line in lines)

    created = await shell(*create)
    listed = await shell(*list_jobs)
    await shell("cancel", "try-1", "--force", "--tenant", "demo", "--server", dev.address)
    watched = await shell(*watch)

    assert created.out.startswith("created try-1 for 1,000 devices")
    assert "try-1" in listed.out
    assert "\nLog:     WARNING and higher, and the audit log (" in dev.greeting
    assert watched.code == 4
    assert _parser().parse_args(simulate).devices == 1000
    # Without --server, which only this test needs, and with the program of `make run`.
    short = [line.replace(f" --server {dev.address}", "") for line in lines]
    commands = [f"  .venv/bin/jobs-grpc {line.split(maxsplit=1)[1]}" for line in short]
    others = [x for x in dev.greeting.splitlines() if "SQL: " not in x and x not in lines]
    assert max(map(len, commands + others)) <= 80


async def test_dev_runs_devices_and_jobs_until_ctrl_c_when_it_simulates(data_dir: Path) -> None:
    async with (
        _running_dev(data_dir, "--simulate") as (address, greeting),
        open_channel(address) as channel,
    ):
        operator = Operator(jobs_pb2_grpc.JobServiceStub(channel), "demo")

        async def devices_succeed() -> bool:
            jobs = (await operator.list()).jobs
            return len(jobs) == 3 and any(job.execution_counts.succeeded for job in jobs)

        await wait_until(devices_succeed)

    # Leaving the block read the output to its end, so no device is left that can write to it.
    assert "Fleet:   simulated devices carry out the jobs" in greeting.splitlines()
    assert " simulate --tenant" not in greeting
    assert " watch --tenant" in greeting


def _device_commands(greeting: str) -> tuple[Path, list[str], list[str]]:
    """Return the folder with certificates, and the arguments of `whoami` and of grpcurl."""
    lines = greeting.replace("\\\n", "").splitlines()
    [folder] = (line.removeprefix("  tls=") for line in lines if line.startswith("  tls="))
    whoami, grpcurl = (
        shlex.split(line.replace("$tls", folder)) for line in lines if "$tls/ca.crt" in line
    )
    return Path(folder), whoami[whoami.index("whoami") + 1 :], grpcurl[1:]


async def test_dev_prints_commands_of_a_device_that_a_certificate_identifies(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_TENANT", "demo")
    with reserved_address() as listen:
        settings = {"JOBS_DEVICE_LISTEN": listen}
        async with _running_dev(data_dir, "--device-tls", **settings) as (address, greeting):
            async with open_channel(address) as channel:
                operator = Operator(jobs_pb2_grpc.JobServiceStub(channel), "demo")
                await operator.create(job_id="j", target_device_id="device-0001")
            folder, whoami, call = _device_commands(greeting)
            caller = await Shell(capsys)("whoami", *whoami, "--json")
            files = {path.name: path for path in folder.iterdir()}
            *options, server, method = call
            credentials = grpc.ssl_channel_credentials(
                *((folder / name).read_bytes() for name in ("ca.crt", "device.key", "device.crt"))
            )
            async with open_channel(server, credentials) as channel:
                stub = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)
                started = await getattr(stub, method.rpartition("/")[2])(
                    device_jobs_pb2.StartNextExecutionRequest()
                )
            modes = {path.stat().st_mode & 0o777 for path in files.values()}

    assert caller.code == 0, caller.err
    shown = json.loads(caller.out)
    assert (shown["tenant_id"], shown["device_id"]) == ("demo", "device-0001")
    assert shown["roles"] == ["device"]
    assert started.execution.job_id == "j"
    assert options[::2] == ["-cacert", "-cert", "-key"]
    assert set(files) == {"ca.crt", "server.crt", "server.key", "device.crt", "device.key"}
    assert modes == {0o600}


async def test_dev_does_not_simulate_when_calls_need_tls(data_dir: Path) -> None:
    process = await _spawn_dev(
        data_dir, "--simulate", JOBS_TLS_CERT="cert.pem", JOBS_TLS_KEY="key.pem"
    )
    code, errors = await _wait_for_exit(process)

    assert code == 2
    assert errors.startswith("jobs-grpc: --simulate can't call a server with JOBS_AUTH=jwt or")
    assert not data_dir.joinpath("pgdata").exists()


async def test_calls_page_has_grpcurl_commands_that_work_with_dev(dev: Dev) -> None:
    called = []
    async with open_channel(dev.address) as channel:
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        for method, body in re.findall(r"(?ms)^call (\w+) '(.*?)'$", CALLS):
            # Make the same call as grpcurl would.
            request = json_format.ParseDict(json.loads(body), getattr(pb, f"{method}Request")())
            await getattr(stub, method)(
                request, metadata=(("x-tenant-id", "demo"),), timeout=TIMEOUT
            )
            called.append(method)

    assert len(called) == CALLS.count("\ncall ")
    assert {"CreateJob", "GetJob", "RetryExecutions", "DeleteJob"} <= set(called)


async def test_dev_serves_metrics(dev: Dev) -> None:
    async with httpx.AsyncClient() as http:
        response = await http.get(f"http://{dev.metrics}/metrics")

    assert response.status_code == 200
    assert f"Metrics: http://{dev.metrics}/metrics" in dev.greeting.splitlines()


async def test_dev_fails_with_one_line_when_extra_is_not_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setitem(sys.modules, "platformdirs", None)

    result = await Shell(capsys)("dev")

    assert (result.code, result.out) == (1, "")
    assert result.err == (
        'jobs-grpc: embedded PostgreSQL is not installed: pip install "jobs-grpc[embedded]"\n'
    )


async def test_dev_stops_postgresql_when_signaled_during_start(data_dir: Path) -> None:
    process = await _spawn_dev(data_dir)
    pid_file = data_dir / "pgdata" / "postmaster.pid"
    await wait_until_true(pid_file.exists)
    process.terminate()

    code, out, errors = await _wait_for_output(process)
    assert not pid_file.exists()
    if "Serving on" in out:
        assert code == 0  # The server had started before the signal.
    else:
        assert (code, errors) == (130, f"Starting PostgreSQL in {data_dir} …\n")


async def test_dev_without_example_calls_for_tokens_stops_postgresql_when_signaled_twice(
    data_dir: Path, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    settings = {
        "JOBS_AUTH": "jwt",
        "JOBS_JWT_KEYS": str(tmp_path / "key.pem"),
        "JOBS_JWT_ALGORITHMS": "ES256",
        "JOBS_JWT_ISSUER": "issuer",
        "JOBS_JWT_AUDIENCE": "jobs",
    }
    process = await _spawn_dev(data_dir, **settings)
    address, greeting = await _read_greeting(process)
    assert "docs/authentication.md" in greeting
    assert "x-tenant-id" not in greeting
    assert "create --tenant" not in greeting
    host, _, port = address.rpartition(":")

    async def server_stops() -> bool:
        try:
            _, connection = await asyncio.open_connection(host, int(port))
        except OSError:
            return True
        connection.close()
        return False

    process.terminate()
    await wait_until(server_stops)
    process.send_signal(signal.SIGINT)

    code, errors = await _wait_for_exit(process)
    assert not (data_dir / "pgdata" / "postmaster.pid").exists()
    # 0 if everything had stopped before the second signal, which may also end the exiting process.
    assert code in (0, 130, -signal.SIGINT), errors
    assert "Traceback" not in errors
