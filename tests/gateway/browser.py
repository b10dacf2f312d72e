"""A real headless Chromium, and a proxy whose pages run in it."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def require_browser() -> str:
    """Return the path of a Chromium. Without it, skip the test, or fail it in CI."""
    if browser := find_browser():
        return browser
    if os.environ.get("CI"):
        pytest.fail("Chromium is not installed, but CI must run the tests in a browser")
    pytest.skip("Chromium is not installed")


@dataclass
class Proxy:
    """A proxy in front of the gateway that sets the tenant, as an authenticating proxy would.

    It serves `files` itself, by path, and keeps what pages POST to /report.
    """

    gateway: str
    tenant: str
    files: dict[str, bytes] = field(default_factory=dict)
    reports: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close the connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            request, *lines = head.strip().split("\r\n")
            method, path, _ = request.split(" ")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            if path == "/report":
                self.reports.put_nowait(json.loads(body))
                writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            elif path in self.files:
                kind = "text/javascript" if path.endswith(".js") else "text/html; charset=utf-8"
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n".encode())
                writer.write(b"Connection: close\r\n\r\n" + self.files[path])
            else:
                await self._forward(method, path, headers, body, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the browser went away
        finally:
            writer.close()

    async def _forward(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        writer: asyncio.StreamWriter,
    ) -> None:
        target = urlsplit(self.gateway)
        upstream_reader, upstream = await asyncio.open_connection(target.hostname, target.port)
        headers |= {"host": target.netloc, "connection": "close", "x-tenant-id": self.tenant}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        upstream.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        try:
            while chunk := await upstream_reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        finally:
            upstream.close()


@asynccontextmanager
async def running_proxy(gateway: str, tenant: str) -> AsyncIterator[Proxy]:
    """Run a proxy on a free port."""
    proxy = Proxy(gateway, tenant)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()


@asynccontextmanager
async def open_page(url: str, folder: Path) -> AsyncIterator[Path]:
    """Open a page in a headless Chromium until the end of the block; yields its log file."""
    log = folder / "chromium.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            require_browser(),
            *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"),
            *("--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", url),
            stderr=stderr,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield log
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with its own child processes
        await process.wait()
