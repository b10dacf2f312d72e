"""The receivers of examples/ verify signatures, and drop events that they have passed."""

import asyncio
import base64
import hmac
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs_grpc.client import EventsClient, JobsClient
from tests.clients.conftest import ROOT
from tests.support.database import Database
from tests.support.processes import running_process
from tests.support.server import reserved_address, running_server
from tests.support.waiting import TIMEOUT, read_until, wait_until
from tests.support.webhooks import loopback_settings, write_keys

pytestmark = pytest.mark.slow

KEY, OLD_KEY = b"k" * 32, b"o" * 32
RECEIVERS = {
    "python": (sys.executable, ROOT / "examples" / "webhook_receiver.py"),
    "node": ("node", ROOT / "examples" / "webhook_receiver.mjs"),
}


def signed(
    body: bytes, *keys: bytes, message_id: str = "evt_1", sent_at: float | None = None
) -> dict[str, str]:
    """Return the headers of Standard Webhooks, with a signature by each key."""
    timestamp = str(int(time.time() if sent_at is None else sent_at))
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys
    ]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(signatures),
    }


def event(position: int) -> bytes:
    data = {"position": position, "job_id": f"j{position}"}
    return json.dumps({"type": "job.paused", "data": data}).encode()


class Receiver:
    """A running receiver."""

    def __init__(self, http: httpx.AsyncClient, process: asyncio.subprocess.Process) -> None:
        self._http = http
        self._process = process

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Deliver a body, signed unless there are headers; return the status."""
        headers = signed(body, KEY) if headers is None else headers
        return (await self._http.post("/", content=body, headers=headers)).status_code

    async def abort(self) -> None:
        """Close a connection in the middle of a request."""
        _, writer = await asyncio.open_connection(
            self._http.base_url.host, self._http.base_url.port
        )
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def stop(self) -> list[str]:
        self._process.terminate()
        assert self._process.stdout
        return (await self._process.stdout.read()).decode().splitlines()


@pytest.fixture(params=RECEIVERS)
def command(request: pytest.FixtureRequest) -> tuple[Any, ...]:
    command = RECEIVERS[request.param]
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    return command


SECRET = "whsec_" + base64.b64encode(KEY).decode()


@asynccontextmanager
async def running(
    command: tuple[Any, ...], stored: Path, address: str = "", secret: str = SECRET
) -> AsyncIterator[Receiver]:
    async with AsyncExitStack() as stack:
        address = address or stack.enter_context(reserved_address())
        process = await stack.enter_async_context(
            running_process(
                *(*command, address.rpartition(":")[2], stored),
                env=os.environ | {"WEBHOOK_SECRET": secret},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        )
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{address}", timeout=TIMEOUT)
        )

        async def is_listening() -> bool:
            try:
                return (await http.get("/")).status_code != 0
            except httpx.ConnectError:
                return False

        await wait_until(is_listening)
        yield Receiver(http, process)


@pytest.mark.parametrize("secret", [None, "", "whsec_abc"])
async def test_receiver_ends_with_one_line_without_a_valid_secret(
    command: tuple[Any, ...], secret: str | None, tmp_path: Path
) -> None:
    environ = {k: v for k, v in os.environ.items() if k != "WEBHOOK_SECRET"}
    process = await asyncio.create_subprocess_exec(
        *(*command, "0", tmp_path / "position"),
        env=environ | ({} if secret is None else {"WEBHOOK_SECRET": secret}),
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await process.communicate()

    assert process.returncode == 1
    assert error.decode().startswith("set WEBHOOK_SECRET to ")
    assert error.count(b"\n") == 1


async def test_receiver_handles_each_event_once_also_after_a_restart(
    command: tuple[Any, ...], tmp_path: Path
) -> None:
    stored = tmp_path / "position"
    async with running(command, stored) as receiver:
        for position in (5, 5, 6, 4):
            assert await receiver.post(event(position)) == 204
        assert await receiver.stop() == ["job.paused j5", "job.paused j6"]
    async with running(command, stored) as receiver:
        for position in (6, 9):
            assert await receiver.post(event(position)) == 204
        assert await receiver.stop() == ["job.paused j9"]


async def test_receiver_accepts_test_events_and_positions_as_strings(
    command: tuple[Any, ...], tmp_path: Path
) -> None:
    test = json.dumps({"type": "webhook.test", "data": {"webhook_id": "wh_1"}}).encode()
    largest = event(2**53 - 1).replace(str(2**53 - 1).encode(), b'"9007199254740991"', 1)
    async with running(command, tmp_path / "position") as receiver:
        assert await receiver.post(test) == 204
        assert await receiver.post(largest) == 204
        assert await receiver.stop() == ["job.paused j9007199254740991"]
    assert (tmp_path / "position").read_text() == str(2**53 - 1)


async def test_receiver_rejects_what_is_not_signed_by_the_server(
    command: tuple[Any, ...], tmp_path: Path
) -> None:
    body = event(5)
    valid = signed(body, KEY)
    rejected: list[dict[str, str]] = [
        {},
        signed(body, OLD_KEY),
        signed(body + b" ", KEY),
        signed(body, KEY, sent_at=time.time() - 600),
        valid | {"webhook-id": "evt_2"},
        valid | {"webhook-signature": "v1, v2,a \xe9"},
    ]
    async with running(command, tmp_path / "position") as receiver:
        for headers in rejected:
            latin = {k.encode(): v.encode("latin-1") for k, v in headers.items()}
            assert await receiver.post(body, latin) == 401  # type: ignore[arg-type]
        # During a rotation, a delivery has a signature by both keys.
        assert await receiver.post(body, signed(body, OLD_KEY, KEY)) == 204
        assert await receiver.stop() == ["job.paused j5"]


async def test_receiver_continues_after_a_lost_request_and_a_failure_of_its_work(
    command: tuple[Any, ...], tmp_path: Path
) -> None:
    stored = tmp_path / "folder" / "position"
    async with running(command, stored) as receiver:
        await receiver.abort()
        with suppress(httpx.RemoteProtocolError):  # the one in Python closes the connection
            assert await receiver.post(event(5)) == 500
        stored.parent.mkdir()
        assert await receiver.post(event(5)) == 204
        assert (await receiver.stop())[-1] == "job.paused j5"


async def test_receiver_handles_deliveries_of_the_server(
    command: tuple[Any, ...], database: Database, tenant: str, tmp_path: Path
) -> None:
    await database.add_devices(tenant, 1)
    with reserved_address() as address:
        settings = {
            "JOBS_OWNER_DATABASE_URL": database.owner_dsn,
            **loopback_settings(
                write_keys(tmp_path / "webhooks.keys", "k1"), address.rpartition(":")[2]
            ),
            "JOBS_SHUTDOWN_GRACE": "0.2",
        }
        async with (
            running_server(database.request_dsn, **settings) as server,
            EventsClient(server.address, tenant=tenant) as events,
            JobsClient(server.address, tenant=tenant) as jobs,
        ):
            created = await events.create_webhook(f"http://{address}/")
            webhook_id = created.webhook.webhook_id
            stored = tmp_path / "position"
            async with running(command, stored, address, created.secret) as receiver:
                assert (await events.test_webhook(webhook_id)).http_status == 204
                await jobs.create("reboot", target_all=True, job_id="a")
                await jobs.pause("a")
                (*_, last) = [event.position async for event in events.list_events()]
                await read_until(
                    lambda: events.get_webhook(webhook_id), lambda hook: hook.position == last
                )
                assert await receiver.stop() == ["job.created a", "job.paused a"]
            assert stored.read_text() == str(last)
