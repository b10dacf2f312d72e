"""Creates the authenticator that JOBS_AUTH selects."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from jobs_grpc.auth.metadata import Metadata, MetadataAuthenticator
from jobs_grpc.auth.principal import Principal
from jobs_grpc.auth.roles import Role
from jobs_grpc.config import Config, ConfigError

if TYPE_CHECKING:
    from jobs_grpc.auth.jwks_cache import JwksCache


class Authenticator(Protocol):
    """Identifies the caller of each RPC by the metadata of the call."""

    async def authenticate(self, metadata: Metadata) -> Principal:
        """Return the caller. Raises a JobsError if the caller cannot be identified."""

    def unavailable_reason(self) -> str | None:
        """Why callers cannot be authenticated at the moment, or None."""

    @property
    def keys(self) -> "JwksCache | None":
        """The keys that verify tokens, or None if tokens are not used."""


@asynccontextmanager
async def open_authenticator(config: Config) -> AsyncIterator[Authenticator]:
    """Yield the authenticator of JOBS_AUTH, and refresh its keys until the block ends.

    Raises ConfigError if the keys are not usable or the extra `jwt` is not installed.
    """
    if config.auth.mode == "metadata":
        yield MetadataAuthenticator(frozenset(map(Role, config.auth.default_roles)))
        return
    keys, authenticator = await _open_jwt_authenticator(config)
    refreshing = asyncio.create_task(keys.run())
    try:
        yield authenticator
    finally:
        refreshing.cancel()
        await asyncio.wait({refreshing})


async def _open_jwt_authenticator(config: Config) -> "tuple[JwksCache, Authenticator]":
    # Imported here because only JOBS_AUTH=jwt needs these packages.
    try:
        from jobs_grpc.auth.jwks_cache import JwksCache, JwksError
        from jobs_grpc.auth.jwt import JwtAuthenticator
    except ImportError as e:
        package = (e.name or "").partition(".")[0]
        raise ConfigError(
            f"JOBS_AUTH=jwt needs the extra jwt ({package} can't be imported): "
            'pip install "jobs-grpc[jwt]"'
        ) from None
    jwt = config.jwt
    keys = JwksCache(jwt.keys or "", jwt.refresh_interval, max_calls=config.limits.max_calls)
    try:
        await keys.load()
    except JwksError as e:
        raise ConfigError(f"JOBS_JWT_KEYS: {e}") from None
    return keys, JwtAuthenticator(keys, jwt)
