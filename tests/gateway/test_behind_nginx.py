"""IDs behind an nginx that decodes and resolves paths: it has proxy_pass with a URI."""

import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import httpx
import pytest

from tests.gateway.support import Gateway, RestClient
from tests.support.database import Database
from tests.support.processes import running_process, skip_without
from tests.support.waiting import TIMEOUT, wait_until

JOBS = "/customer/jobs"

CONFIG = """
daemon off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen unix:{folder}/nginx;
    location / {{ proxy_pass {gateway}/; proxy_redirect off; }}
  }}
}}
"""


@pytest.fixture
async def behind_nginx(gateway: Gateway, tenant: str) -> AsyncIterator[RestClient]:
    """A client in the test's tenant that reaches the gateway through nginx."""
    # Debian installs it outside the PATH of most accounts.
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        skip_without("nginx-light")
    # A Unix socket, whose path must be short: a free port could be taken before nginx binds it.
    with TemporaryDirectory() as name:
        folder = Path(name)
        config, log = folder / "nginx.conf", folder / "log"
        config.write_text(CONFIG.format(folder=folder, gateway=gateway.url))
        command = (program, "-p", folder, "-c", config, "-e", "stderr")
        with log.open("wb") as stderr:
            async with (
                running_process(*command, stop=signal.SIGTERM, stderr=stderr) as process,
                httpx.AsyncClient(
                    transport=httpx.AsyncHTTPTransport(uds=str(folder / "nginx")),
                    base_url="http://nginx",
                    timeout=TIMEOUT,
                    follow_redirects=True,
                ) as http,
            ):

                async def serves() -> bool:
                    assert process.returncode is None, log.read_text()
                    try:
                        return (await http.get("/healthz")).status_code == 200
                    except httpx.ConnectError:
                        return False

                await wait_until(serves)
                yield RestClient(http, tenant)
        print(log.read_text())


@pytest.mark.parametrize("device", ["%2e%2e", "%2e", "d1/%2e%2e", "d1%2F..", "..%2F"])
async def test_job_stays_when_the_path_of_an_execution_is_resolved_to_that_of_the_job(
    behind_nginx: RestClient, database: Database, device: str
) -> None:
    rest = behind_nginx
    await database.add_devices(rest.tenant, ["..", ".", "d1"])
    await rest.create(job_id="a", target_all=True)

    response = await rest.send("DELETE", f"{JOBS}/a/executions/{device}", {"reason": "one device"})

    assert response.status_code == 404, response.text
    assert (await rest.get("/a"))["execution_counts"]["queued"] == 3


async def test_devices_whose_paths_nginx_resolves_are_not_registered(
    behind_nginx: RestClient,
) -> None:
    """The path of the device `../../b` in the job `a` becomes that of the job `b`."""
    rest = behind_nginx
    for device in (".", "..", "../../b", "..\\..\\b", "d1/.", "./d1", "d1/../b", "d1\\.."):
        response = await rest.send(
            "POST",
            "/customer/fleet/devices:update",
            {"devices": [{"device_id": device}], "allow_missing": True},
        )

        assert (response.status_code, response.json()["reason"]) == (400, "INVALID_FIELD"), device


async def test_only_the_named_execution_is_canceled_when_an_id_has_dots(
    behind_nginx: RestClient,
) -> None:
    rest = behind_nginx
    devices = ["...", "a..", "..b", ".c", "%2e%2e", "a b", "b"]
    await rest.send(
        "POST",
        "/customer/fleet/devices:update",
        {"devices": [{"device_id": device} for device in devices], "allow_missing": True},
    )
    await rest.create(job_id="a", target_all=True)

    for device in devices:
        path = f"{JOBS}/a/executions/{quote(device, safe='')}"
        assert (await rest.send("DELETE", path)).json()["device_id"] == device

    assert (await rest.get("/a"))["execution_counts"]["rejected"] == len(devices)
