"""Rotation and revocation of verification keys, and the cache of verified tokens."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.auth.jwt import JwtAuthenticator
from jobs_grpc.config import JwtConfig
from jobs_grpc.errors import InvalidToken
from tests.auth.support import (
    JWT_SETTINGS,
    NEW,
    OLD,
    JwksEndpoint,
    has_key,
    is_accepted,
    load_keys,
    write_jwks,
)
from tests.support.callers import read_to_end
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.identities import AUDIENCE, ISSUER, claims, jwks, new_key, replace_file, token
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT, wait_until, wait_until_true

CONFIG = JwtConfig(issuer=ISSUER, audience=AUDIENCE, leeway=0)


@pytest.fixture
async def server(database: Database, endpoint: JwksEndpoint) -> AsyncIterator[Server]:
    """A server that fetches the keys from the endpoint every second."""
    variables = JWT_SETTINGS | {"JOBS_JWT_KEYS": endpoint.url, "JOBS_JWT_REFRESH_INTERVAL": "1"}
    async with running_server(database.request_dsn, **variables) as running:
        yield running


async def test_new_key_is_accepted_and_old_key_is_rejected_after_rotation(
    server: Server, endpoint: JwksEndpoint, tenant: str
) -> None:
    old = server.bearer(token(OLD, claims(tenant, "viewer")))
    await old.list()
    await old.list()  # now from the cache of verified tokens

    endpoint.body = jwks(NEW).encode()
    new = server.bearer(token(NEW, claims(tenant, "viewer")))

    await wait_until(lambda: is_accepted(new))
    failure = await expect_error("INVALID_TOKEN", old.list())
    assert failure.message == "The token is signed with an unknown key"


@pytest.mark.slow
async def test_stream_ends_and_cached_token_is_rejected_when_their_key_is_revoked(
    database: Database, server: Server, endpoint: JwksEndpoint, tenant: str
) -> None:
    await database.add_devices(tenant, ["d"])
    endpoint.body = jwks(OLD, NEW).encode()
    new = server.bearer(token(NEW, claims(tenant, "operator")))
    await wait_until(lambda: is_accepted(new))
    await new.create(job_id="j", target_all=True)
    old = token(OLD, claims(tenant, "viewer", "device", device_id="d"))
    other_stream, revoked_stream = (
        cast(Any, caller.stub).WatchJob(
            pb.WatchJobRequest(job_id="j"), metadata=caller.metadata, timeout=TIMEOUT
        )
        for caller in (new, server.bearer(old))
    )
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)
    reports = stub.ReportExecutions(metadata=(("authorization", f"Bearer {old}"),), timeout=TIMEOUT)
    update = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.IN_PROGRESS)
    await reports.write(device_pb.ReportExecutionsRequest(report=update))
    assert (await reports.read()).execution.device_id == "d"
    for stream in (other_stream, revoked_stream):
        assert (await stream.read()).job.job_id == "j"
    await server.bearer(old).list()

    endpoint.body = jwks(NEW).encode()

    for stream in (revoked_stream, reports):
        failure = await expect_error("INVALID_TOKEN", read_to_end(stream))
        assert failure.message == "The token is signed with a key that was revoked"
    assert not await is_accepted(server.bearer(old))
    assert not other_stream.done()
    await new.cancel("j", force=True)
    await read_to_end(other_stream)
    assert await other_stream.code() is StatusCode.OK


async def test_key_is_revoked_when_its_kid_is_given_to_another_key(tmp_path: Path) -> None:
    path = write_jwks(tmp_path, OLD, NEW)
    keys = await load_keys(path)
    authenticator = JwtAuthenticator(keys, CONFIG)
    replaced, kept = (
        (("authorization", f"Bearer {token(key, claims('t', 'viewer'))}"),) for key in (OLD, NEW)
    )
    caller = await authenticator.authenticate(replaced)
    other = await authenticator.authenticate(kept)
    revoked_before = caller.revoked

    replace_file(path, jwks(new_key(key_id="old"), NEW).encode())
    await has_key(keys, "unknown, so that the keys are refreshed")

    assert (revoked_before, caller.revoked) == (False, True)
    with pytest.raises(InvalidToken, match="has an invalid signature"):
        await authenticator.authenticate(replaced)
    # Tokens of other keys are still cached.
    assert await authenticator.authenticate(kept) is other


async def test_key_is_not_revoked_when_only_its_x5t_changes(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [OLD.as_dict(private=False) | {"x5t": "a"}]}))
    keys = await load_keys(path)
    signed = (("authorization", f"Bearer {token(OLD, claims('t', 'viewer'))}"),)
    caller = await JwtAuthenticator(keys, CONFIG).authenticate(signed)

    renewed = json.dumps({"keys": [OLD.as_dict(private=False) | {"x5t": "b"}]})
    replace_file(path, renewed.encode())
    await has_key(keys, "unknown, so that the keys are refreshed")

    assert not caller.revoked


async def test_all_keys_are_revoked_when_key_set_is_empty(endpoint: JwksEndpoint) -> None:
    keys = await load_keys(endpoint.url, refresh_interval=0.01)
    refreshing = asyncio.create_task(keys.run())
    endpoint.body = b'{"keys": []}'

    await wait_until_true(lambda: not keys.has_keys)
    assert not await has_key(keys, "old")
    refreshing.cancel()
    await asyncio.wait({refreshing})


async def test_verified_tokens_are_cached_up_to_a_maximum(tmp_path: Path) -> None:
    keys = await load_keys(write_jwks(tmp_path, OLD))
    authenticator = JwtAuthenticator(keys, CONFIG, max_cached_tokens=3)
    tokens = [token(OLD, claims("t", "viewer", jti=str(number))) for number in range(10)]
    bearers = [(("authorization", f"Bearer {text}"),) for text in tokens]

    callers = [await authenticator.authenticate(bearer) for bearer in bearers]

    for index in (7, 8, 9):
        assert await authenticator.authenticate(bearers[index]) is callers[index]
    assert await authenticator.authenticate(bearers[6]) is not callers[6]


@pytest.mark.slow
async def test_cached_token_is_rejected_when_it_expires(tmp_path: Path) -> None:
    authenticator = JwtAuthenticator(await load_keys(write_jwks(tmp_path, OLD)), CONFIG)
    expiring = claims("t", "viewer", exp=int(time.time()) + 1)
    bearer = (("authorization", f"Bearer {token(OLD, expiring)}"),)

    async def has_expired() -> bool:
        try:
            await authenticator.authenticate(bearer)
        except InvalidToken as e:
            return str(e) == "The token has expired"
        return False

    await wait_until(has_expired)
    assert time.time() >= expiring["exp"]
