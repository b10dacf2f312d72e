"""Schemathesis tests the gateway against its OpenAPI document."""

import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.auth.support import JWT_SETTINGS, KEY
from tests.gateway.support import GATEWAY, Gateway, running_gateway
from tests.support.database import Database
from tests.support.identities import claims, jwks, token
from tests.support.processes import output_of
from tests.support.scale import SCALE, scaled
from tests.support.server import running_server
from tests.support.waiting import TIMEOUT

# A request can be valid by its schema and still fail with 400: the state of a job does not allow
# the call (FAILED_PRECONDITION), a page token is made up, or two fields exclude each other.
# A list that is longer than its limit can also make the body or the URL too large (413, 431).
# Everything else is checked as schemathesis does by default.
SCHEMATHESIS_CONFIG = """
hooks = {hooks}

[checks.negative_data_rejection]
expected-statuses = [
    "400", "401", "403", "404", "405", "406", "409", "410", "413", "415", "422", "428", "429",
    "431", "5xx"
]

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "409", "410", "429", "431"]

# A selector of 4,096 characters can be longer than the 32 KiB that a URL may have, once it is
# escaped. Go's server answers that itself, with a text.
[[operations]]
include-path = "/customer/fleet/devices"
checks.content_type_conformance.enabled = false

# Each device of a batch has its own result: 200 also if one is invalid.
[[operations]]
include-path = "/device/v1/facts"
checks.negative_data_rejection.expected-statuses = ["2xx", "4xx"]

[[operations]]
include-path-regex = "^/device/"
headers.Authorization = "{device}"
"""


@pytest.fixture(scope="module")
async def token_gateway(
    gateway_binary: Path, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """A gateway in front of a server that authenticates callers by tokens."""
    keys = tmp_path_factory.mktemp("keys") / "jwks.json"
    keys.write_text(jwks(KEY))
    settings = JWT_SETTINGS | {"JOBS_JWT_KEYS": str(keys)}
    async with (
        running_server(database.request_dsn, **settings) as server,
        running_gateway(gateway_binary, server.address) as gateway,
    ):
        yield gateway


def authorization(tenant: str, role: str, **identity: str) -> str:
    """Return a header with a token for a day: after its end, all responses would be 401."""
    payload = claims(tenant, role, exp=int(time.time()) + 86_400, **identity)
    return f"Bearer {token(KEY, payload)}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_responses_match_the_openapi_document(
    token_gateway: Gateway, database: Database, tenant: str, tmp_path: Path
) -> None:
    """Send valid and invalid requests: no response is a 5xx or deviates from the document."""
    await database.add_devices(tenant, 3, group="north")
    admin = authorization(tenant, "admin")
    device = authorization(tenant, "device", device_id="d00001")
    job = {"job_id": "a", "document_type": "reboot", "target_all": True}
    async with httpx.AsyncClient(
        base_url=token_gateway.url, headers={"Authorization": admin}, timeout=TIMEOUT
    ) as http:
        assert (await http.post("/customer/jobs", json=job)).status_code == 201
    hooks = json.dumps(str(Path(__file__).with_name("schemathesis_hooks.py")))
    config = SCHEMATHESIS_CONFIG.format(hooks=hooks, device=device)
    (tmp_path / "schemathesis.toml").write_text(config)

    output = await output_of(
        Path(sys.executable).with_name("schemathesis"),
        "--config-file", tmp_path / "schemathesis.toml",
        "run", GATEWAY / "gen" / "openapi.json",
        "--url", token_gateway.url,
        "--header", f"Authorization: {admin}",
        "--exclude-path-regex", ":watch$",  # does not end while the job is in progress
        "--phases", "examples,coverage" + (",stateful,fuzzing" if SCALE > 1 else ""),
        "--mode", "all",
        "--max-examples", str(scaled(10, factor=5)),
        "--seed", "1",
        "--generation-database", "none",
        "--suppress-health-check", "all",
        "--no-color",
        cwd=tmp_path,  # schemathesis writes a cache to its working directory
    )  # fmt: skip

    print(output)
    document = json.loads((GATEWAY / "gen" / "openapi.json").read_text(encoding="utf-8"))
    operations = [path for path, item in document["paths"].items() for _ in item]
    selected = [path for path in operations if not path.endswith(":watch")]
    assert f"{len(selected)} selected / {len(operations)} total" in output
