"""Generated requests, raw bytes and HTTP/2 garbage cause no internal error and no leak."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2, events_pb2, fleet_pb2, jobs_pb2
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.http2 import (
    DATA,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    close,
    connection,
    frame,
    message,
)
from tests.support.rpcs import FIELD_MASK, STRUCT, Rpc, list_rpcs, sample_requests
from tests.support.scale import examples
from tests.support.server import Server
from tests.support.waiting import wait_until_true
from tests.support.webhooks import URL, RecordingSender, WebhookCaller, running_webhook_server

DURATION = "google.protobuf.Duration"
TIMESTAMP = "google.protobuf.Timestamp"

UNEXPECTED_CODES = {
    StatusCode.INTERNAL,
    StatusCode.UNKNOWN,
    StatusCode.UNAVAILABLE,
    StatusCode.CANCELLED,
}

# Often the names of existing objects, so that requests get past the validation.
TEXT = st.sampled_from(["j", "r", "d", "g", "w", ""]) | st.text(max_size=20)

# Besides TEXT, values of fields whose name ends with the key.
TEXTS_OF_FIELDS = {
    "selector": ["group=g", "device_id in (d,e),!model", "model!=x", 'site="a b"', "model=x,"],
    "time_zone": ["Europe/Berlin", "America/St_Johns", "Nowhere"],
    "start_time": ["00:00", "22:30", "24:00"],
    "url": [URL, "https://127.0.0.1/", "http://hooks.example"],
    "types": ["job.created", "executions.finished", "job.unknown"],
    "labels": ["model", "x", "group"],
}

INT32 = st.integers(-3, 5) | st.integers(-(2**31), 2**31 - 1)

VALUES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: TEXT,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: INT32,
    FieldDescriptor.TYPE_ENUM: INT32,
    FieldDescriptor.TYPE_INT64: st.integers(-3, 5) | st.integers(-(2**63), 2**63 - 1),
}

STRUCTS = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=9),
        lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values),
        max_leaves=6,
    ),
    max_size=3,
)


def values_of(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of a field that holds no message."""
    if field.type == FieldDescriptor.TYPE_STRING:
        for name, texts in TEXTS_OF_FIELDS.items():
            if field.name.endswith(name):
                return st.sampled_from(texts) | TEXT
    return VALUES[field.type]


@st.composite
def changed(draw: st.DrawFn, message: Message) -> Message:
    """The message, with some of its fields set to arbitrary values, often to valid ones."""
    fields: Any = message.DESCRIPTOR.fields
    kind = message.DESCRIPTOR.full_name
    if kind == STRUCT:
        message.update(draw(STRUCTS))  # type: ignore[attr-defined]
    elif kind in (DURATION, TIMESTAMP) and draw(st.booleans()):
        now = int(time.time()) if kind == TIMESTAMP else 0
        offset = st.sampled_from([0, 1, 60, 3600]) | st.integers(-10, 90 * 86_400)
        message.seconds = now + draw(offset)  # type: ignore[attr-defined]
    elif fields:
        few = st.sets(st.integers(0, len(fields) - 1), max_size=3)
        for number in sorted(draw(few)):
            draw(changed_field(message, fields[number]))
    return message


@st.composite
def changed_field(draw: st.DrawFn, message: Message, field: Any) -> None:
    """Set one field of the message. A mask gets names of fields of the message."""
    if field.message_type is None:
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(values_of(field), max_size=3)))
        else:
            setattr(message, field.name, draw(values_of(field)))
    elif field.message_type.GetOptions().map_entry:
        texts = st.sampled_from(TEXTS_OF_FIELDS["labels"]) | TEXT
        getattr(message, field.name).update(draw(st.dictionaries(texts, texts, max_size=3)))
    elif field.is_repeated:
        for _ in range(draw(st.integers(1, 3))):
            draw(changed(getattr(message, field.name).add()))
    elif field.message_type.full_name == FIELD_MASK:
        paths = st.sampled_from(list(mask_paths(message))) | TEXT
        getattr(message, field.name).paths.extend(draw(st.lists(paths, max_size=3)))
    else:
        child = getattr(message, field.name)
        child.SetInParent()
        draw(changed(child))


def mask_paths(request: Message) -> Iterator[str]:
    """The names of the fields of a request, and of those of its messages."""
    for field in request.DESCRIPTOR.fields:
        yield field.name
        if field.message_type is not None:
            for child in field.message_type.fields:
                yield from (child.name, f"{field.name}.{child.name}")


@pytest.fixture(scope="module")
async def server(database: Database, webhook_keys: Path) -> AsyncIterator[Server]:
    """A server that accepts all the streams of these tests from one device, and webhooks."""
    async with running_webhook_server(
        database, webhook_keys, RecordingSender(), JOBS_MAX_DEVICE_STREAMS="1000"
    ) as server:
        yield server


NAMES = {
    "job_id": "j",
    "device_id": "d",
    "group_id": "g",
    "webhook_id": "w",
    "document_type": "x",
    "selector": "group=g",
    "url": URL,
}


async def new_tenant(database: Database, server: Server) -> str:
    """Create a tenant with the device "d" in the group "g", jobs, events and a webhook."""
    operator = server.operator(uuid.uuid4().hex, "olivia")
    await database.add_devices(operator.tenant, ["d", "e"], group="g")
    await operator.create(job_id="j", target_all=True, labels={"model": "x"})
    gate = pb.Gate(require_approval=True)
    stages = [pb.Stage(selector="device_id=d", gate=gate), pb.Stage(remainder=True)]
    retry = pb.RetryPolicy(rules=[pb.RetryRule(max_attempts=2)])
    await operator.create(
        job_id="r", target_all=True, rollout=pb.Rollout(stages=stages), retry_policy=retry
    )
    await WebhookCaller.on(server, operator.tenant).create()
    await database.owner.execute(
        "UPDATE jobs.webhooks SET webhook_id = 'w' WHERE tenant_id = $1", operator.tenant
    )
    return operator.tenant


async def test_fuzzed_calls_are_those_of_the_contract(server: Server) -> None:
    """The calls come from the reflection of the server, so a new one is fuzzed, too."""
    listed = {rpc.path for rpc in await list_rpcs(server.channel)}

    assert listed == {
        f"/{service.full_name}/{method.name}"
        for module in (jobs_pb2, fleet_pb2, events_pb2, device_jobs_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


@pytest.mark.slow
@examples(40, factor=3)
@given(data=st.data())
async def test_generated_requests_cause_no_internal_error(
    server: Server, database: Database, data: st.DataObject
) -> None:
    tenant = await new_tenant(database, server)
    rpcs = await list_rpcs(server.channel)
    for _ in range(data.draw(st.integers(1, 10), "calls")):
        rpc: Rpc = data.draw(st.sampled_from(rpcs), "rpc")
        bases = [rpc.new_request(), *sample_requests(rpc, NAMES)]
        request = data.draw(changed(data.draw(st.sampled_from(bases), "base")), "request")

        result = await rpc.call(server.channel, request, tenant=tenant, device="d", user="u")

        assert result.code not in UNEXPECTED_CODES, str(result)


@pytest.fixture(scope="module")
async def fuzzed(database: Database, server: Server) -> str:
    """A tenant for many calls."""
    return await new_tenant(database, server)


@examples(150, factor=3)
@given(data=st.data())
async def test_random_and_mutated_bytes_cause_no_internal_error(
    server: Server, fuzzed: str, data: st.DataObject
) -> None:
    """Random bytes, and valid requests with some bytes changed, removed or added."""
    rpc: Rpc = data.draw(st.sampled_from(await list_rpcs(server.channel)), "rpc")
    valid = data.draw(st.sampled_from(list(sample_requests(rpc, NAMES)))).SerializeToString()
    at = data.draw(st.integers(0, len(valid)))
    mutated = valid[:at] + data.draw(st.binary(max_size=3)) + valid[at + data.draw(INT32) % 3 :]
    raw = data.draw(st.binary(max_size=60) | st.just(mutated), "bytes")

    result = await rpc.call(server.channel, raw, tenant=fuzzed, device="d")

    assert result.code not in UNEXPECTED_CODES, str(result)


# More connections per test than the tolerance of resource_limits, so that a leak is noticed.
CONNECTIONS = 5

OPENING = PREFACE + frame(SETTINGS)

GARBAGE = {
    "nothing": b"",
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303"),
    "half a preface": PREFACE[:10],
    "no settings": PREFACE + frame(DATA, 0, 1, b"x"),
    "a frame that is too long": OPENING + b"\xff\xff\xff" + bytes(6) + bytes(70000),
    "a frame of an unknown type": OPENING + frame(200, 255, 1, b"x" * 100),
    "headers that do not decompress": OPENING + frame(HEADERS, 4, 1, b"\xff" * 50),
    "an even stream": OPENING + frame(HEADERS, 4, 2, b""),
    "data of an unopened stream": OPENING + frame(DATA, 0, 7, b"x"),
    "headers without end": OPENING + frame(HEADERS, 0, 1, b"\0\1a\1b") + frame(9, 0, 1, b"") * 200,
    "streams opened and reset": OPENING
    + b"".join(frame(HEADERS, 4, n, b"\x83") + frame(3, 0, n, bytes(4)) for n in range(1, 2001, 2)),
}


async def send_garbage(server: Server, garbage: bytes) -> None:
    """Send bytes to the server, half-close, and read until the server closes the connection."""
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with suppress(OSError):
        writer.write(garbage)
        writer.write_eof()
        while await reader.read(65536):
            pass
    await close(writer)


def open_files() -> int:
    """The number of files and sockets that this process has open."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


async def check_released(server: Server, limits: tuple[int, int]) -> None:
    """Wait until files and tasks are within the limits, and check that the server responds."""
    await wait_until_true(
        lambda: open_files() <= limits[0] and len(asyncio.all_tasks()) <= limits[1]
    )
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await server.operator("any").get("missing")


async def check_garbage(server: Server, garbage: bytes) -> None:
    """Send bytes on several connections, and check that the server releases them."""
    limits = await resource_limits(server)

    async with asyncio.timeout(30):
        await asyncio.gather(*(send_garbage(server, garbage) for _ in range(CONNECTIONS)))

    await check_released(server, limits)


async def resource_limits(server: Server) -> tuple[int, int]:
    """Return the numbers of open files and tasks, plus 2, as limits for the end of a test."""
    await check_released(server, (10**6, 10**6))
    return open_files() + 2, len(asyncio.all_tasks()) + 2


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_connection_with_garbage_leaks_nothing(server: Server, garbage: bytes) -> None:
    await check_garbage(server, garbage)


@examples(40, factor=3)
@given(
    frames=st.lists(
        st.builds(
            frame,
            st.integers(0, 12),
            st.integers(0, 255),
            st.sampled_from([0, 1, 1, 3, 2, 2**31 - 1]),
            st.binary(max_size=40),
        ),
        max_size=6,
    ),
    tail=st.binary(max_size=20),
)
async def test_connection_with_random_frames_leaks_nothing(
    server: Server, frames: list[bytes], tail: bytes
) -> None:
    await check_garbage(server, OPENING + b"".join(frames) + tail)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"\0\xff\xff\xff\xff",
        b"\1\0\0\0\1x",
        b"\2\0\0\0\0",
        message(pb.GetJobRequest()) * 2,
        message(pb.GetJobRequest(job_id="j"))[:-1],
    ],
    ids=["none", "cut", "4 GiB", "compressed", "flags", "two", "short"],
)
async def test_call_with_a_badly_framed_message_leaks_nothing(server: Server, body: bytes) -> None:
    limits = await resource_limits(server)

    for _ in range(CONNECTIONS):
        async with connection(server.address) as client, asyncio.timeout(30):
            client.open(1, "/fleet.jobs.v1.JobService/GetJob", {"x-tenant-id": "any"})
            # The response to the ping shows that the server has processed the data frame.
            client.writer.write(frame(DATA, 1, 1, body) + frame(PING, payload=b"seen all"))
            async for received in client.frames():
                if received.payload == b"seen all":
                    break

    await check_released(server, limits)
