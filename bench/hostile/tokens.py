"""Tokens of the attacks on a server that verifies tokens.

The key is made once per run. Processes that the run starts find it in the environment.
"""

import json
import os
import time
from functools import cache
from pathlib import Path

from joserfc import jwk

from tests.support.identities import AUDIENCE, ISSUER, claims, jwks, new_key, token

_VARIABLE = "BENCH_SIGNING_KEY"

_LIFETIME_SECONDS = 3600


def server_variables(folder: Path) -> dict[str, str]:
    """Return the variables of a server that accepts tokens of `make_token`."""
    if _VARIABLE not in os.environ:
        os.environ[_VARIABLE] = json.dumps(new_key().as_dict(private=True))
    path = folder / "jwks.json"
    path.write_text(jwks(_key()))
    return {
        "JOBS_AUTH": "jwt",
        "JOBS_JWT_KEYS": str(path),
        "JOBS_JWT_ISSUER": ISSUER,
        "JOBS_JWT_AUDIENCE": AUDIENCE,
    }


@cache
def make_token(tenant: str, subject: str, *roles: str) -> str:
    """Sign a token. A process gets the same one each time, so that the gateway remembers it."""
    expiry = int(time.time()) + _LIFETIME_SECONDS
    return token(_key(), claims(tenant, *roles, sub=subject, exp=expiry))


def spellings(text: str, tenant: str) -> list[tuple[str, ...]]:
    """Return ten ways to send one token: the fields of a request."""
    schemes = ("Bearer", "bearer", "BEARER", "BeArEr", "Bearer ")
    return [
        (f"Authorization: {scheme} {text}", *tenant_field)
        for scheme in schemes
        for tenant_field in ((), (f"X-Tenant-Id: {tenant}",))
    ]


def _key() -> jwk.RSAKey:
    return jwk.RSAKey.import_key(json.loads(os.environ[_VARIABLE]))
