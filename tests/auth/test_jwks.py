"""The cache of verification keys: rotation, outages, and key sets that are rejected."""

import asyncio
import json
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode
from joserfc.errors import SecurityWarning
from joserfc.jwk import RSAKey

from jobs_grpc.auth.jwks import JwksCache, JwksError
from jobs_grpc.auth.jwt import JwtAuthenticator
from jobs_grpc.config import ConfigError, JwtConfig
from jobs_grpc.errors import InvalidToken
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.health import is_healthy
from tests.support.identities import (
    AUDIENCE,
    ISSUER,
    claims,
    jwks,
    new_key,
    pem,
    private_pem,
    replace_file,
    token,
)
from tests.support.server import Server, running_server, starting_server
from tests.support.waiting import TIMEOUT, wait_until

OLD, NEW = new_key(key_id="old"), new_key(key_id="new")
PRIVATE_KEY = "contains a private key or a secret; use public keys only"
JWT = {"JOBS_AUTH": "jwt", "JOBS_JWT_ISSUER": ISSUER, "JOBS_JWT_AUDIENCE": AUDIENCE}
CONFIG = JwtConfig(issuer=ISSUER, audience=AUDIENCE, leeway=0)


class Endpoint:
    """An HTTP server with a JWKS. Tests change its response and count its requests."""

    def __init__(self) -> None:
        self.body = jwks(OLD).encode()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests = 0
        self.responds = threading.Event()
        self.responds.set()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.requests += 1
                endpoint.responds.wait(30)
                self.send_response(endpoint.status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(endpoint.body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """Stop the HTTP server."""
        self.responds.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A JWKS endpoint with the key OLD."""
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


async def load_keys(
    location: str | Path, refresh_interval: float = 300, **options: Any
) -> JwksCache:
    """A cache that has read its keys once."""
    keys = JwksCache(str(location), refresh_interval, **options)
    await keys.load()
    return keys


async def is_accepted(caller: Operator) -> bool:
    """Whether the server accepts the caller's token."""
    try:
        await caller.list()
    except grpc.aio.AioRpcError:
        return False
    return True


async def has_key(keys: JwksCache, key_id: str) -> bool:
    """Whether the cache finds the key."""
    return await keys.find(key_id, "RS256") is not None


@pytest.fixture
async def server(database: Database, endpoint: Endpoint) -> AsyncIterator[Server]:
    """A server that fetches the keys from the endpoint every second."""
    variables = JWT | {"JOBS_JWT_KEYS": endpoint.url, "JOBS_JWT_REFRESH_INTERVAL": "1"}
    async with running_server(database.request_dsn, **variables) as running:
        yield running


async def test_new_key_is_accepted_and_old_key_is_rejected_after_rotation(
    server: Server, endpoint: Endpoint, tenant: str
) -> None:
    old = server.bearer(token(OLD, claims(tenant, "viewer")))
    await old.list()
    await old.list()  # now from the cache of verified tokens

    endpoint.body = jwks(NEW).encode()
    new = server.bearer(token(NEW, claims(tenant, "viewer")))

    await wait_until(lambda: is_accepted(new))
    with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN") as failure:
        await old.list()
    assert failure.message == "The token is signed with an unknown key"


async def test_cached_token_is_rejected_after_refresh_when_its_key_is_revoked(
    server: Server, endpoint: Endpoint, tenant: str
) -> None:
    caller = server.bearer(token(OLD, claims(tenant, "viewer")))
    await caller.list()
    endpoint.body = jwks(NEW).encode()

    async def is_refused() -> bool:
        return not await is_accepted(caller)

    await wait_until(is_refused)


async def test_stream_ends_when_its_key_is_revoked(
    database: Database, server: Server, endpoint: Endpoint, tenant: str
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

    endpoint.body = jwks(NEW).encode()

    async def read_to_end(stream: Any) -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    for stream in (revoked_stream, reports):
        with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN") as failure:
            await read_to_end(stream)
        assert failure.message == "The token is signed with a key that was revoked"
    assert not other_stream.done()
    await new.cancel("j", force=True)
    await read_to_end(other_stream)
    assert await other_stream.code() is StatusCode.OK


async def test_key_is_revoked_when_its_kid_is_given_to_another_key(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(OLD, NEW))
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


async def test_key_is_not_revoked_when_only_its_other_members_change(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [OLD.as_dict(private=False) | {"x5t": "a"}]}))
    keys = await load_keys(path)
    signed = (("authorization", f"Bearer {token(OLD, claims('t', 'viewer'))}"),)
    caller = await JwtAuthenticator(keys, CONFIG).authenticate(signed)

    renewed = json.dumps({"keys": [OLD.as_dict(private=False) | {"x5t": "b"}]})
    replace_file(path, renewed.encode())
    await has_key(keys, "unknown, so that the keys are refreshed")

    assert not caller.revoked


@pytest.mark.parametrize(
    "other",
    [
        OLD.as_dict(private=False),
        new_key(key_id="old").as_dict(private=False) | {"key_ops": ["encrypt"]},
    ],
    ids=["the same", "for encryption"],
)
async def test_duplicate_kid_is_accepted_when_it_is_no_other_verification_key(
    tmp_path: Path, other: dict[str, str]
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [OLD.as_dict(private=False), other]}))

    assert await has_key(await load_keys(path), "old")


async def test_file_is_read_again_when_a_token_has_an_unknown_kid(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(OLD))
    keys = await load_keys(path)
    replace_file(path, jwks(NEW).encode())

    assert await has_key(keys, "new")
    assert not await has_key(keys, "old")


async def test_last_keys_stay_in_use_when_refresh_fails(endpoint: Endpoint) -> None:
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
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture, jwks_text: str, problem: str
) -> None:
    keys = await load_keys(endpoint.url)
    endpoint.body = jwks_text.encode()

    assert not await has_key(keys, "new")
    assert await has_key(keys, "old")
    [line] = caplog.messages
    assert line.endswith(f"the last keys stay in use: {endpoint.url}: {problem}")


async def test_all_keys_are_revoked_when_key_set_is_empty(endpoint: Endpoint) -> None:
    keys = await load_keys(endpoint.url, refresh_interval=0.01)
    refreshing = asyncio.create_task(keys.run())
    endpoint.body = b'{"keys": []}'

    async def has_no_keys() -> bool:
        return not keys.has_keys

    await wait_until(has_no_keys)
    assert not await has_key(keys, "old")
    refreshing.cancel()
    await asyncio.wait({refreshing})


async def test_unknown_kid_does_not_wait_when_provider_hangs(
    endpoint: Endpoint,
) -> None:
    keys = await load_keys(endpoint.url, unknown_key_timeout=0.01)
    endpoint.responds.clear()

    assert not any(await asyncio.gather(*(has_key(keys, f"made up {n}") for n in range(20))))
    endpoint.responds.set()


async def test_unknown_kids_cause_at_most_one_fetch_per_interval(endpoint: Endpoint) -> None:
    keys = await load_keys(endpoint.url)
    assert endpoint.requests == 1

    for number in range(50):
        assert not await has_key(keys, f"made up {number}")

    assert endpoint.requests == 2


async def test_new_key_is_found_after_the_interval_when_made_up_kids_used_the_fetch(
    endpoint: Endpoint,
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


async def test_concurrent_calls_share_one_fetch_when_kid_is_unknown(endpoint: Endpoint) -> None:
    keys = await load_keys(endpoint.url)
    endpoint.body = jwks(OLD, NEW).encode()
    endpoint.responds.clear()
    lookups = [asyncio.create_task(has_key(keys, "new")) for _ in range(20)]

    async def is_fetching() -> bool:
        return endpoint.requests == 2

    await wait_until(is_fetching)
    # A lookup of a cached key does not wait for the fetch.
    assert await has_key(keys, "old")
    endpoint.responds.set()
    assert all(await asyncio.gather(*lookups))
    assert endpoint.requests == 2


async def test_server_is_not_ready_until_keys_can_be_fetched(
    database: Database, endpoint: Endpoint, tenant: str
) -> None:
    endpoint.status = 503
    variables = JWT | {"JOBS_JWT_KEYS": endpoint.url, "JOBS_JWT_REFRESH_INTERVAL": "1"}
    async with starting_server(database.request_dsn, **variables) as server:
        caller = server.bearer(token(OLD, claims(tenant, "viewer")))
        assert not await is_healthy(server.channel)
        with expect_failure(StatusCode.UNAVAILABLE, "KEYS_UNAVAILABLE"):
            await caller.list()

        endpoint.status = 200
        await wait_until(lambda: is_healthy(server.channel))
        assert not (await caller.list()).jobs


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        ("", "Expecting value"),
        ("[]", 'a JWKS is an object with "keys"'),
        ('{"keys": 1}', 'a JWKS is an object with "keys"'),
        ('{"keys": []}', "has no key"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k"}]}', PRIVATE_KEY),
        ('{"keys": [{"kty": "RSA", "kid": "k"}, 7, {"kty": "RSA", "n": 1, "e": 2}]}', "has no key"),
        (json.dumps({"keys": [OLD.as_dict(private=False, use="enc")]}), "has no key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no key of the types"),
        (jwks(OLD, NEW, new_key(key_id="old")), "has two keys with the kid 'old'"),
        (jwks(OLD, new_key(key_id=None), new_key("ES256", None)), "has two keys without a kid"),
        (jwks(NEW)[:-2] + ", " + json.dumps(OLD.as_dict(private=True)) + "]}", PRIVATE_KEY),
        (json.dumps({"keys": [OLD.as_dict(private=True, use="enc")]}), PRIVATE_KEY),
        (json.dumps({"keys": [new_key("EdDSA").as_dict(private=True)]}), PRIVATE_KEY),
        (private_pem(OLD).decode(), PRIVATE_KEY),
        (private_pem(OLD, "p").decode(), PRIVATE_KEY),
        ((pem(OLD) + private_pem(OLD)).decode(), PRIVATE_KEY),
    ],
)
async def test_server_does_not_start_when_key_file_is_not_usable(
    database: Database, tmp_path: Path, content: str | None, problem: str
) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigError) as raised:
        async with starting_server(database.request_dsn, JOBS_JWT_KEYS=str(path), **JWT):
            pass
    assert str(raised.value).startswith(f"JOBS_JWT_KEYS: {path}")
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_key_set_is_rejected_when_its_only_key_is_weak(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # joserfc only warns about weak keys
        path.write_text(jwks(RSAKey.generate_key(1024, {"kid": "weak"})))

        with pytest.raises(JwksError, match="has no key"):
            await load_keys(path)


async def test_fetch_fails_when_url_redirects_or_body_is_too_large(
    endpoint: Endpoint,
) -> None:
    other = Endpoint()
    try:
        endpoint.status, endpoint.headers = 302, {"Location": other.url}
        assert not (await load_keys(endpoint.url)).has_keys
        assert other.requests == 0
        endpoint.status, endpoint.headers = 200, {}
        endpoint.body = jwks(OLD).encode() + b" " * 300_000
        assert not (await load_keys(endpoint.url)).has_keys
    finally:
        other.close()


async def test_key_is_not_found_when_it_is_for_another_algorithm(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    elliptic, other = new_key("ES256", "e"), OLD.as_dict(private=False, kid="o", alg="RS512")
    document = json.loads(jwks(OLD, elliptic))
    document["keys"].append(other)
    path.write_text(json.dumps(document))
    keys = await load_keys(path)

    assert await keys.find("e", "ES256")
    assert not await keys.find("e", "RS256")
    assert not await keys.find("old", "ES256")
    assert not await keys.find("o", "RS256")


async def test_key_is_not_found_when_token_has_no_kid_and_there_are_several(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(OLD, NEW))
    keys = await load_keys(path)

    assert await keys.find(None, "RS256") is None


async def test_verified_tokens_are_cached_up_to_a_maximum(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(OLD))
    authenticator = JwtAuthenticator(await load_keys(path), CONFIG, max_cached_tokens=3)
    tokens = [token(OLD, claims("t", "viewer", jti=str(number))) for number in range(10)]
    bearers = [(("authorization", f"Bearer {text}"),) for text in tokens]

    first = await authenticator.authenticate(bearers[0])
    assert await authenticator.authenticate(bearers[0]) is first
    for bearer in bearers:
        await authenticator.authenticate(bearer)
    assert authenticator.cached_tokens == 3
    assert await authenticator.authenticate(bearers[0]) is not first


async def test_cached_token_is_rejected_when_it_expires(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(OLD))
    authenticator = JwtAuthenticator(await load_keys(path), CONFIG)
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


async def test_serve_fails_with_one_line_when_the_jwt_extra_is_missing() -> None:
    script = (
        "import sys; sys.modules['joserfc'] = None\n"
        "from jobs_grpc.cli import run; sys.exit(run(['serve']))"
    )
    environ = JWT | {"JOBS_DATABASE_URL": "postgresql://h/d", "JOBS_JWT_KEYS": "keys.pem"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()

    assert process.returncode == 2
    assert err.decode() == (
        "jobs-grpc: JOBS_AUTH=jwt needs the extra jwt (joserfc can't be imported):"
        " in a clone of jobs-grpc, pip install '.[jwt]'\n"
    )
