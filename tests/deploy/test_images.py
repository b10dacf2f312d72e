"""The images: their Dockerfiles' steps are carried out in folders, and the results run."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.gateway.support import require_go
from tests.support.cli import address_of
from tests.support.database import Database
from tests.support.proxy import running_proxy
from tests.support.waiting import TIMEOUT
from tools.dockerfile_tree import DockerfileError, Stage, build, is_supported

ROOT = Path(__file__).parents[2]
DOCKERFILES = ROOT / "deploy" / "docker"
MB = 1_000_000

# The first test of an image also builds it, which installs and compiles packages.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def built(name: str, folder: Path, **arguments: str) -> Stage:
    """Carry out a Dockerfile. If this machine cannot, skip the test; in CI, fail it."""
    if not os.environ.get("CI") and not is_supported():
        pytest.skip("this account may not mount folders")
    return build(DOCKERFILES / f"{name}.Dockerfile", ROOT, folder, **arguments)


@pytest.fixture(scope="module")
def server_image(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The image of the server."""
    return built("server", tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def gateway_image(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The image of the gateway."""
    require_go()
    return built("gateway", tmp_path_factory.mktemp("gateway"))


@asynccontextmanager
async def running(image: Stage, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the image's command, as the container would."""
    command = image.command_line([*image.entrypoint, *image.command], read_only=True)
    process = await asyncio.create_subprocess_exec(
        *command, env=image.environ | environ, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def check(image: Stage, *argv: str, **environ: str) -> tuple[int, str]:
    """Run another command of the image; return its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *image.command_line(argv, read_only=True),
        env=image.environ | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return await process.wait(), output.decode()


def test_layers_of_the_server_add_less_than_60_mb(server_image: Stage) -> None:
    assert server_image.size() < 60 * MB


async def test_image_of_the_server_can_use_uvloop_and_send_traces(server_image: Stage) -> None:
    code = (
        "import asyncio, uvloop, opentelemetry.exporter.otlp.proto.grpc.trace_exporter;"
        " uvloop.run(asyncio.sleep(0))"
    )

    assert await check(server_image, "python", "-c", code) == (0, "")


def test_layers_of_the_gateway_add_less_than_25_mb(gateway_image: Stage) -> None:
    assert gateway_image.size() < 25 * MB


@pytest.mark.parametrize("name", ["server", "gateway"])
def test_image_runs_as_an_ordinary_user_and_is_labeled(
    name: str, request: pytest.FixtureRequest
) -> None:
    image: Stage = request.getfixturevalue(f"{name}_image")

    assert image.user == "65532:65532"
    assert image.healthcheck
    required = {"title", "description", "licenses", "source", "version", "revision"}
    assert required == {label.removeprefix("org.opencontainers.image.") for label in image.labels}


async def test_image_contains_bytecode_and_no_build_tools(server_image: Stage) -> None:
    packages = next(server_image.root.glob("opt/jobs-grpc/lib/python*/site-packages"))
    sources = {path for path in packages.rglob("*.py") if "__pycache__" not in path.parts}
    compiled = {path.parents[1] / path.name.split(".")[0] for path in packages.rglob("*.pyc")}

    assert {path.with_suffix("") for path in sources} <= compiled
    assert not {"pip", "hatchling", "rich", "pytest"} & {path.name for path in packages.iterdir()}
    code, output = await check(
        server_image, "/bin/sh", "-c", "touch /opt/jobs-grpc/x /tmp/x; id -u"
    )
    assert (code, output.count("Read-only file system"), output.split()[-1]) == (0, 2, "65532")


async def test_server_and_gateway_serve_from_read_only_images(
    server_image: Stage, gateway_image: Stage, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["device-1"])
    async with (
        running_proxy(database.request_dsn) as proxy,
        running(server_image, JOBS_DATABASE_URL=proxy.dsn, JOBS_LISTEN="127.0.0.1:0") as server,
    ):
        address = await address_of(server)
        assert await check(server_image, *server_image.healthcheck, JOBS_SERVER=address) == (
            0,
            "SERVING\n",
        )
        settings = {"JOBS_GATEWAY_UPSTREAM": address, "JOBS_GATEWAY_LISTEN": "127.0.0.1:0"}
        async with running(gateway_image, **settings) as gateway:
            assert gateway.stderr
            async with asyncio.timeout(TIMEOUT):
                listening = json.loads(await gateway.stderr.readline())
            settings["JOBS_GATEWAY_LISTEN"] = listening["address"]
            assert await check(gateway_image, *gateway_image.healthcheck, **settings) == (0, "")

            url = f"http://{listening['address']}"
            async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as http:
                response = await http.post(
                    "/customer/jobs",
                    headers={"X-Tenant-Id": tenant},
                    json={"document_type": "reboot", "target_device_id": "device-1"},
                )
            assert response.status_code == 201, response.text
        code, output = await check(gateway_image, *gateway_image.healthcheck, **settings)
        assert (code, len(output.splitlines())) == (1, 1)


def test_failing_step_fails_the_build(tmp_path: Path) -> None:
    dockerfile = tmp_path / "x.Dockerfile"
    (tmp_path / "x.Dockerfile.dockerignore").write_text("*\n!LICENSE\n")
    for step, problem in (
        ("RUN false", "RUN false"),
        ("COPY README.md /", "not in the build context"),
        ("ADD LICENSE /", "unknown instruction ADD"),
        ("COPY --chmod=600 LICENSE /", "unknown option"),
        ("RUN --network=none true", "unknown option"),
    ):
        dockerfile.write_text(f"FROM python:3.14\n{step}\n")
        with pytest.raises(DockerfileError, match=re.escape(problem)):
            build(dockerfile, ROOT, tmp_path / step.split()[0] / problem.split()[0])
