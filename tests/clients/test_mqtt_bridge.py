"""The bridge of examples/ between a real MQTT broker, mosquitto, and the server."""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2_grpc
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.clients.conftest import ROOT
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.jobs import wait_for_counts
from tests.support.processes import running_process, skip_without
from tests.support.server import Server, reserved_address, running_server
from tests.support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.slow

# As in the bridge.
MAX_IN_FLIGHT = 1000


@asynccontextmanager
async def running_broker(folder: Path, address: str) -> AsyncIterator[Path]:
    """Run mosquitto with examples/mosquitto.conf and its state in `folder`; yields its log."""
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        skip_without("mosquitto")
    host, port = address.split(":")
    config = (ROOT / "examples" / "mosquitto.conf").read_text()
    config = config.replace("listener 1883 127.0.0.1", f"listener {port} {host}")
    config = re.sub("(?<=persistence_location ).*", f"{folder}/", config)
    # As root, mosquitto would change to another user, who can't write to the folder.
    (folder / "mosquitto.conf").write_text(f"{config}\nuser root\nlog_type all\n")
    log_file = folder / "log"

    async def listening() -> bool:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except ConnectionRefusedError:
            return False
        writer.close()
        return True

    command = (program, "-c", folder / "mosquitto.conf")
    with log_file.open("a") as log:
        async with running_process(*command, stop=signal.SIGTERM, stderr=log):
            await wait_until(listening)
            yield log_file


def running_bridge(
    server: str, tenant: str, broker: str
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """Run the bridge; kill it at the end of the block."""
    command = (sys.executable, "examples/mqtt_bridge.py", server, tenant, broker)
    return running_process(*command, cwd=ROOT, stderr=asyncio.subprocess.PIPE)


def publish(broker: str, payloads: dict[str, Any]) -> None:
    """Publish a payload for each device, and wait until the broker has all of them."""
    host, port = broker.split(":")
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(host, int(port))
    client.loop_start()
    try:
        published = [
            client.publish(
                f"jobs/{device}/report",
                payload if isinstance(payload, str) else json.dumps(payload),
                qos=1,
            )
            for device, payload in payloads.items()
        ]
        for message in published:
            message.wait_for_publish(TIMEOUT)
            assert message.is_published()
    finally:
        client.disconnect()
        client.loop_stop()


def occurrences(log: Path, text: str) -> int:
    """Count how often a text occurs in the broker's log."""
    return log.read_text(errors="replace").count(text)


async def wait_for_log(log: Path, text: str, count: int = 1) -> None:
    """Return when the text occurs so many times in the broker's log."""

    async def found() -> bool:
        return occurrences(log, text) >= count

    await wait_until(found)


def report(status: str, **fields: Any) -> dict[str, Any]:
    return {"job_id": "j", "execution_number": 1, "status": status} | fields


async def test_bridge_forwards_reports_and_skips_what_is_none(
    server: Server, database: Database, operator: Operator, tmp_path: Path
) -> None:
    await database.add_devices(operator.tenant, 4)
    await operator.create(job_id="j", target_all=True)
    with reserved_address() as broker:
        async with (
            running_broker(tmp_path, broker) as log,
            running_bridge(server.address, operator.tenant, broker) as bridge,
        ):
            await wait_for_log(log, "Sending SUBACK")
            await asyncio.to_thread(
                publish,
                broker,
                {
                    "d00001": report("SUCCEEDED", status_details={"version": "2.1"}),
                    "d00002": "{",
                    "unknown": report("SUCCEEDED"),
                    "d00003": report("FAILED", failure_code="DISK_FULL"),
                    "d00004": report("IN_PROGRESS"),
                },
            )
            job = await wait_for_counts(
                operator, "j", queued=1, in_progress=1, succeeded=1, failed=1
            )
            # All five are acknowledged.
            await wait_for_log(log, "Received PUBACK", 5)
            bridge.kill()
            assert bridge.stderr
            errors = (await bridge.stderr.read()).decode()

    assert dict(job.executions[0].status_details) == {"version": "2.1"}
    assert "jobs/d00002/report: not a report: " in errors
    assert "jobs/unknown/report: " in errors
    assert len(errors.splitlines()) == 2


async def test_no_report_is_lost_when_server_bridge_and_broker_restart(
    database: Database, tenant: str, tmp_path: Path
) -> None:
    devices = 1500
    await database.add_devices(tenant, devices)
    reports = {f"d{n:05}": report("SUCCEEDED") for n in range(1, devices + 1)}
    with reserved_address() as address, reserved_address() as broker:
        async with running_broker(tmp_path, broker) as log:
            async with running_server(database.request_dsn, JOBS_LISTEN=address) as server:
                await server.operator(tenant).create(job_id="j", target_all=True)
                async with running_bridge(address, tenant, broker):
                    await wait_for_log(log, "Sending SUBACK")
            async with running_bridge(address, tenant, broker):
                # The server is unavailable. The broker sends no more than the bridge may hold.
                await wait_for_log(log, "Sending SUBACK", 2)
                await asyncio.to_thread(publish, broker, reports)
                await wait_for_log(log, "Sending PUBLISH to jobs-bridge", MAX_IN_FLIGHT)
        assert occurrences(log, "Sending PUBLISH to jobs-bridge") == MAX_IN_FLIGHT
        assert occurrences(log, "Received PUBACK from jobs-bridge") == 0

        async with (
            running_broker(tmp_path, broker),
            running_server(database.request_dsn, JOBS_LISTEN=address) as server,
            running_bridge(address, tenant, broker) as bridge,
        ):
            caller = Operator(jobs_pb2_grpc.JobServiceStub(server.channel), tenant)
            await wait_for_counts(caller, "j", succeeded=devices)
            assert bridge.returncode is None
