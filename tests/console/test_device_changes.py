"""Work on the device directory without a terminal: register, import, edit, delete."""

from fleet.jobs.v1.fleet_pb2 import Device
from playwright.async_api import expect

from tests.console.browser import Console
from tests.support.callers import Operator
from tests.support.server import Server


async def test_devices_are_registered_edited_and_deleted(
    console: Console, server: Server, operator: Operator, tenant: str
) -> None:
    fleet = server.fleet(tenant)

    async def stored() -> dict[str, tuple[dict[str, str], list[str], str]]:
        devices = (await fleet.list()).devices
        return {d.device_id: (dict(d.labels), [*d.group_ids], d.time_zone) for d in devices}

    page = await console.open("/devices")
    await expect(page.get_by_text("This tenant has no devices yet")).to_be_visible()
    dialog = page.get_by_role("dialog")
    for device in ("pump-1", "pump-2"):
        await page.get_by_role("button", name="Register device…").click()
        await dialog.get_by_label("Labels").fill("model=x200\nsite")
        await expect(dialog.get_by_text("Labels are written key=value, not site")).to_be_visible()
        await dialog.get_by_label("Labels").fill(f"model=x200\nsite=Oslo, {device}")
        await dialog.get_by_label("Groups").fill("north\nlab, old")
        await dialog.get_by_label("Time zone").fill("Europe/Oslo")
        await dialog.get_by_label("Device ID").fill("pump-1")
        assert await console.findings() == []
        if device == "pump-2":
            await dialog.get_by_role("button", name="Register device").click()
            await expect(dialog.get_by_role("alert")).to_have_text(
                "pump-1 exists already; nothing was changed"
            )
            await dialog.get_by_label("Device ID").fill(device)
        await dialog.get_by_role("button", name="Register device").click()
        await expect(page.get_by_text(f"Registered {device}.")).to_be_visible()
    groups = ["lab, old", "north"]
    assert await stored() == {
        device: ({"model": "x200", "site": f"Oslo, {device}"}, groups, "Europe/Oslo")
        for device in ("pump-1", "pump-2")
    }

    await page.get_by_label("Select all on this page").check()
    await page.get_by_role("button", name="Edit…").click()
    labels = dialog.get_by_label("Labels")
    await expect(labels).to_have_value("model=x200")
    await labels.fill("ring=canary\nsite-")
    await dialog.get_by_label("Groups").fill("north\nsouth")
    await dialog.get_by_text("Command line equivalent").click()
    await expect(dialog.locator("code").first).to_have_text(
        "jobs-grpc devices label ring=canary site- model- --device pump-1 --device pump-2"
        f" --set-group north --set-group south --tenant {tenant}"
    )
    # What another adds in the meantime stays.
    await fleet.update(Device(device_id="pump-2", group_ids=[*groups, "new"]), mask=["group_ids"])
    await dialog.get_by_role("button", name="Save 2 devices").click()
    await expect(page.get_by_text("Changed 2 devices.")).to_be_visible()
    assert await stored() == {
        "pump-1": ({"ring": "canary"}, ["north", "south"], "Europe/Oslo"),
        "pump-2": ({"ring": "canary"}, ["new", "north", "south"], "Europe/Oslo"),
    }

    await page.get_by_role("link", name="pump-1").click()
    await page.get_by_role("button", name="Edit…").click()
    await dialog.get_by_label("Time zone").fill("Mars/Base")
    await dialog.get_by_role("button", name="Save 1 device").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("time_zone must be an IANA time zone")
    await dialog.get_by_label("Time zone").fill("")
    await dialog.get_by_role("button", name="Save 1 device").click()
    await expect(page.get_by_text("time zone unknown")).to_be_visible()

    await operator.create(job_id="fw-1", target_all=True)
    await page.get_by_role("button", name="Delete…").click()
    await expect(dialog).to_contain_text("rejects its executions that are queued or held")
    await dialog.get_by_role("button", name="Delete 1 device").click()
    await expect(page.get_by_role("heading", name="Devices", exact=True)).to_be_visible()
    await page.get_by_label("Select pump-2").check()
    await page.get_by_role("button", name="Delete…").click()
    await dialog.get_by_role("button", name="Delete 1 device").click()
    await expect(page.get_by_text("Deleted 1 device, ended 1 execution.")).to_be_visible()
    assert await stored() == {}
