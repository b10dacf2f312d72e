"""A device with the AWS IoT SDK carries out jobs through the bridge of examples/ and mosquitto."""

import asyncio
import json
import os
import queue
import re
import shutil
import signal
import ssl
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from examples import aws_iot_bridge
from jobs_grpc.client import Connection
from tests.clients.conftest import ROOT
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.processes import output_of, running_process, skip_without
from tests.support.server import Server, reserved_address
from tests.support.waiting import TIMEOUT, wait_until, wait_until_true

pytestmark = pytest.mark.slow

_FOLDER = Path(__file__).parent
_SDK = _FOLDER / "bin/.python"


@pytest.fixture(scope="module")
async def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of a CA, of the broker, and of the things "board", "other" and "board/jobs"."""
    folder = tmp_path_factory.mktemp("certificates")

    async def openssl(*arguments: str) -> None:
        await output_of("openssl", *arguments, cwd=folder)

    new_key = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    await openssl(*new_key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    subjects = {"server": "localhost", "board": "board", "other": "other", "inner": r"board\/jobs"}
    for name, subject in subjects.items():
        await openssl(
            *(*new_key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={subject}"),
            *("-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"),
        )
    return folder


@asynccontextmanager
async def running_broker(folder: Path, certificates: Path) -> AsyncIterator[tuple[str, str]]:
    """Run mosquitto with examples/aws_mosquitto.conf; yields its addresses, the second with TLS."""
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        skip_without("mosquitto")
    with reserved_address() as plain, reserved_address() as tls:
        config = (ROOT / "examples/aws_mosquitto.conf").read_text()
        for before, address in (("1883 127.0.0.1", plain), ("8883 127.0.0.1", tls)):
            host, port = address.split(":")
            config = config.replace(f"listener {before}", f"listener {port} {host}")
        config = re.sub(r"(?<=file )(?=\w+\.)", f"{certificates}/", config)
        config = config.replace("acl_file examples", f"acl_file {ROOT}/examples")
        # As root, mosquitto would change to another user, who can't read the certificates.
        (folder / "mosquitto.conf").write_text(f"user root\n{config}")

        async def listening() -> bool:
            try:
                _, writer = await asyncio.open_connection(*tls.split(":"))
            except ConnectionRefusedError:
                return False
            writer.close()
            await writer.wait_closed()
            return True

        command = (program, "-c", folder / "mosquitto.conf")
        async with running_process(*command, stop=signal.SIGTERM):
            await wait_until(listening)
            yield plain, tls


def running_device(address: str, certificates: Path, thing: str) -> Any:
    """Run the device; its lines are those that aws_device.py prints."""
    if not _SDK.exists():
        skip_without("the AWS IoT SDK: run `make test-device-clients`")
    return running_process(
        *(sys.executable, _FOLDER / "aws_device.py", "localhost", address.split(":")[1]),
        *(str(certificates), thing),
        env=os.environ | {"PYTHONPATH": str(_SDK)},
        stdout=PIPE,
    )


async def next_line(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout
    line = await process.stdout.readline()
    return json.loads(line) if line else None


@asynccontextmanager
async def running_bridge(
    server: str, tenant: str, broker: str, things: Path
) -> AsyncIterator[None]:
    """Run the bridge, with the names of things in a file; yields when it has subscribed."""
    command = (sys.executable, "examples/aws_iot_bridge.py", server, tenant, broker, things)
    async with running_process(*command, cwd=ROOT, stdout=PIPE) as process:
        assert process.stdout
        line = await process.stdout.readline()
        assert line == f"serving the things of {tenant}\n".encode()
        yield


class Thing:
    """An MQTT client without the SDK."""

    def __init__(self, address: str, certificate: Path | None = None) -> None:
        self._messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _client, _userdata, message: self._messages.put(
            (message.topic, bytes(message.payload))
        )
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        if certificate:
            key = certificate.with_suffix(".key")
            self._client.tls_set(str(certificate.parent / "ca.pem"), str(certificate), str(key))
        self._host, self._port = address.split(":")

    @contextmanager
    def connected(self) -> Iterator[Self]:
        """Connect during the block, and subscribe to all topics that the thing may read."""
        self._client.connect(self._host.replace("127.0.0.1", "localhost"), int(self._port))
        self._client.subscribe("$aws/things/#", 1)
        self._client.loop_start()
        try:
            assert self._subscribed.wait(TIMEOUT)
            yield self
        finally:
            self._client.disconnect()
            self._client.loop_stop()
            if connection := self._client.socket():
                connection.close()

    def publish(self, topic: str, payload: str = "{}") -> None:
        """Publish, and wait until the broker has the message."""
        self._client.publish(f"$aws/things/{topic}", payload, qos=1).wait_for_publish(TIMEOUT)

    async def next(self, topic: str = "") -> tuple[str, Any]:
        """Return the next message whose topic ends so."""
        while True:
            found, payload = await asyncio.to_thread(self._messages.get, timeout=TIMEOUT)
            if found.endswith(topic):
                return found.removeprefix("$aws/things/"), json.loads(payload)


async def test_device_carries_out_jobs(
    server: Server, database: Database, operator: Operator, certificates: Path, tmp_path: Path
) -> None:
    await database.add_devices(operator.tenant, ["board"])
    document = {"operation": "reboot", "steps": [1, 2]}
    fields = {"document_type": "aws", "document_params": document, "target_device_id": "board"}
    await operator.create(job_id="first", **fields)
    async with AsyncExitStack() as stack:
        plain, tls = await stack.enter_async_context(running_broker(tmp_path, certificates))
        await stack.enter_async_context(
            running_bridge(server.address, operator.tenant, plain, tmp_path / "things")
        )
        device = await stack.enter_async_context(running_device(tls, certificates, "board"))
        async with asyncio.timeout(TIMEOUT):
            assert await next_line(device) == ["start-next", ["first", document, "token"]]
            assert await next_line(device) == ["progress", ["IN_PROGRESS", {"percent": "50"}]]
            assert await next_line(device) == ["version", ["VersionMismatch", 1]]
            assert await next_line(device) == ["succeeded", "SUCCEEDED"]
            assert await next_line(device) == ["failed", "InvalidStateTransition"]
            assert await next_line(device) == ["pending", [[], []]]
            assert await next_line(device) == ["waiting", None]
            await operator.create(job_id="next", **fields)
            assert await next_line(device) == ["notify-next", "next"]
            assert await next_line(device) == ["get", ["QUEUED", document]]
            assert await next_line(device) is None

    execution = (await operator.executions("first")).executions[0]
    assert execution.status == pb.JobExecution.SUCCEEDED
    assert (tmp_path / "things").read_text() == "board\n"


async def test_things_are_notified_after_a_restart_of_the_bridge(
    server: Server, database: Database, operator: Operator, certificates: Path, tmp_path: Path
) -> None:
    await database.add_devices(operator.tenant, ["board"])
    (tmp_path / "things").write_text("board\n")
    async with running_broker(tmp_path, certificates) as (plain, _):
        with Thing(plain).connected() as thing:
            bridge = running_bridge(server.address, operator.tenant, plain, tmp_path / "things")
            async with bridge:
                _, message = await thing.next("/notify-next")
                assert "execution" not in message
                document = {"steps": [1, 0.5]}
                await operator.create(
                    job_id="j", document_params=document, target_device_id="board"
                )
                _, message = await thing.next("/notify-next")
                assert message["execution"]["jobId"] == "j"
                assert json.dumps(message["execution"]["jobDocument"]) == '{"steps": [1, 0.5]}'
                _, message = await thing.next("/notify")
                while not message["jobs"]:
                    _, message = await thing.next("/notify")
                assert [each["jobId"] for each in message["jobs"]["QUEUED"]] == ["j"]


async def test_requests_are_rejected(
    server: Server, database: Database, operator: Operator, certificates: Path, tmp_path: Path
) -> None:
    await database.add_devices(operator.tenant, ["board"])
    await operator.create(job_id="j", target_device_id="board")
    rejections = [
        ("board/jobs/none/get", '{"clientToken": "7"}', "ResourceNotFound"),
        ("board/jobs/get", "not JSON", "InvalidRequest"),
        ("board/jobs/get", "[]", "InvalidRequest"),
        ("board/jobs/j/update", '{"status": "DONE"}', "InvalidRequest"),
        (
            "board/jobs/j/update",
            '{"status": "IN_PROGRESS", "expectedVersion": 9}',
            "VersionMismatch",
        ),
    ]
    async with running_broker(tmp_path, certificates) as (plain, _):
        bridge = running_bridge(server.address, operator.tenant, plain, tmp_path / "things")
        with Thing(plain).connected() as thing:
            async with bridge:
                for topic, payload, code in rejections:
                    thing.publish(topic, payload)
                    found, message = await thing.next("/rejected")
                    assert (found, message["code"]) == (f"{topic}/rejected", code)
                    assert ("clientToken" in message) == ("clientToken" in payload)


async def test_large_requests_do_not_reach_the_bridge(
    server: Server, operator: Operator, certificates: Path, tmp_path: Path
) -> None:
    async with running_broker(tmp_path, certificates) as (plain, _):
        bridge = running_bridge(server.address, operator.tenant, plain, tmp_path / "things")
        with Thing(plain).connected() as thing:
            async with bridge:
                thing.publish("board/jobs/get", json.dumps({"clientToken": "x" * 200_000}))
                thing.publish("board/jobs/get", '{"clientToken": "small"}')
                _, message = await thing.next("/accepted")
                assert message["clientToken"] == "small"


async def test_things_reach_only_their_own_topics(certificates: Path, tmp_path: Path) -> None:
    async with running_broker(tmp_path, certificates) as (_, tls):
        with (
            Thing(tls, certificates / "board.pem").connected() as board,
            Thing(tls, certificates / "other.pem").connected() as other,
            Thing(tls, certificates / "inner.pem").connected() as inner,
        ):
            board.publish("board/jobs/get")
            other.publish("other/jobs/get")
            # The broker acknowledges this, and then ends the connection.
            other.publish("board/jobs/get", '{"clientToken": "of another"}')
            inner.publish("board/jobs/j/update", '{"clientToken": "of another"}')
            board.publish("board/jobs/$next/get")

            assert await board.next() == ("board/jobs/get", {})
            assert await board.next() == ("board/jobs/$next/get", {})
            assert await other.next() == ("other/jobs/get", {})

        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        reader, writer = await asyncio.open_connection("localhost", tls.split(":")[1], ssl=context)
        with pytest.raises(ssl.SSLError):
            await reader.read()
        with suppress(ssl.SSLError):
            writer.close()
            await writer.wait_closed()


class Broker:
    """Ignores what the bridge sends."""

    def publish(self, *_: Any, **__: Any) -> None: ...
    def ack(self, *_: Any) -> None: ...


async def test_things_of_the_latest_requests_are_notified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notified: set[str] = set()

    async def notify(_: aws_iot_bridge.Bridge, thing: str) -> None:
        notified.add(thing)
        try:
            await asyncio.Event().wait()
        finally:
            notified.discard(thing)

    monkeypatch.setattr(aws_iot_bridge, "MAX_THINGS", 2)
    monkeypatch.setattr(aws_iot_bridge.Bridge, "_notify", notify)
    things = tmp_path / "things"
    things.write_text("removed\na\nb\n")
    broker: Any = Broker()
    async with Connection("127.0.0.1:1") as connection:
        bridge = aws_iot_bridge.Bridge(connection, connection, "t", broker, things)
        for thing in (*"abcdefgh", "c", "i"):
            bridge.received(MQTTMessage(topic=f"$aws/things/{thing}/jobs/x/y/get".encode()))

        await wait_until_true(lambda: notified == {"c", "i"})
        assert {*things.read_text().split()[-2:]} == {"c", "i"}
        assert len(things.read_text().split()) < 4
