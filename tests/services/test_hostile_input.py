"""Hostile text through every string of every request, and through metadata: it is only text."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.rpcs import STRUCT, Rpc, is_contract_message, list_rpcs, sample_requests
from tests.support.server import Server, running_server

INJECTIONS = (
    "'; DROP TABLE jobs.jobs; --",
    "' OR '1'='1",
    "j' OR tenant_id <> 'x",
    "') UNION SELECT * FROM jobs.jobs; --",
    "\\'; SELECT pg_sleep(60); --",
    '"; DELETE FROM jobs.job_executions; --',
    "$1",
    "$$; DROP SCHEMA jobs CASCADE; $$",
    "%s{}%(a)s%n",
    "{0.__class__}",
    "%",
    "_",
    "*",
    "null",
    "../../etc/passwd",
    "<script>alert(1)</script>",
)

UNICODE = (
    "\0",
    "a\0b",
    "\r\nx-tenant-id: other",
    "\x1b[31m",
    "\x7f\x85",
    "\u202egnp.exe",
    "\u200b",
    "\ufeff",
    "\ufffe\uffff",
    "e\u0301" * 100,
    "\U0001f469\u200d\U0001f680" * 50,
    "\U0010ffff",
    "İıſK",
    " ",
    "x" * 5000,
)

# What a request may come to, whatever it says.
DOCUMENTED = {
    StatusCode.OK,
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.ALREADY_EXISTS,
    StatusCode.ABORTED,
}

Plant = Callable[[Message, str], None]


def strings(fields: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Plant]]:
    """Each place of a request that takes text: its path, and how to put text there."""
    for field in fields:
        here = (*path, field.name)
        if field.message_type is not None and field.message_type.full_name == STRUCT:
            yield ".".join(here), _planting(here, lambda struct, t: struct.update({t: {"k": [t]}}))
        elif is_contract_message(field):
            yield from strings(field.message_type.fields, here)
        elif field.type == FieldDescriptor.TYPE_STRING:
            yield ".".join(here), _planting(here, None)


def _planting(path: tuple[str, ...], put: Callable[[Any, str], None] | None) -> Plant:
    def plant(request: Message, text: str) -> None:
        inner: Any = request
        for name in path[:-1]:
            inner = getattr(inner, name)
        if put is None:
            setattr(inner, path[-1], text)
        else:
            put(getattr(inner, path[-1]), text)

    return plant


@pytest.fixture(scope="module")
async def server(database: Database) -> AsyncIterator[Server]:
    """A server that takes all of them at once from one device."""
    async with running_server(database.request_dsn, JOBS_MAX_DEVICE_STREAMS="1000") as server:
        yield server


@pytest.fixture
async def bystander(database: Database, server: Server) -> Operator:
    """Another tenant, with a job that nobody is to touch."""
    operator = server.operator(f"bystander-{uuid.uuid4().hex}")
    await database.add_devices(operator.tenant, ["d"])
    await operator.create(job_id="j", target_all=True)
    return operator


@pytest.mark.parametrize("texts", [INJECTIONS, UNICODE], ids=["sql", "unicode"])
async def test_hostile_text_is_only_text_wherever_it_stands(
    database: Database, server: Server, operator: Operator, bystander: Operator, texts: Any
) -> None:
    await database.add_devices(operator.tenant, ["d"], group="g")
    await operator.create(job_id="j", target_all=True)
    good = {"job_id": "j", "device_id": "d", "group_id": "g", "document_type": "x"}
    places = 0

    async def send(rpc: Rpc, request: Message, what: str) -> None:
        answer = await rpc.call(server.channel, request, tenant=operator.tenant, device="d")
        assert answer.code in DOCUMENTED, (rpc.path, what, str(answer))

    for rpc in await list_rpcs(server.channel):
        *_, base = sample_requests(rpc, good)
        for path, plant in strings(rpc.method.input_type.fields):
            places += 1
            sent = []
            for text in texts:
                request = rpc.new_request()
                request.CopyFrom(base)
                plant(request, text)
                sent.append(send(rpc, request, f"{path} = {text!r}"))
            await asyncio.gather(*sent)

    assert places >= 25
    assert (await bystander.get("j")).execution_counts.queued == 1


async def test_text_that_is_not_utf_8_is_no_message(server: Server, operator: Operator) -> None:
    for rpc in await list_rpcs(server.channel):
        for field in rpc.method.input_type.fields:
            if field.type == FieldDescriptor.TYPE_STRING:
                tag = field.number << 3 | 2
                raw = bytes([tag, 2]) + b"\xc3\x28"
                answer = await rpc.call(server.channel, raw, tenant=operator.tenant, device="d")
                assert answer.failure.reason == "MALFORMED_REQUEST", (rpc.path, field.name)


@pytest.mark.parametrize("key", ["tenant", "user", "device", "request"])
async def test_hostile_metadata_is_only_text(
    database: Database, server: Server, operator: Operator, key: str
) -> None:
    """What HTTP/2 can carry: visible ASCII."""
    for rpc in await list_rpcs(server.channel):
        *_, request = sample_requests(rpc, {"job_id": "j", "device_id": "d", "document_type": "x"})
        for text in (text for text in INJECTIONS if "\n" not in text):
            metadata = {"tenant": operator.tenant, "device": "d"} | {key: text}
            answer = await rpc.call(server.channel, request, **metadata)
            assert answer.code in DOCUMENTED | {StatusCode.UNAUTHENTICATED}, (rpc.path, text)

    assert await database.owner.fetchval("SELECT to_regclass('jobs.jobs') IS NOT NULL")
