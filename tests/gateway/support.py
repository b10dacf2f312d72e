"""What tests of the REST gateway say things with: the running binary, and a caller of it."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
GATEWAY = ROOT / "gateway"
TIMEOUT = 30.0


def require_go() -> str:
    """The go command. Without one the test is skipped, but in CI it fails."""
    if go := shutil.which("go"):
        return go
    if os.environ.get("CI"):
        pytest.fail("Go is needed to test the gateway, and CI must test it")
    pytest.skip("Go is not installed")


def go_build(target: Path, package: str) -> Path:
    """Build a command of the gateway's module, as `make gateway-build` does."""
    command = [require_go(), "build", "-trimpath", "-o", str(target), package]
    environment = os.environ | {"CGO_ENABLED": "0"}
    subprocess.run(command, cwd=GATEWAY, check=True, env=environment)  # noqa: S603
    return target


@dataclass
class Gateway:
    """A running gateway: where it listens, and what it has logged so far."""

    process: asyncio.subprocess.Process
    log: list[dict[str, Any]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def logged(self, msg: str, **attributes: Any) -> dict[str, Any]:
        """The first log line with this message and these attributes; waits for it."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                self.changed.clear()
                for line in self.log:
                    if line["msg"] == msg and attributes.items() <= line.items():
                        return line
                await self.changed.wait()

    @property
    def url(self) -> str:
        """Where it serves REST."""
        return self._url("listening")

    @property
    def metrics_url(self) -> str:
        """Where it serves metrics."""
        return self._url("metrics listening")

    def _url(self, event: str) -> str:
        (address,) = [line["address"] for line in self.log if line["msg"] == event]
        return f"http://{address}"

    async def read_log(self) -> None:
        """Follow the log until the process ends."""
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            self.log.append(json.loads(raw))
            self.changed.set()


@asynccontextmanager
async def running(binary: Path, upstream: str, **settings: str) -> AsyncIterator[Gateway]:
    """The binary on a free port. Settings as in the environment, without the prefix."""
    settings = {"UPSTREAM": upstream, "LISTEN": "127.0.0.1:0"} | settings
    environment = {f"JOBS_GATEWAY_{name}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        binary, env=environment, stderr=asyncio.subprocess.PIPE
    )
    gateway = Gateway(process)
    reader = asyncio.create_task(gateway.read_log())
    try:
        await gateway.logged("listening")
        yield gateway
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reader


@dataclass(frozen=True)
class Rest:
    """A caller of the REST API in one tenant."""

    client: httpx.AsyncClient
    tenant: str

    async def send(
        self, method: str, path: str, body: Any = None, headers: Any = (), **options: Any
    ) -> httpx.Response:
        """Any request as this caller; `body` is JSON, or bytes as they are."""
        if isinstance(body, bytes):
            options |= {"content": body}
            headers = [("Content-Type", "application/json"), *headers]
        elif body is not None:
            options |= {"json": body}
        caller = [("X-Tenant-Id", self.tenant), ("X-User-Id", "olivia")]
        return await self.client.request(method, path, headers=[*caller, *headers], **options)

    async def create(self, **body: Any) -> httpx.Response:
        """Create a job; document_type is "reboot" unless given."""
        return await self.send("POST", "/customer/jobs", {"document_type": "reboot"} | body)

    async def as_device(self, name: str, method: str, path: str = "", body: Any = None) -> Any:
        """What a device is answered at /device/v1/jobs; it must be 200."""
        headers = [("X-Device-Id", name)]
        response = await self.send(method, f"/device/v1/jobs{path}", body, headers=headers)
        assert response.status_code == 200, response.text
        return response.json()

    async def get(self, path: str = "", **query: Any) -> Any:
        """Read something below /customer/jobs that is there."""
        response = await self.send("GET", f"/customer/jobs{path}", params=query)
        assert response.status_code == 200, response.text
        return response.json()


def assert_error(
    response: httpx.Response, status: int, code: str, reason: str, detail: str | None = None
) -> dict[str, Any]:
    """The answer is an error in the API's shape; returns its body."""
    body: dict[str, Any] = response.json()
    seen = (response.status_code, body["code"], body["reason"])
    assert seen == (status, code, reason), response.text
    assert set(body) == {"detail", "code", "reason", "field_violations"}
    assert response.headers["content-type"] == "application/json"
    assert body["detail"]
    assert "\n" not in response.text
    if detail is not None:
        assert body["detail"] == detail
    return body
