"""The keys that tokens are verified with: rotation, outages, and what is no key."""

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

from jobs_grpc.auth.claims import Rules
from jobs_grpc.auth.jwks import Keys, UnusableKeys
from jobs_grpc.auth.jwt import Tokens
from jobs_grpc.config import ConfigError
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
    replace,
    token,
)
from tests.support.server import Server, running_server, starting_server
from tests.support.waiting import TIMEOUT, wait_until

OLD, NEW = new_key(key_id="old"), new_key(key_id="new")
NOT_PUBLIC = "has a private key or a secret; only public keys belong there"
JWT = {"JOBS_AUTH": "jwt", "JOBS_JWT_ISSUER": ISSUER, "JOBS_JWT_AUDIENCE": AUDIENCE}
RULES = Rules(ISSUER, AUDIENCE, ("RS256",), 0, "tenant_id", "sub", "roles", "device_id")


class Endpoint:
    """A JWKS at an address; what it answers can be changed."""

    def __init__(self) -> None:
        self.body = jwks(OLD).encode()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests = 0
        self.go_on = threading.Event()
        self.go_on.set()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.requests += 1
                endpoint.go_on.wait(30)
                self.send_response(endpoint.status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(endpoint.body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/jwks"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An address with the key OLD."""
    made = Endpoint()
    yield made
    made.close()


async def loaded(source: str | Path, refresh: float = 300) -> Keys:
    """Keys as at the start."""
    keys = Keys(str(source), refresh)
    await keys.load()
    return keys


async def is_known(caller: Operator) -> bool:
    """Whether a caller's token is taken."""
    try:
        await caller.list()
    except grpc.aio.AioRpcError:
        return False
    return True


async def knows(keys: Keys, key_id: str) -> bool:
    """Whether a key is found."""
    return await keys.find(key_id, "RS256") is not None


@pytest.fixture
async def server(database: Database, endpoint: Endpoint) -> AsyncIterator[Server]:
    """A server that reads the endpoint again every second."""
    variables = JWT | {"JOBS_JWT_KEYS": endpoint.address, "JOBS_JWT_REFRESH_INTERVAL": "1"}
    async with running_server(database.request_dsn, **variables) as running:
        yield running


async def test_a_rotated_key_is_taken_and_the_one_before_is_not(
    server: Server, endpoint: Endpoint, tenant: str
) -> None:
    old = server.bearer(token(OLD, claims(tenant, "viewer")))
    await old.list()
    await old.list()  # remembered by now

    endpoint.body = jwks(NEW).encode()
    new = server.bearer(token(NEW, claims(tenant, "viewer")))

    await wait_until(lambda: is_known(new))
    with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN") as failure:
        await old.list()
    assert failure.message == "The token is signed with an unknown key"


async def test_a_key_that_is_withdrawn_is_forgotten_by_the_next_refresh(
    server: Server, endpoint: Endpoint, tenant: str
) -> None:
    caller = server.bearer(token(OLD, claims(tenant, "viewer")))
    await caller.list()
    endpoint.body = jwks(NEW).encode()

    async def is_refused() -> bool:
        return not await is_known(caller)

    await wait_until(is_refused)


async def test_a_stream_ends_when_its_key_is_withdrawn(
    database: Database, server: Server, endpoint: Endpoint, tenant: str
) -> None:
    await database.add_devices(tenant, ["d"])
    endpoint.body = jwks(OLD, NEW).encode()
    new = server.bearer(token(NEW, claims(tenant, "operator")))
    await wait_until(lambda: is_known(new))
    await new.create(job_id="j", target_all=True)
    old = token(OLD, claims(tenant, "viewer", "device", device_id="d"))
    stays, ends = (
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
    for stream in (stays, ends):
        assert (await stream.read()).job.job_id == "j"

    endpoint.body = jwks(NEW).encode()

    async def to_its_end(stream: Any) -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    for stream in (ends, reports):
        with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN") as failure:
            await to_its_end(stream)
        assert failure.message == "The token is signed with a key that was withdrawn"
    assert not stays.done()
    await new.cancel("j", force=True)
    await to_its_end(stays)
    assert await stays.code() is StatusCode.OK


async def test_a_key_that_is_replaced_under_its_name_is_withdrawn(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(OLD, NEW))
    keys = await loaded(path)
    tokens = Tokens(keys, RULES)
    replaced, kept = (
        (("authorization", f"Bearer {token(key, claims('t', 'viewer'))}"),) for key in (OLD, NEW)
    )
    caller, other = await tokens.identify(replaced), await tokens.identify(kept)
    before = caller.revoked

    replace(path, jwks(new_key(key_id="old"), NEW).encode())
    await knows(keys, "unknown, so that they are read again")

    assert (before, caller.revoked) == (False, True)
    with pytest.raises(InvalidToken, match="has a wrong signature"):
        await tokens.identify(replaced)
    # What the others' keys signed need not be verified again.
    assert await tokens.identify(kept) is other


async def test_a_key_of_which_something_else_is_said_is_not_withdrawn(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [OLD.as_dict(private=False) | {"x5t": "a"}]}))
    keys = await loaded(path)
    signed = (("authorization", f"Bearer {token(OLD, claims('t', 'viewer'))}"),)
    caller = await Tokens(keys, RULES).identify(signed)

    renewed = json.dumps({"keys": [OLD.as_dict(private=False) | {"x5t": "b"}]})
    replace(path, renewed.encode())
    await knows(keys, "unknown, so that they are read again")

    assert not caller.revoked


@pytest.mark.parametrize(
    "beside",
    [
        OLD.as_dict(private=False),
        new_key(key_id="old").as_dict(private=False) | {"key_ops": ["encrypt"]},
    ],
    ids=["the same", "for encryption"],
)
async def test_what_stands_beside_a_key_and_is_no_other_to_verify_with(
    tmp_path: Path, beside: dict[str, str]
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [OLD.as_dict(private=False), beside]}))

    assert await knows(await loaded(path), "old")


async def test_a_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(OLD))
    keys = await loaded(path)
    replace(path, jwks(NEW).encode())

    assert await knows(keys, "new")
    assert not await knows(keys, "old")


async def test_an_outage_leaves_the_keys_known_last(endpoint: Endpoint) -> None:
    keys = await loaded(endpoint.address, refresh=0.01)
    following = asyncio.create_task(keys.follow())
    for status, body in ((500, b""), (200, b"<html>"), (200, b'{"keys": 5}'), (200, b"[" * 9999)):
        endpoint.status, endpoint.body = status, body
        before = endpoint.requests

        async def asked(before: int = before) -> bool:
            return endpoint.requests > before + 1

        await wait_until(asked)
        assert await knows(keys, "old")
    endpoint.status, endpoint.body = 200, jwks(NEW).encode()
    await wait_until(lambda: knows(keys, "new"))
    following.cancel()
    await asyncio.wait({following})


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (jwks(NEW, new_key(key_id="new")), "has two keys with the kid 'new'"),
        (json.dumps({"keys": [NEW.as_dict(private=True)]}), NOT_PUBLIC),
    ],
)
async def test_a_set_that_is_refused_leaves_the_keys_known_last(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture, keys: str, says: str
) -> None:
    known = await loaded(endpoint.address)
    endpoint.body = keys.encode()

    assert not await knows(known, "new")
    assert await knows(known, "old")
    [line] = caplog.messages
    assert line.endswith(f"those known last stay: {endpoint.address}: {says}")


async def test_an_empty_set_withdraws_all_keys(endpoint: Endpoint) -> None:
    keys = await loaded(endpoint.address, refresh=0.01)
    following = asyncio.create_task(keys.follow())
    endpoint.body = b'{"keys": []}'

    async def withdrawn() -> bool:
        return not keys.there

    await wait_until(withdrawn)
    assert not await knows(keys, "old")
    following.cancel()
    await asyncio.wait({following})


async def test_a_provider_that_hangs_does_not_hold_calls_with_made_up_keys(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs_grpc.auth.jwks._ASK_TIMEOUT", 0.01)
    keys = await loaded(endpoint.address)
    endpoint.go_on.clear()

    assert not any(await asyncio.gather(*(knows(keys, f"made up {n}") for n in range(20))))
    endpoint.go_on.set()


async def test_unknown_keys_are_asked_for_once_in_a_while(endpoint: Endpoint) -> None:
    keys = await loaded(endpoint.address)
    assert endpoint.requests == 1

    for number in range(50):
        assert not await knows(keys, f"made up {number}")

    assert endpoint.requests == 2


async def test_made_up_keys_hold_up_a_rotated_one_for_a_while_only(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = await loaded(endpoint.address)
    assert not await knows(keys, "made up")
    endpoint.body = jwks(NEW).encode()
    assert not await knows(keys, "new")

    monkeypatch.setattr("jobs_grpc.auth.jwks._ASK_SPACING", 0.1)

    async def is_taken() -> bool:
        await knows(keys, "made up as well")
        return await knows(keys, "new")

    await wait_until(is_taken)
    assert endpoint.requests == 3


async def test_who_asks_for_a_new_key_at_once_waits_for_one_fetch(endpoint: Endpoint) -> None:
    keys = await loaded(endpoint.address)
    endpoint.body = jwks(OLD, NEW).encode()
    endpoint.go_on.clear()
    asking = [asyncio.create_task(knows(keys, "new")) for _ in range(20)]

    async def is_asked() -> bool:
        return endpoint.requests == 2

    await wait_until(is_asked)
    # Who has a known key does not wait.
    assert await knows(keys, "old")
    endpoint.go_on.set()
    assert all(await asyncio.gather(*asking))
    assert endpoint.requests == 2


async def test_without_keys_at_the_start_it_is_not_ready_until_there_are(
    database: Database, endpoint: Endpoint, tenant: str
) -> None:
    endpoint.status = 503
    variables = JWT | {"JOBS_JWT_KEYS": endpoint.address, "JOBS_JWT_REFRESH_INTERVAL": "1"}
    async with starting_server(database.request_dsn, **variables) as server:
        caller = server.bearer(token(OLD, claims(tenant, "viewer")))
        assert not await is_healthy(server.channel)
        with expect_failure(StatusCode.UNAVAILABLE, "KEYS_UNAVAILABLE"):
            await caller.list()

        endpoint.status = 200
        await wait_until(lambda: is_healthy(server.channel))
        assert not (await caller.list()).jobs


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("", "Expecting value"),
        ("[]", 'a JWKS is an object with "keys"'),
        ('{"keys": 1}', 'a JWKS is an object with "keys"'),
        ('{"keys": []}', "has no key"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k"}]}', NOT_PUBLIC),
        ('{"keys": [{"kty": "RSA", "kid": "k"}, 7, {"kty": "RSA", "n": 1, "e": 2}]}', "has no key"),
        (json.dumps({"keys": [OLD.as_dict(private=False, use="enc")]}), "has no key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no key of a known kind"),
        (jwks(OLD, NEW, new_key(key_id="old")), "has two keys with the kid 'old'"),
        (jwks(OLD, new_key(key_id=None), new_key("ES256", None)), "has two keys without a kid"),
        (jwks(NEW)[:-2] + ", " + json.dumps(OLD.as_dict(private=True)) + "]}", NOT_PUBLIC),
        (json.dumps({"keys": [OLD.as_dict(private=True, use="enc")]}), NOT_PUBLIC),
        (json.dumps({"keys": [new_key("EdDSA").as_dict(private=True)]}), NOT_PUBLIC),
        (private_pem(OLD).decode(), NOT_PUBLIC),
        (private_pem(OLD, "p").decode(), NOT_PUBLIC),
        ((pem(OLD) + private_pem(OLD)).decode(), NOT_PUBLIC),
    ],
)
async def test_a_file_without_usable_keys_ends_the_start(
    database: Database, tmp_path: Path, content: str | None, says: str
) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigError) as raised:
        async with starting_server(database.request_dsn, JOBS_JWT_KEYS=str(path), **JWT):
            pass
    assert str(raised.value).startswith(f"JOBS_JWT_KEYS: {path}")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_a_weak_key_is_none(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # the library only warns
        path.write_text(jwks(RSAKey.generate_key(1024, {"kid": "weak"})))

        with pytest.raises(UnusableKeys, match="has no key"):
            await loaded(path)


async def test_an_address_is_not_followed_elsewhere_and_not_read_without_end(
    endpoint: Endpoint,
) -> None:
    other = Endpoint()
    try:
        endpoint.status, endpoint.headers = 302, {"Location": other.address}
        assert not (await loaded(endpoint.address)).there
        assert other.requests == 0
        endpoint.status, endpoint.headers = 200, {}
        endpoint.body = jwks(OLD).encode() + b" " * 300_000
        assert not (await loaded(endpoint.address)).there
    finally:
        other.close()


async def test_a_key_for_another_algorithm_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    elliptic, other = new_key("ES256", "e"), OLD.as_dict(private=False, kid="o", alg="RS512")
    document = json.loads(jwks(OLD, elliptic))
    document["keys"].append(other)
    path.write_text(json.dumps(document))
    keys = await loaded(path)

    assert await keys.find("e", "ES256")
    assert not await keys.find("e", "RS256")
    assert not await keys.find("old", "ES256")
    assert not await keys.find("o", "RS256")


async def test_with_several_keys_a_token_names_its_own(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(OLD, NEW))
    keys = await loaded(path)

    assert await keys.find(None, "RS256") is None


async def test_verified_tokens_are_remembered_up_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(OLD))
    tokens = Tokens(await loaded(path), RULES)
    monkeypatch.setattr("jobs_grpc.auth.jwt._MAX_REMEMBERED", 3)
    said = [claims("t", "viewer", jti=str(number)) for number in range(10)]
    bearers = [(("authorization", f"Bearer {token(OLD, one)}"),) for one in said]

    first = await tokens.identify(bearers[0])
    assert await tokens.identify(bearers[0]) is first
    for bearer in bearers:
        await tokens.identify(bearer)
    assert len(tokens._remembered) == 3
    assert await tokens.identify(bearers[0]) is not first


async def test_a_remembered_token_expires_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(OLD))
    tokens = Tokens(await loaded(path), RULES)
    said = claims("t", "viewer", exp=int(time.time()) + 1)
    bearer = (("authorization", f"Bearer {token(OLD, said)}"),)

    async def has_expired() -> bool:
        try:
            await tokens.identify(bearer)
        except InvalidToken as e:
            return str(e) == "The token has expired"
        return False

    await wait_until(has_expired)
    assert time.time() >= said["exp"]


async def test_without_the_extra_the_start_ends_in_one_line() -> None:
    without = (
        "import sys; sys.modules['joserfc'] = None\n"
        "from jobs_grpc.cli import run; sys.exit(run(['serve']))"
    )
    environ = JWT | {"JOBS_DATABASE_URL": "postgresql://h/d", "JOBS_JWT_KEYS": "keys.pem"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", without, env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()

    assert process.returncode == 2
    assert err.decode() == (
        "jobs-grpc: JOBS_AUTH=jwt needs the extra jwt (joserfc.errors can't be imported):"
        " in a clone of jobs-grpc, pip install '.[jwt]'\n"
    )
