"""jobs-grpc dev: everything from nothing, and again."""

import asyncio
import json
import os
import re
import shlex
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc
from google.protobuf import json_format

from jobs_grpc.dev import embedded_postgres
from tests.support.callers import Operator
from tests.support.cli import spawn
from tests.support.postgres import new_data_dir
from tests.support.server import open_channel
from tests.support.waiting import TIMEOUT, wait_until

GRPCURL = re.compile(r"grpcurl -plaintext (?P<args>.*) fleet\.jobs\.v1\.JobService/(?P<method>\w+)")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder of the test's own."""
    with new_data_dir() as folder:
        yield folder


@asynccontextmanager
async def _dev(data_dir: Path, **settings: str) -> AsyncIterator[tuple[str, str]]:
    """A running `jobs-grpc dev`: its address and its greeting. Ends with Ctrl-C."""
    process = await spawn(
        "dev", stdin=None, JOBS_DATA_DIR=str(data_dir), JOBS_LISTEN="127.0.0.1:0", **settings
    )
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT):
        greeting = (await process.stdout.readuntil(b"Ctrl-C stops.\n")).decode()
    address = re.search(r"Serving on (\S+);", greeting)
    assert address is not None
    try:
        yield address[1], greeting
    finally:
        # As the terminal does: to the whole process group.
        os.killpg(process.pid, signal.SIGINT)
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert b"JOBS_OWNER_DATABASE_URL" not in errors, "it must sweep"
    assert not (data_dir / "pgdata" / "postmaster.pid").exists()


async def test_it_serves_a_demo_fleet_and_finds_its_data_again(data_dir: Path) -> None:
    async with _dev(data_dir) as (address, _), open_channel(address) as channel:
        operator = Operator(jobs_pb2_grpc.JobServiceStub(channel), "demo")
        everything = await operator.create(job_id="everything", target_all=True)
        north = await operator.create(target_group_id="north")
        assert everything.execution_count == 1000
        assert north.execution_count == 333

    async with _dev(data_dir) as (address, _), open_channel(address) as channel:
        operator = Operator(jobs_pb2_grpc.JobServiceStub(channel), "demo")
        assert (await operator.get("everything")).total_executions == 1000


async def test_the_calls_it_prints_work(data_dir: Path) -> None:
    """Each printed grpcurl line, carried out as grpcurl does: JSON, metadata, method."""
    async with _dev(data_dir) as (address, greeting), open_channel(address) as channel:
        called = []
        for match in GRPCURL.finditer(greeting):
            _, header, _, body, target = shlex.split(match["args"])
            assert target == address
            name, _, value = header.partition(": ")
            method = match["method"]
            request = json_format.ParseDict(json.loads(body), getattr(pb, f"{method}Request")())
            stub = jobs_pb2_grpc.JobServiceStub(channel)
            await getattr(stub, method)(request, metadata=((name, value),), timeout=TIMEOUT)
            called.append(method)

    service = pb.DESCRIPTOR.services_by_name["JobService"]
    unary = [method.name for method in service.methods if not method.server_streaming]
    assert sorted(called) == sorted(unary)


async def test_it_prints_no_calls_that_its_settings_refuse(data_dir: Path, tmp_path: Path) -> None:
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
    async with _dev(data_dir, **settings) as (_, greeting):
        assert "docs/authentication.md" in greeting
        assert "x-tenant-id" not in greeting
        assert "create --tenant" not in greeting


async def test_it_says_what_to_do_about_data_that_it_cannot_use(data_dir: Path) -> None:
    async with _dev(data_dir):
        pass
    with embedded_postgres.running(data_dir) as cluster:
        connection = await asyncpg.connect(cluster.dsn("jobs"))
        await connection.execute("UPDATE jobs.schema_migrations SET checksum = 'other'")
        await connection.close()

    process = await spawn("dev", JOBS_DATA_DIR=str(data_dir), JOBS_LISTEN="127.0.0.1:0")
    code, errors = await _ended(process)

    assert code == 1
    assert f"To begin anew, move {data_dir} away or set JOBS_DATA_DIR\n" in errors
    assert not (data_dir / "pgdata" / "postmaster.pid").exists()


async def _ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    _, errors = await asyncio.wait_for(process.communicate(), TIMEOUT)
    return process.returncode, errors.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stop_during_the_start_leaves_no_postgresql(data_dir: Path, number: int) -> None:
    process = await spawn("dev", JOBS_DATA_DIR=str(data_dir), JOBS_LISTEN="127.0.0.1:0")
    pid_file = data_dir / "pgdata" / "postmaster.pid"

    async def starting() -> bool:
        return pid_file.exists()

    await wait_until(starting)
    process.send_signal(number)

    code, errors = await _ended(process)
    assert not pid_file.exists()
    if "listening on" in errors:
        assert code == 0  # It was up before the signal came.
    else:
        assert (code, errors) == (130, f"Starting PostgreSQL in {data_dir} …\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_leaves_no_postgresql(data_dir: Path, number: int) -> None:
    process = await spawn("dev", JOBS_DATA_DIR=str(data_dir), JOBS_LISTEN="127.0.0.1:0")
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT):
        greeting = (await process.stdout.readuntil(b"Ctrl-C stops.\n")).decode()
    address = re.search(r"Serving on (\S+):(\d+);", greeting)
    assert address is not None

    async def stopping() -> bool:
        try:
            _, connection = await asyncio.open_connection(address[1], int(address[2]))
        except OSError:
            return True
        connection.close()
        return False

    process.send_signal(number)
    await wait_until(stopping)
    process.send_signal(number)

    code, errors = await _ended(process)
    assert not (data_dir / "pgdata" / "postmaster.pid").exists()
    # 0 if the second came when all was done.
    assert code in (0, 130)
    assert "Traceback" not in errors
