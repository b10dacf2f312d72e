"""How callers are known, as configured."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from jobs_grpc.auth.metadata import Metadata, MetadataAuthenticator
from jobs_grpc.auth.principal import Principal, Role
from jobs_grpc.config import Config, ConfigError

if TYPE_CHECKING:
    from jobs_grpc.auth.jwks import Keys


class Authenticator(Protocol):
    """A way to know callers."""

    async def identify(self, metadata: Metadata) -> Principal:
        """The caller whose call carries `metadata`; JobsError if it is not known."""

    def problem(self) -> str | None:
        """Why nobody can be known at the moment; None if that is not so."""


@asynccontextmanager
async def open_authenticator(config: Config) -> AsyncIterator[Authenticator]:
    """The way of JOBS_AUTH, for the time of the block. ConfigError if it can't be gone."""
    if config.auth.mode == "metadata":
        yield MetadataAuthenticator(frozenset(map(Role, config.auth.default_roles)))
        return
    # Only here: tokens need packages that the service otherwise does without.
    try:
        from jobs_grpc.auth.claims import Rules
        from jobs_grpc.auth.jwks import Keys, UnusableKeys
        from jobs_grpc.auth.jwt import Tokens
    except ImportError as e:
        raise ConfigError(
            f"JOBS_AUTH=jwt needs the extra jwt ({e.name} can't be imported): "
            "in a clone of jobs-grpc, pip install '.[jwt]'"
        ) from None
    # Config has seen to it that what may be unset in other modes is set.
    rules = Rules(
        issuer=config.jwt.issuer or "",
        audience=config.jwt.audience or "",
        algorithms=config.jwt.algorithms,
        leeway=config.jwt.leeway,
        tenant_claim=config.jwt.tenant_claim,
        subject_claim=config.jwt.subject_claim,
        roles_claim=config.jwt.roles_claim,
        device_claim=config.jwt.device_claim,
    )
    keys = Keys(config.jwt.keys or "", config.jwt.refresh_interval)
    try:
        await keys.load()
    except UnusableKeys as e:
        raise ConfigError(f"JOBS_JWT_KEYS: {e}") from None
    async with _followed(keys):
        yield Tokens(keys, rules)


@asynccontextmanager
async def _followed(keys: "Keys") -> AsyncIterator[None]:
    following = asyncio.create_task(keys.follow())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait({following})
