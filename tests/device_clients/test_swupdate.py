"""SWUpdate carries out jobs through the bridge of examples/ that speaks hawkBit's DDI API."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from examples.ddi_bridge import target_token
from tests.device_clients.conftest import TARGET_KEY
from tests.device_clients.swupdate import Artifacts, Signer, SwupdateDevice, require_swupdate
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.server import Server, reserved_address
from tests.support.waiting import TIMEOUT, read_until, wait_until_equal, wait_until_true

pytestmark = pytest.mark.slow

POLL_INTERVAL = 45
"""Seconds until SWUpdate polls again if it has no answer to its first poll."""


@dataclass
class Fleet:
    """A tenant with the device "board", and what it talks to."""

    operator: Operator
    device: SwupdateDevice
    artifacts: Artifacts

    async def create(self, job_id: str, script: str, **changes: Any) -> None:
        """Create a job that installs an image with a script."""
        image = self.device.signer.image(script)
        name = f"{job_id}.swu"
        self.artifacts.images[name] = image
        artifact = {
            "filename": name,
            "size": len(image),
            "hashes": {"sha1": hashlib.sha1(image).hexdigest()},  # noqa: S324
            "url": f"{self.artifacts.url}/{name}",
        } | changes
        chunk = {"part": "os", "name": "firmware", "version": "1.0", "artifacts": [artifact]}
        await self.operator.create(
            job_id=job_id,
            document_type="ddi",
            document_params={"chunks": [chunk]},
            target_device_id="board",
        )

    async def execution(self, job_id: str) -> pb.JobExecution:
        """Return the execution of the device."""
        return (await self.operator.executions(job_id)).executions[0]

    async def reaches(self, job_id: str, status: Any) -> pb.JobExecution:
        """Wait until the execution of the device has a status, and return it."""
        return await read_until(lambda: self.execution(job_id), lambda e: e.status == status)

    async def installed(self, images: int = 1) -> None:
        """Wait until the device has installed images. After the last, it waits for its restart."""
        text, device = "executing post-update actions", self.device
        await wait_until_true(
            lambda: device.log.count(text) >= images and device.ran.count("postinst") >= images,
            seconds=POLL_INTERVAL + TIMEOUT,
        )


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    require_swupdate()
    return Signer(tmp_path_factory.mktemp("signer"))


@pytest.fixture
async def fleet(
    polling_server: Server,
    bridge_url: str,
    database: Database,
    tenant: str,
    signer: Signer,
    tmp_path: Path,
) -> AsyncIterator[Fleet]:
    await database.add_devices(tenant, ["board"])
    token = target_token(TARGET_KEY, "board")
    device = SwupdateDevice(tmp_path, signer, bridge_url, tenant.upper(), "board", token)
    with reserved_address() as address:
        async with Artifacts(device.is_installing).serving(address) as artifacts:
            yield Fleet(polling_server.operator(tenant), device, artifacts)


async def test_results_of_two_jobs_are_reported_after_restarts(fleet: Fleet) -> None:
    await fleet.create("j", fleet.device.script())
    await fleet.create("next", fleet.device.script())

    async with fleet.device.running():
        await fleet.installed()
    assert (await fleet.execution("j")).status == pb.JobExecution.IN_PROGRESS
    async with fleet.device.running("-c", "2"):
        await fleet.reaches("j", pb.JobExecution.SUCCEEDED)
        await fleet.installed(images=2)
    async with fleet.device.running("-c", "2"):
        await fleet.reaches("next", pb.JobExecution.SUCCEEDED)

    assert fleet.device.ran[:2] == ["preinst", "postinst"]


async def test_device_keeps_the_poll_interval_of_the_server(fleet: Fleet) -> None:
    """Its own interval is longer than this test waits."""
    async with fleet.device.running():
        await wait_until_true(lambda: fleet.device.log.count("No pending action on server") >= 3)


async def test_device_reports_its_facts_and_then_installs(
    fleet: Fleet, polling_server: Server, tenant: str
) -> None:
    """It sends them while it has no job; before that, each poll asks for them."""

    async def facts() -> dict[str, str]:
        return dict((await polling_server.fleet(tenant).get("board")).device.facts)

    async with fleet.device.running():
        await wait_until_equal(facts, {"hardware": "board"})
        await fleet.create("j", fleet.device.script())
        await fleet.installed()


async def test_failure_after_the_restart_is_reported(fleet: Fleet) -> None:
    await fleet.create("j", fleet.device.script())

    async with fleet.device.running():
        await fleet.installed()
    async with fleet.device.running("-c", "3"):
        execution = await fleet.reaches("j", pb.JobExecution.FAILED)

    assert execution.failure_code.startswith("ddi.")


async def test_failing_script_fails_the_execution_with_its_cause(fleet: Fleet) -> None:
    await fleet.create("j", fleet.device.script(exit_code=1))

    async with fleet.device.running():
        execution = await fleet.reaches("j", pb.JobExecution.FAILED)

    assert "run.sh" in str(execution.status_details)


async def test_image_of_another_hash_fails(fleet: Fleet) -> None:
    await fleet.create("j", fleet.device.script(), hashes={"sha1": "0" * 40})

    async with fleet.device.running():
        await fleet.reaches("j", pb.JobExecution.FAILED)


async def test_canceled_job_is_not_started(fleet: Fleet) -> None:
    await fleet.create("canceled", fleet.device.script(name="canceled-"))
    await fleet.operator.cancel("canceled")
    await fleet.create("j", fleet.device.script())

    async with fleet.device.running():
        await fleet.installed()
    async with fleet.device.running("-c", "2"):
        await fleet.reaches("j", pb.JobExecution.SUCCEEDED)

    assert set(fleet.device.ran) == {"preinst", "postinst"}


@pytest.mark.parametrize("force", [False, True])
async def test_device_accepts_a_cancel_during_the_download(
    fleet: Fleet, polling_server: Server, tenant: str, force: bool
) -> None:
    """SWUpdate completes the installation first.

    It may store that this installation has to be tested after a restart, and then waits for that.
    """

    async def ended() -> list[object]:
        return [*(await polling_server.device(tenant, "board").pending()).ended_executions]

    fleet.artifacts.released.clear()
    await fleet.create("canceled", fleet.device.script())
    await fleet.create("j", fleet.device.script())

    async with fleet.device.running():
        await fleet.artifacts.requested.wait()
        await fleet.operator.cancel("canceled", force=force)
        fleet.artifacts.released.set()
        canceled = await fleet.reaches("canceled", pb.JobExecution.REJECTED)
        await wait_until_equal(ended, [])
    fleet.device.reset()
    async with fleet.device.running():
        await fleet.installed()
    async with fleet.device.running("-c", "2"):
        await fleet.reaches("j", pb.JobExecution.SUCCEEDED)

    assert canceled.end_cause == pb.JobExecution.JOB_CANCELED


async def test_result_of_a_canceled_job_is_not_that_of_the_next(fleet: Fleet) -> None:
    """After a restart, SWUpdate reports its stored result on the action that it is offered."""
    await fleet.create("canceled", fleet.device.script())
    async with fleet.device.running():
        await fleet.installed()
    await fleet.operator.cancel("canceled", force=True)
    await fleet.create("j", fleet.device.script(exit_code=1))

    async with fleet.device.running("-c", "2"):
        await fleet.reaches("j", pb.JobExecution.FAILED)

    assert (await fleet.execution("canceled")).status == pb.JobExecution.REJECTED


async def test_device_repeats_a_download_that_was_killed(fleet: Fleet) -> None:
    fleet.artifacts.released.clear()
    await fleet.create("j", fleet.device.script())

    async with fleet.device.running():
        await fleet.artifacts.requested.wait()
    fleet.artifacts.released.set()
    async with fleet.device.running():
        await fleet.installed()
    async with fleet.device.running("-c", "2"):
        await fleet.reaches("j", pb.JobExecution.SUCCEEDED)


async def test_device_carries_out_the_next_attempt_and_the_next_job(fleet: Fleet) -> None:
    await fleet.create("j", fleet.device.script(exit_code=1))
    async with fleet.device.running():
        await fleet.reaches("j", pb.JobExecution.FAILED)
        await fleet.operator.retry("j", pb.JobExecution.FAILED)
        failed = await read_until(lambda: fleet.execution("j"), lambda e: e.execution_number == 2)
        failed = await fleet.reaches("j", pb.JobExecution.FAILED)
        await fleet.create("next", fleet.device.script())
        await fleet.installed()
    async with fleet.device.running("-c", "2"):
        await fleet.reaches("next", pb.JobExecution.SUCCEEDED)

    assert failed.execution_number == 2


async def test_device_with_another_token_is_refused(fleet: Fleet) -> None:
    fleet.device.token = target_token("another key", "board")
    await fleet.create("j", fleet.device.script())

    async with fleet.device.running():
        await wait_until_true(lambda: "HTTP error code 401" in fleet.device.log)

    assert (await fleet.execution("j")).status == pb.JobExecution.QUEUED
