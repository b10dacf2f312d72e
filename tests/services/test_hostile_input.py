"""SQL injections in every string field and in metadata, and unusual Unicode, have no effect."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.rpcs import FIELD_MASK, STRUCT, Rpc, list_rpcs, sample_requests
from tests.support.scale import SCALE
from tests.support.server import Server
from tests.support.webhooks import URL, RecordingSender, running_webhook_server
from tests.support.world import World

INJECTIONS = (
    *("'; DROP TABLE jobs.jobs; --", "' OR '1'='1", "j' OR tenant_id <> 'x"),
    *("') UNION SELECT * FROM jobs.jobs; --", "\\'; SELECT pg_sleep(60); --"),
    *('"; DELETE FROM jobs.job_executions; --', "$1", "$$; DROP SCHEMA jobs CASCADE; $$"),
    *("%s{}%(a)s%n", "{0.__class__}", "%", "_", "*", "null", "../../etc/passwd"),
    "<script>alert(1)</script>",
)

UNICODE = (
    *("\0", "a\0b", "\r\nx-tenant-id: other", "\x1b[31m", "\x7f\x85", "\u202egnp.exe"),
    *("\u200b", "\ufeff", "\ufffe\uffff", "\U0010ffff", "İıſK", " "),
    *("e\u0301" * 100, "\U0001f469\u200d\U0001f680" * 50, "x" * 5000),
)

# The status codes that the contract documents for these requests.
DOCUMENTED_CODES = {
    StatusCode.OK,
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.ALREADY_EXISTS,
    StatusCode.ABORTED,
    StatusCode.RESOURCE_EXHAUSTED,  # a second evaluation of the tenant at the same time
    StatusCode.PERMISSION_DENIED,  # ApproveStage without a known user, or by the creator
}


def some(texts: Sequence[str], number: int) -> Sequence[str]:
    """The texts that the field or call of this number gets: a quarter in `make test`, else all."""
    return texts[number % 4 :: 4] if SCALE == 1 else texts


SetText = Callable[[Message, str], None]


def text_fields(fields: Any, parents: tuple[str, ...] = ()) -> Iterator[tuple[str, SetText]]:
    """The path of each field of a request that can contain text, and a function to set it."""
    for field in fields:
        path = (*parents, field.name)
        if field.type == FieldDescriptor.TYPE_STRING:
            yield ".".join(path), _setter(path, _set_or_append)
        elif field.message_type is None:
            continue
        elif field.message_type.full_name == STRUCT:
            yield ".".join(path), _setter(path, lambda m, f, t: getattr(m, f).update({t: [t]}))
        elif field.message_type.full_name == FIELD_MASK:
            yield ".".join(path), _setter(path, lambda m, f, t: getattr(m, f).paths.append(t))
        elif field.message_type.GetOptions().map_entry:
            yield f"{'.'.join(path)} (key)", _setter(path, lambda m, f, t: _put(m, f, t, "x"))
            yield f"{'.'.join(path)} (value)", _setter(path, lambda m, f, t: _put(m, f, "x", t))
        elif field.message_type.full_name.startswith("fleet."):
            yield from text_fields(field.message_type.fields, path)


def _setter(path: tuple[str, ...], update: Callable[[Any, str, str], None]) -> SetText:
    """Return a function that sets the field at `path` with `update`.

    If a field on the path is a list, its first message is changed, which is added if there is none.
    """

    def set_text(request: Message, text: str) -> None:
        message: Any = request
        for name in path[:-1]:
            message = getattr(message, name)
            if not isinstance(message, Message):
                message = message[0] if message else message.add()
        update(message, path[-1], text)

    return set_text


def _set_or_append(message: Any, field: str, text: str) -> None:
    if isinstance(getattr(message, field), str):
        setattr(message, field, text)
    else:
        getattr(message, field).append(text)


def _put(message: Any, field: str, key: str, value: str) -> None:
    getattr(message, field)[key] = value


@pytest.fixture(scope="module")
async def server(database: Database, webhook_keys: Path) -> AsyncIterator[Server]:
    """A server that accepts all the streams of these tests from one device, and webhooks."""
    async with running_webhook_server(
        database, webhook_keys, RecordingSender(), JOBS_MAX_DEVICE_STREAMS="1000"
    ) as server:
        yield server


@pytest.fixture
async def bystander(database: Database, server: Server) -> Operator:
    """An operator of another tenant, with a job that must not change."""
    operator = server.operator(f"bystander-{uuid.uuid4().hex}")
    await database.add_devices(operator.tenant, ["d"])
    await operator.create(job_id="j", target_all=True)
    return operator


@pytest.mark.slow
@pytest.mark.parametrize("texts", [INJECTIONS, UNICODE], ids=["sql", "unicode"])
async def test_hostile_text_in_any_field_has_no_effect(
    database: Database, server: Server, operator: Operator, bystander: Operator, texts: Any
) -> None:
    await database.add_devices(operator.tenant, ["d"], group="g")
    await operator.create(job_id="j", target_all=True)
    valid_values = {
        "job_id": "j",
        "device_id": "d",
        "group_id": "g",
        "document_type": "x",
        "url": URL,
    }
    field_count = 0

    async def send(rpc: Rpc, request: Message, description: str) -> None:
        result = await rpc.call(server.channel, request, tenant=operator.tenant, device="d")
        assert result.code in DOCUMENTED_CODES, (rpc.path, description, str(result))

    for rpc in await list_rpcs(server.channel):
        *_, valid_request = sample_requests(rpc, valid_values)
        for path, set_text in text_fields(rpc.method.input_type.fields):
            field_count += 1
            calls = []
            for text in some(texts, field_count):
                request = rpc.new_request()
                request.CopyFrom(valid_request)
                set_text(request, text)
                calls.append(send(rpc, request, f"{path} = {text!r}"))
            await asyncio.gather(*calls)

    assert field_count >= 130
    assert (await bystander.get("j")).execution_counts.queued == 1


async def test_request_is_rejected_when_text_is_not_utf_8(world: World) -> None:
    for rpc in await list_rpcs(world.server.channel):
        for field in rpc.method.input_type.fields:
            if field.type == FieldDescriptor.TYPE_STRING:
                tag = field.number << 3 | 2
                raw = bytes([tag, 2]) + b"\xc3\x28"
                result = await rpc.call(world.server.channel, raw, tenant=world.tenant, device="d")
                assert result.failure.reason == "MALFORMED_REQUEST", (rpc.path, field.name)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["tenant", "user", "device", "request"])
async def test_hostile_text_in_metadata_has_no_effect(world: World, key: str) -> None:
    """Metadata can contain only visible ASCII, so there is no Unicode here."""
    for number, rpc in enumerate(await list_rpcs(world.server.channel)):
        *_, request = sample_requests(rpc, {"job_id": "j", "device_id": "d", "document_type": "x"})
        for text in some(INJECTIONS, number):
            metadata = {"tenant": world.tenant, "device": "d"} | {key: text}
            result = await rpc.call(world.server.channel, request, **metadata)
            assert result.code in DOCUMENTED_CODES | {StatusCode.UNAUTHENTICATED}, (rpc.path, text)

    assert await world.database.owner.fetchval("SELECT to_regclass('jobs.jobs') IS NOT NULL")
