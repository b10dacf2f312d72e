"""Work on the device directory without a terminal: register, import, edit, delete."""

from fleet.jobs.v1.fleet_pb2 import Device
from playwright.async_api import Page, Route, expect

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
                "pump-1 already exists; nothing was changed"
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

    await page.get_by_role("link", name="pump-1", exact=True).click()
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
    status = page.get_by_role("status").filter(has_text="Deleted 1 device, ended 1 execution.")
    await status.get_by_role("button", name="Close").click()
    await page.get_by_label("Select pump-2").check()
    await page.get_by_role("button", name="Delete…").click()
    await dialog.get_by_role("button", name="Delete 1 device").click()
    await expect(page.get_by_text("Deleted 1 device, ended 1 execution.")).to_be_visible()
    assert await stored() == {}


async def test_import_continues_when_a_call_fails(
    console: Console, server: Server, tenant: str
) -> None:
    fleet = server.fleet(tenant)
    await fleet.update(
        Device(device_id="pump-1", labels={"ring": "early"}, group_ids=["old"]),
        mask=["labels", "group_ids"],
        allow_missing=True,
    )
    page = await console.open("/devices")
    dialog = page.get_by_role("dialog")
    await page.get_by_role("button", name="Import CSV…").click()
    for text, problems in {
        "device,group_id\n": [
            "Line 1: the header must be device_id, and optionally group_id, time_zone and"
            " label:KEY, not device, group_id"
        ],
        'device_id,time_zone\n"a\nb",\nc,CET\nd\n..,UTC\n': [
            "Line 3: device_id must be 1–256 characters without control characters",
            "Line 4: time_zone must be an IANA time zone such as Europe/Berlin, or UTC",
            "Line 5: must have as many columns as the header",
            'Line 6: device_id must not have a segment "." or ".."',
        ],
        'device_id\n"a"b\n': [
            "Line 2: a quoted cell must end with a quote, before a comma or the end of a line"
        ],
    }.items():
        await _choose(page, text)
        await expect(dialog.get_by_role("listitem")).to_have_text(problems)
    assert await console.findings() == []

    plain = "".join(f"tag-{n},,,,\n" for n in range(1001))
    await _choose(
        page,
        "\ufeffdevice_id,group_id,time_zone,label:site,label:note\r\n"
        f"{PUMP}pump-2,,europe/oslo,,\n{plain}",
    )
    await expect(dialog).to_contain_text("1,003 devices, no problems found")

    calls = 0

    async def fail_second(route: Route) -> None:
        nonlocal calls
        calls += 1
        await (route.abort() if calls == 2 else route.continue_())

    await page.route("**/customer/fleet/devices:update", fail_second)
    await dialog.get_by_role("button", name="Import 1,003 devices").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("The service can't be reached")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Import CSV…").click()
    await expect(dialog).to_contain_text("fleet.csv: 1,000 of 1,003 devices imported")
    await dialog.get_by_role("button", name="Continue import of 3 devices").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("Line 4: time_zone must be")
    await _choose(page, f"device_id,group_id,time_zone,label:site,label:note\n{PUMP}{plain}")
    await dialog.get_by_role("button", name="Import 1,002 devices").click()
    await expect(page.get_by_text("Registered 0 devices, updated 1,002 devices.")).to_be_visible()
    pump = (await fleet.get("pump-1")).device
    assert dict(pump.labels) == {"ring": "early", "site": 'Oslo, "west"', "note": "new"}
    assert ([*pump.group_ids], pump.time_zone) == (["lab", "north", "old"], "Europe/Oslo")

    await page.get_by_label("Device starts with").fill("pump-1")
    await page.get_by_role("button", name="Filter", exact=True).click()
    await page.get_by_label("Select pump-1").check()
    await page.get_by_label("Device starts with").fill("tag-")
    await page.get_by_role("button", name="Filter", exact=True).click()
    await page.get_by_role("button", name="Select up to 1,000 that match").click()
    await expect(page.get_by_text("1,000 devices selected")).to_be_visible()
    await page.get_by_role("button", name="Delete…").click()
    await dialog.get_by_role("button", name="Delete 1,000 devices").click()
    await expect(page.get_by_text("Deleted 1,000 devices, ended 0 executions.")).to_be_visible()
    assert [d.device_id for d in (await fleet.list()).devices] == ["pump-1", "tag-999"]


async def test_requests_of_an_import_fit_the_gateway_in_utf8(
    console: Console, server: Server, tenant: str
) -> None:
    page = await console.open("/devices")
    await page.get_by_role("button", name="Import CSV…").click()
    cells = f",{'語' * 60}" * 3
    rows = "".join(f"tag-{n}{cells}\n" for n in range(600))
    await _choose(page, f"device_id,label:a,label:b,label:c\n{rows}constructor,,,\n")
    await page.get_by_role("button", name="Import 601 devices").click()
    await expect(page.get_by_text("Registered 601 devices, updated 0 devices.")).to_be_visible()
    await expect(page.get_by_label("Select constructor")).not_to_be_checked()


PUMP = 'pump-1,north,Europe/Oslo,"Oslo, ""west""",\r\npump-1,lab,,,new\r\n'


async def _choose(page: Page, text: str) -> None:
    field = page.get_by_label("File", exact=True)
    await field.set_input_files(
        {"name": "fleet.csv", "mimeType": "text/csv", "buffer": text.encode()}
    )
