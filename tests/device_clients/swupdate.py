"""SWUpdate, as Debian builds it, in a process whose /etc names a file as U-Boot's environment."""

import asyncio
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ctypes.util import find_library
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from aiohttp import web

from tests.support.processes import running_process, skip_without
from tests.support.waiting import wait_until_true

_ENVIRONMENT_BYTES = 16 * 1024
_HANG = 10.0
# An image has one script, which is run before and after the installation.
_DESCRIPTION = """software = {{
    version = "1.0";
    hardware-compatibility: [ "1.0" ];
    scripts: ( {{ filename = "run.sh"; type = "shellscript"; sha256 = "{sha256}"; }} );
}}
"""


def require_swupdate() -> str:
    """Return the path of swupdate, or skip the test."""
    program = shutil.which("swupdate")
    if program is None:
        skip_without("swupdate")
    if find_library("ubootenv") is None:
        skip_without("libubootenv0.1, which swupdate loads")
    return program


@dataclass
class Signer:
    """Signs images: Debian's SWUpdate installs no others."""

    folder: Path

    def __post_init__(self) -> None:
        self._openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem"),
            *("-out", "cert.pem", "-subj", "/CN=signer"),
            *("-addext", "extendedKeyUsage=emailProtection"),
        )

    def image(self, script: str) -> bytes:
        """Return an image with a shell script."""
        digest = hashlib.sha256(script.encode()).hexdigest()
        description = _DESCRIPTION.format(sha256=digest).encode()
        (self.folder / "sw-description").write_bytes(description)
        self._openssl(
            *("cms", "-sign", "-binary", "-nosmimecap", "-outform", "DER"),
            *("-in", "sw-description", "-out", "signature"),
            *("-signer", "cert.pem", "-inkey", "key.pem"),
        )
        signature = (self.folder / "signature").read_bytes()
        return _cpio(
            {
                "sw-description": description,
                "sw-description.sig": signature,
                "run.sh": script.encode(),
            }
        )

    def _openssl(self, *arguments: str) -> None:
        command = ["openssl", *arguments]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)  # noqa: S603


def _cpio(files: dict[str, bytes]) -> bytes:
    """Return an archive in the format newc with checksums."""
    archive = b""
    for inode, (name, data) in enumerate((files | {"TRAILER!!!": b""}).items(), 1):
        numbers = [inode, 0o100755, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, sum(data)]
        head = b"070702" + b"".join(b"%08X" % number for number in numbers)
        for part in (head + name.encode() + b"\0", data):
            archive += part + b"\0" * (-len(part) % 4)
    return archive + b"\0" * (-len(archive) % 512)


@dataclass
class Artifacts:
    """Serves images over HTTP. A download waits while `released` is not set.

    It also waits until the installation has begun: SWUpdate takes an installer that has not begun
    for one that has succeeded.
    """

    is_installing: Callable[[], bool]
    url: str = ""
    images: dict[str, bytes] = field(default_factory=dict)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    requested: asyncio.Event = field(default_factory=asyncio.Event)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        image = self.images[request.match_info["name"]]
        response = web.StreamResponse(headers={"Content-Length": str(len(image))})
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        await response.write(image[:1024])
        self.requested.set()
        await self.released.wait()
        await wait_until_true(self.is_installing)
        await response.write(image[1024:])
        return response

    @asynccontextmanager
    async def serving(self, address: str) -> AsyncIterator[Self]:
        """Serve during the block."""
        app = web.Application()
        app.router.add_get("/{name}", self._get)
        runner = web.AppRunner(app)
        await runner.setup()
        host, port = address.split(":")
        await web.TCPSite(runner, host, int(port)).start()
        self.url = f"http://{address}"
        self.released.set()
        try:
            yield self
        finally:
            self.released.set()
            await runner.cleanup()


@dataclass
class SwupdateDevice:
    """A device whose state outlives its process."""

    folder: Path
    signer: Signer
    url: str
    """Of the bridge."""
    tenant: str
    device_id: str
    token: str

    def __post_init__(self) -> None:
        (etc := self.folder / "etc").mkdir()
        for name in ("passwd", "group", "hosts", "nsswitch.conf"):
            shutil.copy(f"/etc/{name}", etc)
        shutil.copy(self.signer.folder / "cert.pem", etc)
        (etc / "fw_env.config").write_text(
            f"{self.folder}/environment 0x0 {_ENVIRONMENT_BYTES:#x}\n"
        )
        (etc / "swupdate.cfg").write_text(
            'globals : {}; identify : ( { name = "hardware"; value = "board"; } );\n'
        )
        self.reset()

    def reset(self) -> None:
        """Write an environment without the state of an installation, and forget what was run."""
        data = b"bootcmd=run\0\0".ljust(_ENVIRONMENT_BYTES - 4, b"\0")
        (self.folder / "environment").write_bytes(struct.pack("<I", zlib.crc32(data)) + data)
        for name in ("log", "ran"):
            (self.folder / name).unlink(missing_ok=True)

    @property
    def ran(self) -> list[str]:
        """The arguments with which scripts of images were run."""
        path = self.folder / "ran"
        return path.read_text().split() if path.exists() else []

    def script(self, exit_code: int = 0, name: str = "") -> str:
        """Return a script for an image, which notes that it was run."""
        return f"#!/bin/sh\necho {name}$1 >> {self.folder}/ran\nexit {exit_code}\n"

    def is_installing(self) -> bool:
        """Return whether an installation has begun and not ended."""
        log = self.log
        ends = ("Main loop daemon", "Main thread sleep again")
        return log.rfind("Software update started") > max(map(log.rfind, ends))

    @asynccontextmanager
    async def running(self, *options: str) -> AsyncIterator[None]:
        """Run SWUpdate during the block, and kill it at the end.

        After an installation, SWUpdate reports the result when it is started again, as after the
        restart of a device: with the option -c and 2 (success) or 3 (failure).
        """

        async def run() -> None:
            remaining = options
            while True:
                async with self._process(*remaining):
                    await self._hang()
                if self._has_logged("Software update started"):
                    remaining = ()

        task = asyncio.create_task(run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            print(self.log)  # for a test that fails

    async def _hang(self) -> None:
        """Return when SWUpdate logs nothing for ten seconds, as happens on a busy host.

        Its threads then wait for each other. The watchdog of a device would restart it. After an
        installation, it waits for its restart.
        """
        before, since = "", time.monotonic()
        while True:
            log = self.log
            if log != before or self._has_logged("executing post-update actions"):
                before, since = log, time.monotonic()
            elif time.monotonic() > since + _HANG:
                return
            await asyncio.sleep(0.5)

    def _has_logged(self, text: str) -> bool:
        """Return whether the latest process has logged a text."""
        log = self.log
        return log.rfind(text) > log.rfind("Main loop daemon")

    @asynccontextmanager
    async def _process(self, *options: str) -> AsyncIterator[None]:
        program = require_swupdate()
        suricatta = [
            *("-t", self.tenant, "-u", self.url, "-i", self.device_id, "-k", self.token),
            *("-r", "1", "-w", "1", *options),
        ]
        command = (
            f"mount --bind {self.folder}/etc /etc && exec {program} -v -f /etc/swupdate.cfg"
            f" -B uboot -H board:1.0 -k /etc/cert.pem -u '{' '.join(suricatta)}'"
        )
        with (self.folder / "log").open("a") as log:
            async with running_process(
                *("unshare", "--map-root-user", "--mount", "sh", "-c", command),
                cwd=self.folder,
                env=os.environ | {"TMPDIR": str(self.folder)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            ) as process:
                try:
                    yield
                finally:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""
