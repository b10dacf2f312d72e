"""ListDevices: fields, filters, page tokens and page sizes."""

import random

import pytest
from fleet.jobs.v1 import fleet_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.callers import Fleet
from tests.support.database import Database, request_session
from tests.support.failures import expect_error, invalid_fields
from tests.support.page_tokens import forged_token
from tests.support.world import World

MAX_MESSAGE_BYTES = 4 * 1024 * 1024


async def all_pages(fleet: Fleet, **fields: object) -> list[list[str]]:
    """The device_ids of each page."""
    pages: list[list[str]] = []
    page = pb.ListDevicesResponse()
    while not pages or page.next_page_token:
        page = await fleet.list(**fields, page_token=page.next_page_token)
        pages.append([device.device_id for device in page.devices])
    return pages


async def ids(fleet: Fleet, **fields: object) -> list[str]:
    return [device_id for page in await all_pages(fleet, **fields) for device_id in page]


async def test_list_devices_returns_all_fields(database: Database, fleet: Fleet) -> None:
    await database.add_devices(fleet.tenant, ["d1"], group="north")
    await database.add_devices(fleet.tenant, ["d1"], group="Zoo")
    await database.add_labels(fleet.tenant, {"d1": {"model": "x200", "site": 'Zürich "1"'}})
    await database.owner.execute(
        "UPDATE jobs.devices SET time_zone = 'Europe/Zurich',"
        " last_seen_at = '2026-01-02 03:04:05Z' WHERE tenant_id = $1",
        fleet.tenant,
    )
    await database.add_devices(fleet.tenant, ["d2"])

    assert list((await fleet.list()).devices) == [
        pb.Device(
            device_id="d1",
            labels={"model": "x200", "site": 'Zürich "1"'},
            time_zone="Europe/Zurich",
            group_ids=["Zoo", "north"],
            last_seen_at=Timestamp(seconds=1767323045),
        ),
        pb.Device(device_id="d2"),
    ]


async def test_devices_are_in_byte_order(database: Database, fleet: Fleet) -> None:
    names = ["a", "B", "b", "A", "ä", "a,b", "a b", "日", "🙂", "\U0010ffff", "_", "%"]
    await database.add_devices(fleet.tenant, names)

    for limit in (1, 3, 100):
        assert await ids(fleet, limit=limit) == sorted(names, key=str.encode)


async def test_list_is_empty_when_no_device_matches(database: Database, fleet: Fleet) -> None:
    assert await fleet.list() == pb.ListDevicesResponse()

    await database.add_devices(fleet.tenant, 3, group="north")

    for selector in ("k", "group=south", "device_id=x", "group=north,device_id=x"):
        assert await fleet.list(selector=selector) == pb.ListDevicesResponse()


async def test_selector_and_prefix_both_apply(database: Database, fleet: Fleet) -> None:
    await database.add_devices(fleet.tenant, ["a1", "a2", "b1", "b2"])
    await database.add_devices(fleet.tenant, ["a1", "b1"], group="g")
    await database.add_labels(fleet.tenant, {"a1": {"k": "v"}, "b2": {"k": "v"}})

    assert await ids(fleet, device_id_prefix="a") == ["a1", "a2"]
    assert await ids(fleet, device_id_prefix="a", selector="k=v") == ["a1"]
    assert await ids(fleet, device_id_prefix="b", selector="group=g") == ["b1"]
    assert await ids(fleet, device_id_prefix="b", selector="device_id in (a1,b2)") == ["b2"]
    assert await ids(fleet, device_id_prefix="b", selector="k!=v,group!=g") == []


async def test_prefix_is_taken_literally(database: Database, fleet: Fleet) -> None:
    prefixes = ["%", "_", "\\", "a%", "ä", "\U0010ffff", "x" * 256, "'"]
    others = ["a", "ab", "x" * 255, "z", "\U0010fffe\U0010ffff"]
    extended = [prefix + end for prefix in prefixes for end in "1\U0010ffff" if len(prefix) < 256]
    names = sorted({*prefixes, *others, *extended}, key=str.encode)
    await database.add_devices(fleet.tenant, names)

    for prefix in prefixes:
        expected = [name for name in names if name.startswith(prefix)]
        assert await ids(fleet, device_id_prefix=prefix, limit=1) == expected


async def test_devices_of_other_tenants_are_not_listed(world: World) -> None:
    other = f"{world.tenant}-other"
    for tenant, value in ((world.tenant, "own"), (other, "other")):
        await world.database.add_devices(tenant, ["d1", "d2"], group=value)
        await world.database.add_labels(tenant, {"d1": {"k": value}})
    await world.database.add_devices(other, ["d3"])

    assert await ids(world.fleet) == ["d1", "d2"]
    assert [dict(d.labels) for d in (await world.fleet.list()).devices] == [{"k": "own"}, {}]
    for selector in ("k=other", "group=other", "device_id=d3"):
        assert await ids(world.fleet, selector=selector) == []
    assert await ids(world.server.fleet(other), selector="group!=own,k!=own") == ["d1", "d2", "d3"]


async def test_pages_contain_each_device_that_stays_once_while_others_change(world: World) -> None:
    rng = random.Random(7)  # noqa: S311 - repeatable on purpose
    staying = [f"s{n:03}" for n in range(30)]
    leaving = [f"s{n:03}x" for n in range(0, 30, 2)]
    await world.add_devices(staying + leaving, group="g")
    await world.database.add_labels(world.tenant, {d: {"k": "v"} for d in staying + leaving})
    for selector in ("", "k=v", "group=g", "group=g,k=v"):
        listed: list[str] = []
        page = pb.ListDevicesResponse()
        while not listed or page.next_page_token:
            token = page.next_page_token
            page = await world.fleet.list(selector=selector, limit=7, page_token=token)
            listed += [device.device_id for device in page.devices]
            added = [f"s{rng.randrange(30):03}-{rng.random()}" for _ in range(3)]
            await world.add_devices(added, group="g")
            await world.database.add_labels(world.tenant, {d: {"k": "v"} for d in added})
            await world.database.remove_devices(
                world.tenant, [leaving[rng.randrange(len(leaving))]]
            )

        assert [d for d in listed if d in staying] == staying
        assert len(set(listed)) == len(listed)
        assert listed == sorted(listed)


@pytest.mark.slow
async def test_page_is_short_when_few_of_the_examined_devices_match(world: World) -> None:
    await world.add_devices(12_000, group="all")
    await world.database.add_labels(world.tenant, {"d04000": {"k": "v"}, "d11000": {"k": "v"}})

    for selector in ("k", "k=v", "group=all,k"):
        assert await all_pages(world.fleet, selector=selector) == [["d04000"], [], ["d11000"]]
    assert await all_pages(world.fleet, selector="k,group in (x,y)") == [[]]
    assert await all_pages(world.fleet, selector="k,device_id!=d04000", limit=1) == [
        [],
        [],
        ["d11000"],
    ]


@pytest.mark.slow
async def test_page_ends_before_the_response_is_too_large(database: Database, fleet: Fleet) -> None:
    labels = {f"{'x' * 60}{n}": "🙂" * 63 for n in range(10, 42)}
    names = [f"d{n:04}" for n in range(1000)]
    await database.add_devices(fleet.tenant, names)
    await database.add_labels(fleet.tenant, dict.fromkeys(names, labels))

    page = await fleet.list(limit=1000)

    assert 3 * 1024 * 1024 < page.ByteSize() <= MAX_MESSAGE_BYTES
    assert await ids(fleet, limit=1000) == names
    # The query ends the page as well, although no device has groups.
    async with request_session(database) as (_, store):
        rows = await store.list_devices(fleet.tenant, terms="[]", prefix="", after="", limit=1000)
    assert len(rows) < 1000


async def add_groups(database: Database, fleet: Fleet, devices: int, groups: int) -> list[str]:
    """Add devices with many groups each; return their IDs."""
    names = [f"d{n:04}" for n in range(devices)]
    await database.add_devices(fleet.tenant, names)
    await database.owner.execute(
        "INSERT INTO public.device_group_members (tenant_id, group_id, device_id)"
        " SELECT $1, 'g' || n, d FROM unnest($2::text[]) AS d, generate_series(1, $3) n",
        *(fleet.tenant, names, groups),
    )
    return names


async def test_page_ends_before_it_has_20_000_groups(database: Database, fleet: Fleet) -> None:
    names = await add_groups(database, fleet, devices=41, groups=1000)

    assert await all_pages(fleet, limit=1000) == [
        *(names[:19], names[19:38], names[38:]),
    ]
    # A page with a low limit has even fewer, and at least one device.
    assert await all_pages(fleet, limit=1) == [[name] for name in names]
    # The query ends the page as well.
    async with request_session(database) as (_, store):
        rows = await store.list_devices(fleet.tenant, terms="[]", prefix="", after="", limit=1000)
    assert len(rows) == 20
    assert rows[-1]["device_id"] == names[18]


async def test_pages_are_complete_when_a_slice_of_them_is_full(world: World) -> None:
    names = await add_groups(world.database, world.fleet, devices=130, groups=399)

    assert await all_pages(world.fleet, limit=1000) == [names[:50], names[50:100], names[100:]]
    assert await ids(world.fleet, limit=51) == names


async def test_device_shows_its_first_1000_groups(database: Database, fleet: Fleet) -> None:
    await database.add_devices(fleet.tenant, ["d1"])
    await database.owner.execute(
        "INSERT INTO public.device_group_members (tenant_id, group_id, device_id)"
        " SELECT $1, 'g' || lpad(n::text, 4, '0'), 'd1' FROM generate_series(1001, 1, -1) n",
        fleet.tenant,
    )

    (device,) = (await fleet.list()).devices

    assert list(device.group_ids) == [f"g{n:04}" for n in range(1, 1001)]
    assert (await fleet.get("d1")).device.group_ids == device.group_ids


async def test_selector_is_invalid_with_its_position(fleet: Fleet) -> None:
    failure = await expect_error("INVALID_FIELD", fleet.list(selector="k in (a"))

    assert failure.violations["selector"] == (
        "selector is not a valid selector: at character 8, expected a comma or )"
    )


async def test_field_is_invalid_beyond_its_limits(fleet: Fleet) -> None:
    invalid: tuple[tuple[str, object], ...] = (
        *(("selector", "x" * 4097), ("limit", 0), ("limit", 1001)),
        *(("device_id_prefix", "x" * 257), ("device_id_prefix", "\n")),
    )
    for field, value in invalid:
        assert await invalid_fields(fleet.list(**{field: value})) == [field]


async def test_page_token_is_invalid_when_it_is_forged_or_the_filters_differ(world: World) -> None:
    await world.add_devices(2)
    token = (await world.fleet.list(limit=1)).next_page_token
    positions: list[list[object]] = [[], ["a", "b"], ["a\0"], ["\ud800"], [1]]

    for request in (
        *({"page_token": forged_token(token, *position)} for position in positions),
        {"page_token": token, "selector": "!k"},
        {"page_token": token, "device_id_prefix": "d"},
    ):
        await expect_error("INVALID_PAGE_TOKEN", world.fleet.list(**request))
    assert await ids(world.fleet, limit=1) == ["d00001", "d00002"]
