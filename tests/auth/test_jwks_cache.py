"""The cache of verification keys: refreshes, unknown key ids, and outages."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError

from tests.auth.support import JWT_SETTINGS, NEW, OLD, JwksEndpoint, has_key, load_keys, write_jwks
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.health import is_healthy
from tests.support.identities import claims, jwks, new_key, replace_file, token
from tests.support.metrics import METRICS_ON, scrape, scrape_until
from tests.support.server import DEFAULT_OPTIONS, running_server, starting_server
from tests.support.waiting import wait_until, wait_until_true

PRIVATE_KEY = "contains a private key or a secret; use public keys only"


async def test_file_is_read_again_when_a_token_has_an_unknown_kid(tmp_path: Path) -> None:
    path = write_jwks(tmp_path, OLD)
    keys = await load_keys(path)
    replace_file(path, jwks(NEW).encode())

    assert await has_key(keys, "new")
    assert not await has_key(keys, "old")


async def test_last_keys_stay_in_use_when_refresh_fails(endpoint: JwksEndpoint) -> None:
    keys = await load_keys(endpoint.url, refresh_interval=0.01)
    refreshing = asyncio.create_task(keys.run())
    for status, body in ((500, b""), (200, b"<html>"), (200, b'{"keys": 5}'), (200, b"[" * 9999)):
        endpoint.status, endpoint.body = status, body
        before = endpoint.requests

        async def is_fetched_again(before: int = before) -> bool:
            return endpoint.requests > before + 1

        await wait_until(is_fetched_again)
        assert await has_key(keys, "old")
    endpoint.status, endpoint.body = 200, jwks(NEW).encode()
    await wait_until(lambda: has_key(keys, "new"))
    refreshing.cancel()
    await asyncio.wait({refreshing})


@pytest.mark.parametrize(
    ("jwks_text", "problem"),
    [
        (jwks(NEW, new_key(key_id="new")), "has two keys with the kid 'new'"),
        (json.dumps({"keys": [NEW.as_dict(private=True)]}), PRIVATE_KEY),
    ],
)
async def test_last_keys_stay_in_use_when_new_key_set_is_rejected(
    endpoint: JwksEndpoint, caplog: pytest.LogCaptureFixture, jwks_text: str, problem: str
) -> None:
    keys = await load_keys(endpoint.url)
    endpoint.body = jwks_text.encode()

    assert not await has_key(keys, "new")
    assert await has_key(keys, "old")
    [line] = caplog.messages
    assert line.endswith(f"the last keys stay in use: {endpoint.url}: {problem}")


async def test_lookup_of_an_unknown_kid_returns_at_its_timeout_when_the_endpoint_hangs(
    endpoint: JwksEndpoint,
) -> None:
    keys = await load_keys(endpoint.url, unknown_key_timeout=0.01)
    endpoint.responds.clear()

    # The endpoint hangs for longer than this timeout.
    async with asyncio.timeout(10):
        assert not any(await asyncio.gather(*(has_key(keys, f"made up {n}") for n in range(20))))
    endpoint.responds.set()


async def test_unknown_kids_cause_at_most_one_fetch_per_interval(endpoint: JwksEndpoint) -> None:
    keys = await load_keys(endpoint.url)
    assert endpoint.requests == 1

    for number in range(50):
        assert not await has_key(keys, f"made up {number}")

    assert endpoint.requests == 2


async def test_new_key_is_found_after_the_interval_when_made_up_kids_have_used_up_the_fetch(
    endpoint: JwksEndpoint,
) -> None:
    now = 0.0
    keys = await load_keys(endpoint.url, unknown_key_interval=30, clock=lambda: now)
    assert not await has_key(keys, "made up")
    endpoint.body = jwks(NEW).encode()
    now = 29.9
    assert not await has_key(keys, "new")

    now = 30.0
    assert not await has_key(keys, "made up as well")
    assert await has_key(keys, "new")
    assert endpoint.requests == 3


async def test_concurrent_calls_share_one_fetch_when_kid_is_unknown(endpoint: JwksEndpoint) -> None:
    keys = await load_keys(endpoint.url)
    endpoint.body = jwks(OLD, NEW).encode()
    endpoint.responds.clear()
    lookups = [asyncio.create_task(has_key(keys, "new")) for _ in range(20)]

    await wait_until_true(lambda: endpoint.requests == 2)
    # A lookup of a cached key does not wait for the fetch.
    assert await has_key(keys, "old")
    endpoint.responds.set()
    assert all(await asyncio.gather(*lookups))
    assert endpoint.requests == 2


async def test_calls_are_served_when_too_many_calls_with_made_up_kids_wait_for_the_endpoint(
    database: Database, endpoint: JwksEndpoint, tenant: str
) -> None:
    variables = JWT_SETTINGS | {"JOBS_JWT_KEYS": endpoint.url, "JOBS_MAX_CALLS": "20"}
    async with running_server(database.request_dsn, **variables) as server:
        known = server.bearer(token(OLD, claims(tenant, "viewer")))
        unknown = server.bearer(token(OLD, claims(tenant, "viewer"), kid="made up"))
        endpoint.responds.clear()
        calls = [asyncio.create_task(unknown.list()) for _ in range(40)]

        await wait_until_true(lambda: sum(call.done() for call in calls) >= 20)
        # The others wait for the endpoint, for up to a second.
        assert not (await known.list()).jobs
        endpoint.responds.set()
        errors = await asyncio.gather(*calls, return_exceptions=True)
    codes = {error.code() for error in errors if isinstance(error, AioRpcError)}
    assert codes == {StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAUTHENTICATED}


@pytest.mark.slow
async def test_server_is_not_ready_until_keys_can_be_fetched(
    database: Database, endpoint: JwksEndpoint, tenant: str
) -> None:
    endpoint.status = 503
    variables = JWT_SETTINGS | {"JOBS_JWT_KEYS": endpoint.url, "JOBS_JWT_REFRESH_INTERVAL": "1"}
    async with starting_server(database.request_dsn, **variables) as server:
        caller = server.bearer(token(OLD, claims(tenant, "viewer")))
        assert not await is_healthy(server.channel)
        await expect_error("KEYS_UNAVAILABLE", caller.list())

        endpoint.status = 200
        await wait_until(lambda: is_healthy(server.channel))
        assert not (await caller.list()).jobs


async def test_fetch_fails_when_url_redirects_or_body_is_too_large(endpoint: JwksEndpoint) -> None:
    other = JwksEndpoint(OLD)
    try:
        endpoint.status, endpoint.headers = 302, {"Location": other.url}
        assert not (await load_keys(endpoint.url)).has_keys
        assert other.requests == 0
        endpoint.status, endpoint.headers = 200, {}
        endpoint.body = jwks(OLD).encode() + b" " * 300_000
        assert not (await load_keys(endpoint.url)).has_keys
    finally:
        other.close()


@pytest.mark.slow
async def test_age_of_the_keys_grows_while_refreshes_fail(
    database: Database, endpoint: JwksEndpoint
) -> None:
    settings = JWT_SETTINGS | METRICS_ON | {"JOBS_JWT_KEYS": endpoint.url}
    settings |= {"JOBS_JWT_REFRESH_INTERVAL": "1"}
    options = replace(DEFAULT_OPTIONS, metrics_max_age=0.0)
    async with running_server(database.request_dsn, options, **settings) as server:
        first = await scrape(server.app.metrics_address)
        endpoint.status = 500
        failures = "jobs_jwks_refresh_failures_total"
        read = await scrape_until(server.app.metrics_address, lambda read: read.value(failures) > 0)

    assert first.value("jobs_jwks_keys") == read.value("jobs_jwks_keys") == 1
    assert "jobs_jwks_refresh_failures" in first.families
    assert read.value("jobs_jwks_age_seconds") >= 1
