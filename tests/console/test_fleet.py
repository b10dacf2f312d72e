"""The first page: the devices, what waits for the person, what runs and what fails."""

from playwright.async_api import expect

from tests.console.browser import Console
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.server import Server

DEVICES = [f"pump-{n}" for n in range(4)]


async def test_fleet_page_shows_first_device_then_waits_and_failures(
    console: Console, server: Server, database: Database, operator: Operator, tenant: str
) -> None:
    page = await console.open()
    await expect(page.get_by_text("This tenant has no devices yet")).to_be_visible()
    await expect(page.get_by_text("jobs-grpc devices label pump-1 model=x200")).to_be_visible()
    assert await console.findings() == []

    await database.add_devices(tenant, DEVICES)
    await database.owner.execute(
        "INSERT INTO jobs.devices (tenant_id, device_id, last_seen_at)"
        " VALUES ($1, 'pump-0', now()), ($1, 'pump-1', now() - interval '2 days')",
        tenant,
    )
    for job_id in ("runs", "stopped"):
        await operator.create(job_id=job_id, target_all=True)
        await server.device(tenant, "pump-0").update(job_id, "FAILED", failure_code="E1")
    await operator.pause("stopped", reason="too hot")
    stages = [{"device_count": 1, "gate": {"require_approval": True}}, {"remainder": True}]
    # The person of this console may not approve a job of their own.
    for job_id, creator in (("careful", "olivia"), ("own", "ann")):
        await server.operator(tenant, creator).create(
            job_id=job_id, target_device_ids={"device_ids": DEVICES[:2]}, rollout={"stages": stages}
        )
        for execution in (await operator.executions(job_id)).executions:
            if execution.stage == 0:
                device = server.device(tenant, execution.device_id)
                await device.update(job_id, "SUCCEEDED")
    await page.reload()

    await expect(page.get_by_role("navigation").get_by_role("link").first).to_have_text("Fleet")
    waits = page.get_by_role("region", name="Waiting for you")
    await expect(waits.get_by_role("link")).to_have_text(["careful", "stopped"])
    await expect(waits).to_contain_text("too hot")
    running = page.get_by_role("region", name="Running jobs")
    await expect(running.get_by_role("link")).to_have_text(["own", "runs"])
    await expect(running).to_contain_text("the next stage needs an approval from another user")
    await expect(running.get_by_role("img", name="runs: 1 failed, 3 queued")).to_be_visible()
    seen = page.get_by_role("region", name="Devices by last seen")
    await expect(seen.get_by_role("row")).to_contain_text(["1", "0", "1", "0", "2"])
    failures = page.get_by_role("region", name="Failures in active jobs")
    await expect(failures.get_by_role("row", name="E1 2 runs, stopped")).to_be_visible()
    await failures.get_by_role("link", name="stopped").click()
    await expect(page.get_by_role("tabpanel").get_by_role("link", name="pump-0")).to_be_visible()
