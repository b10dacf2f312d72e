"""The routes of FleetService that change devices."""

from tests.gateway.support import RestClient

DEVICES = "/customer/fleet/devices"


async def test_device_is_registered_read_changed_and_removed(rest: RestClient) -> None:
    device_id = 'line 1/pump, "old"'
    device = {
        "device_id": device_id,
        "labels": {"model": "x200"},
        "time_zone": "Europe/Berlin",
        "group_ids": ["pumps"],
    }
    body = {"devices": [device], "update_mask": "labels,time_zone,group_ids", "allow_missing": True}

    registered = await rest.send("POST", f"{DEVICES}:update", json=body)
    read = await rest.send("GET", f"{DEVICES}/line%201%2Fpump%2C%20%22old%22")
    removed = await rest.send("POST", f"{DEVICES}:delete", json={"device_ids": [device_id]})
    gone = await rest.send("GET", f"{DEVICES}/line%201%2Fpump%2C%20%22old%22")

    assert registered.json() == {"registered_count": 1, "updated_count": 0}
    assert read.json() == {"device": device | {"last_seen_at": None}, "executions": []}
    assert removed.json()["deleted_count"] == 1
    assert (gone.status_code, gone.json()["reason"]) == (404, "DEVICE_NOT_FOUND")


async def test_unknown_devices_are_named(rest: RestClient) -> None:
    body = {"devices": [{"device_id": "a"}, {"device_id": "b"}], "update_mask": "labels"}

    response = await rest.send("POST", f"{DEVICES}:update", json=body)

    assert response.status_code == 404
    assert response.json()["detail"] == "Devices not found: a, b"
