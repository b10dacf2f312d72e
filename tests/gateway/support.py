"""Helpers for tests of the REST gateway: build it, run it, call it."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.processes import running_process, skip_without
from tests.support.waiting import TIMEOUT

ROOT = Path(__file__).parents[2]
GATEWAY = ROOT / "gateway"


def require_go() -> str:
    """Return the path of the go command. Without Go, skip the test, or fail it in CI."""
    return shutil.which("go") or skip_without("Go")


def build_gateway() -> Path:
    """Build gateway/bin/jobs-gateway, as `make gateway-build` does, and return its path.

    Go builds it only if the code has changed.
    """
    binary = GATEWAY / "bin" / "jobs-gateway"
    command = [require_go(), "build", "-trimpath", "-o", str(binary), "."]
    environment = os.environ | {"CGO_ENABLED": "0"}
    binary.parent.mkdir(exist_ok=True)
    # One process builds at a time, so that none runs a file that another one still writes.
    with binary.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(command, cwd=GATEWAY, check=True, env=environment)  # noqa: S603
    return binary


@dataclass
class Gateway:
    """A running gateway process and its log so far."""

    process: asyncio.subprocess.Process
    log: list[dict[str, Any]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_for_log(self, msg: str, **attributes: Any) -> dict[str, Any]:
        """Wait for a log line with this message and these attributes, and return it."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                self.changed.clear()
                for line in self.log:
                    if line["msg"] == msg and attributes.items() <= line.items():
                        return line
                await self.changed.wait()

    @property
    def url(self) -> str:
        """The base URL of the REST API."""
        return self._url("listening")

    @property
    def device_url(self) -> str:
        """The base URL for devices with certificates."""
        return self._url("listening for devices")

    @property
    def metrics_url(self) -> str:
        return self._url("metrics listening")

    def _url(self, event: str) -> str:
        (url,) = [line["url"] for line in self.log if line["msg"] == event]
        assert isinstance(url, str)
        return url

    async def read_log(self) -> None:
        """Collect log lines until the process ends."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log.append(json.loads(line))
            self.changed.set()


def gateway_environment(**settings: str) -> dict[str, str]:
    """Return the environment variables of settings that are named without the prefix."""
    return {f"JOBS_GATEWAY_{name}": value for name, value in settings.items()}


@asynccontextmanager
async def running_gateway(
    binary: Path, upstream: str, variables: Mapping[str, str] | None = None, /, **settings: str
) -> AsyncIterator[Gateway]:
    """Run the gateway on a free port. Settings are named without the prefix; `variables` with."""
    settings = {"UPSTREAM": upstream, "LISTEN": "127.0.0.1:0"} | settings
    environment = gateway_environment(**settings) | dict(variables or {})
    running = running_process(binary, stop=signal.SIGTERM, env=environment, stderr=PIPE)
    async with running as process:
        gateway = Gateway(process)
        reader = asyncio.create_task(gateway.read_log())
        await gateway.wait_for_log("listening")
        yield gateway
    await reader


@dataclass(frozen=True)
class RestClient:
    """A client of the REST API that acts for one tenant as the user "olivia"."""

    http: httpx.AsyncClient
    tenant: str

    async def send(
        self, method: str, path: str, body: Any = None, headers: Any = (), **options: Any
    ) -> httpx.Response:
        """Send a request. `body` is bytes, or a value to encode as JSON."""
        if isinstance(body, bytes):
            options |= {"content": body}
            headers = [("Content-Type", "application/json"), *headers]
        elif body is not None:
            options |= {"json": body}
        identity = [("X-Tenant-Id", self.tenant), ("X-User-Id", "olivia")]
        return await self.http.request(method, path, headers=[*identity, *headers], **options)

    async def create(self, **body: Any) -> httpx.Response:
        """Create a job. `document_type` is "reboot" by default."""
        return await self.send("POST", "/customer/jobs", {"document_type": "reboot"} | body)

    async def get(self, path: str = "", **query: Any) -> Any:
        """GET a path below /customer/jobs, expect 200, and return the JSON."""
        response = await self.send("GET", f"/customer/jobs{path}", params=query)
        assert response.status_code == 200, response.text
        return response.json()

    async def send_as_device(
        self, device: str, method: str, path: str = "", body: Any = None
    ) -> httpx.Response:
        headers = [("X-Device-Id", device)]
        return await self.send(method, f"/device/v1/jobs{path}", body, headers=headers)

    async def as_device(self, device: str, method: str, path: str = "", body: Any = None) -> Any:
        response = await self.send_as_device(device, method, path, body)
        assert response.status_code == 200, response.text
        return response.json()


def assert_error(
    response: httpx.Response, status: int, code: str, reason: str, detail: str | None = None
) -> dict[str, Any]:
    """Check that the response is an error in the API's format, and return its body."""
    body: dict[str, Any] = response.json()
    actual = (response.status_code, body["code"], body["reason"])
    assert actual == (status, code, reason), response.text
    assert set(body) == {"detail", "code", "reason", "field_violations", "request_id"}
    assert body["request_id"] == response.headers["x-request-id"]
    assert response.headers["content-type"] == "application/json"
    assert body["detail"]
    assert "\n" not in response.text
    if detail is not None:
        assert body["detail"] == detail
    return body


async def send_raw(
    gateway: Gateway, stack: AsyncExitStack, request: bytes, limit: int = 65_536
) -> asyncio.StreamReader:
    """Send bytes on a connection that is closed with the stack and buffers a `limit` of bytes."""
    url = httpx.URL(gateway.url)
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=limit)
    stack.callback(writer.close)
    writer.write(request)
    return reader


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(TIMEOUT):
        return int((await reader.readline()).split()[1])
