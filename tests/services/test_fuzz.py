"""Generated requests, raw bytes and HTTP/2 garbage: no defect, no leak, and it serves on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from tests.support.callers import Operator
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
from tests.support.rpcs import STRUCT, Rpc, list_rpcs, sample_requests
from tests.support.scale import examples
from tests.support.server import Server, running_server
from tests.support.waiting import wait_until

DEFECTS = {StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.UNAVAILABLE, StatusCode.CANCELLED}

# Names that are there as often as any others.
TEXT = st.sampled_from(["j", "d", "g", ""]) | st.text(max_size=20)

INT32 = st.integers(-3, 5) | st.integers(-(2**31), 2**31 - 1)

VALUES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: TEXT,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: INT32,
    FieldDescriptor.TYPE_ENUM: INT32,
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
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


@st.composite
def messages(draw: st.DrawFn, made: Message) -> Message:
    """The message, with some of its fields set to anything."""
    fields: Any = made.DESCRIPTOR.fields
    for field in fields:
        if not draw(st.booleans()):
            continue
        if field.message_type is not None and field.message_type.full_name == STRUCT:
            getattr(made, field.name).update(draw(STRUCTS))
        elif field.message_type is not None:
            inner = getattr(made, field.name)
            inner.SetInParent()
            draw(messages(inner))
        elif field.is_repeated:
            getattr(made, field.name).extend(draw(st.lists(VALUES[field.type], max_size=3)))
        else:
            setattr(made, field.name, draw(VALUES[field.type]))
    return made


@pytest.fixture(scope="module")
async def server(database: Database) -> AsyncIterator[Server]:
    """A server that takes all of them from one device."""
    async with running_server(database.request_dsn, JOBS_MAX_DEVICE_STREAMS="1000") as server:
        yield server


@pytest.fixture(scope="module")
async def fuzzed(database: Database, server: Server) -> Operator:
    """A tenant with the device "d" in the group "g", and the job "j"."""
    operator = server.operator("fuzzed")
    await database.add_devices(operator.tenant, ["d"], group="g")
    await operator.create(job_id="j", target_all=True)
    return operator


@examples(150)
@given(data=st.data())
async def test_no_generated_request_meets_a_defect(
    server: Server, fuzzed: Operator, data: st.DataObject
) -> None:
    rpc: Rpc = data.draw(st.sampled_from(await list_rpcs(server.channel)), "rpc")
    request = data.draw(messages(rpc.new_request()), "request")

    answer = await rpc.call(server.channel, request, tenant=fuzzed.tenant, device="d")

    assert answer.code not in DEFECTS, str(answer)


@examples(150)
@given(data=st.data())
async def test_no_bytes_in_place_of_a_message_meet_a_defect(
    server: Server, fuzzed: Operator, data: st.DataObject
) -> None:
    """Bytes of any kind, and requests with a byte changed, left out or put in."""
    rpc: Rpc = data.draw(st.sampled_from(await list_rpcs(server.channel)), "rpc")
    names = {"job_id": "j", "device_id": "d", "group_id": "g", "document_type": "x"}
    good = data.draw(st.sampled_from(list(sample_requests(rpc, names)))).SerializeToString()
    at = data.draw(st.integers(0, len(good)))
    mutated = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(INT32) % 3 :]
    raw = data.draw(st.binary(max_size=60) | st.just(mutated), "bytes")

    answer = await rpc.call(server.channel, raw, tenant=fuzzed.tenant, device="d")

    assert answer.code not in DEFECTS, str(answer)


# At once: more than a leak could hide among what comes and goes.
CONNECTIONS = 5

OPENING = PREFACE + frame(SETTINGS)

GARBAGE = {
    "nothing": b"",
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303"),
    "half a preface": PREFACE[:10],
    "no settings": PREFACE + frame(DATA, 0, 1, b"x"),
    "a frame that is too long": OPENING + b"\xff\xff\xff" + bytes(6) + bytes(70000),
    "a frame of no kind": OPENING + frame(200, 255, 1, b"x" * 100),
    "headers that do not decompress": OPENING + frame(HEADERS, 4, 1, b"\xff" * 50),
    "an even stream": OPENING + frame(HEADERS, 4, 2, b""),
    "data of no stream": OPENING + frame(DATA, 0, 7, b"x"),
    "headers without end": OPENING + frame(HEADERS, 0, 1, b"\0\1a\1b") + frame(9, 0, 1, b"") * 200,
    "streams opened and reset": OPENING
    + b"".join(frame(HEADERS, 4, n, b"\x83") + frame(3, 0, n, bytes(4)) for n in range(1, 2001, 2)),
}


async def throw(server: Server, garbage: bytes) -> None:
    """Send bytes to the port, and wait until the server has closed, or seen them all."""
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with suppress(OSError):
        writer.write(garbage)
        writer.write_eof()
        while await reader.read(65536):
            pass
    await close(writer)


def descriptors() -> int:
    """How many files and sockets this process has open."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


async def settle(server: Server, limit: tuple[int, int]) -> None:
    """Wait until there are no more descriptors and tasks than that."""

    async def finalized() -> bool:
        return descriptors() <= limit[0] and len(asyncio.all_tasks()) <= limit[1]

    await wait_until(finalized)
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await server.operator("any").get("nowhere")


async def baseline(server: Server) -> tuple[int, int]:
    """What there may be after a test: as now, and two that come and go by themselves."""
    await settle(server, (10**6, 10**6))
    return descriptors() + 2, len(asyncio.all_tasks()) + 2


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_at_the_port_ends_with_its_connection(server: Server, garbage: bytes) -> None:
    before = await baseline(server)

    async with asyncio.timeout(30):
        await asyncio.gather(*(throw(server, garbage) for _ in range(CONNECTIONS)))

    await settle(server, before)


@examples(40)
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
async def test_frames_of_any_kind_end_with_their_connection(
    server: Server, frames: list[bytes], tail: bytes
) -> None:
    before = await baseline(server)

    async with asyncio.timeout(30):
        garbage = OPENING + b"".join(frames) + tail
        await asyncio.gather(*(throw(server, garbage) for _ in range(CONNECTIONS)))

    await settle(server, before)


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
async def test_a_call_whose_message_is_not_framed_right_is_the_callers_loss(
    server: Server, body: bytes
) -> None:
    before = await baseline(server)

    for _ in range(CONNECTIONS):
        async with connection(server.address) as client, asyncio.timeout(30):
            client.open(1, "/fleet.jobs.v1.JobService/GetJob", {"x-tenant-id": "any"})
            # What comes after it says that the server has seen it.
            client.writer.write(frame(DATA, 1, 1, body) + frame(PING, payload=b"seen all"))
            async for sent in client.frames():
                if sent.payload == b"seen all":
                    break

    await settle(server, before)
