"""Caches the public keys that verify tokens, and refreshes them."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.error import URLError

from joserfc.jwk import Key

from jobs_grpc.auth import jwks_fetch
from jobs_grpc.auth.jwks_parser import KeySet, is_same, parse_key_set, supports
from jobs_grpc.auth.revocation import Revocation
from jobs_grpc.errors import Limit, LimitExceeded

logger = logging.getLogger(__name__)

# Seconds until a failed refresh is retried, if the refresh interval is not shorter.
_RETRY_INTERVAL = 10.0

_RETRY_AFTER_SECONDS = 1


class JwksError(Exception):
    """The keys cannot be read or are not usable. The message is one line."""


class CachedKey(NamedTuple):
    """A key, and its revocation for when a new key set lacks the key or changes it."""

    key: Key
    revocation: Revocation


class JwksCache:
    """The keys of a file or URL, refreshed every `refresh_interval` seconds.

    A token with an unknown key id triggers a refresh as well, at most every
    `unknown_key_interval` seconds, or every `refresh_interval` if that is shorter. A call waits
    at most `unknown_key_timeout` seconds for it, and at most half of `max_calls` calls wait. If a
    refresh fails, the last keys stay in use.
    """

    def __init__(
        self,
        location: str,
        refresh_interval: float,
        *,
        max_calls: int,
        unknown_key_interval: float = 30.0,
        unknown_key_timeout: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._location = location
        self._refresh_interval = refresh_interval
        self._max_calls = max_calls
        self._unknown_key_interval = min(refresh_interval, unknown_key_interval)
        self._unknown_key_timeout = unknown_key_timeout
        self._clock = clock
        self._keys: dict[str | None, CachedKey] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._unknown_key_refreshed_at = -math.inf
        # Calls that wait for a refresh because of an unknown key id.
        self._waiting = 0
        self._refreshed_at: float | None = None
        self.refresh_failures = 0

    @property
    def key_count(self) -> int:
        """The number of keys."""
        return len(self._keys)

    @property
    def age(self) -> float | None:
        """The seconds since the last refresh that succeeded; None if none has."""
        return None if self._refreshed_at is None else self._clock() - self._refreshed_at

    @property
    def has_keys(self) -> bool:
        """Whether any token can be verified."""
        return bool(self._keys)

    async def load(self) -> None:
        """Read the keys for the first time. Raises JwksError if a file has no usable keys.

        If a URL fails, only a warning is logged: `run` tries it again.
        """
        try:
            await self._refresh()
            problem = f"{self._location} has no keys"
        except JwksError as e:
            problem = str(e)
        if not self.has_keys and not jwks_fetch.is_url(self._location):
            raise JwksError(problem)
        if not self.has_keys:
            logger.warning("cannot verify tokens until JOBS_JWT_KEYS has keys: %s", problem)

    async def run(self) -> None:
        """Refresh the keys at the interval, until canceled."""
        succeeded = self.has_keys
        while True:
            retry_interval = min(self._refresh_interval, _RETRY_INTERVAL)
            await asyncio.sleep(self._refresh_interval if succeeded else retry_interval)
            try:
                await asyncio.shield(self._start_refresh())
                succeeded = True
            except JwksError:
                succeeded = False

    async def find(self, key_id: str | None, algorithm: str) -> CachedKey | None:
        """The key with the id, if it supports the algorithm; None otherwise.

        A sole key also matches a token without a key id and, if the key has no id itself, a token
        with any key id. Raises LimitExceeded if too many calls wait for a refresh.
        """
        if key_id is not None and key_id not in self._keys:
            await self._refresh_for_unknown_key()
        cached = self._keys.get(key_id)
        if cached is None and len(self._keys) == 1 and (key_id is None or None in self._keys):
            [cached] = self._keys.values()
        return cached if cached and supports(cached.key, algorithm) else None

    async def _refresh_for_unknown_key(self) -> None:
        if self._refreshing is None:
            # Without a minimum interval, each key id that a caller makes up would cause a fetch.
            if self._clock() - self._unknown_key_refreshed_at < self._unknown_key_interval:
                return
            self._unknown_key_refreshed_at = self._clock()
        refresh = self._start_refresh()
        # Anyone can make up key ids, and the calls that wait are in flight.
        if self._waiting >= max(1, self._max_calls // 2):
            raise LimitExceeded(Limit.CALLS, self._max_calls, _RETRY_AFTER_SECONDS)
        self._waiting += 1
        try:
            # The timeout keeps calls from waiting for an identity provider that hangs.
            await asyncio.wait({refresh}, timeout=self._unknown_key_timeout)
        finally:
            self._waiting -= 1

    def _start_refresh(self) -> "asyncio.Task[None]":
        """Start a refresh, or join the one that is running."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(self._on_refreshed)
        return self._refreshing

    def _on_refreshed(self, task: "asyncio.Task[None]") -> None:
        self._refreshing = None
        if not task.cancelled() and (error := task.exception()):
            logger.warning("could not read JOBS_JWT_KEYS; the last keys stay in use: %s", error)

    async def _refresh(self) -> None:
        try:
            keys = await asyncio.to_thread(read_keys, self._location)
        except JwksError:
            self.refresh_failures += 1
            raise
        self._refreshed_at = self._clock()
        self._replace(keys)

    def _replace(self, keys: KeySet) -> None:
        """Take over a new key set, and revoke the keys that it lacks or changes."""
        before, self._keys = self._keys, {}
        for key_id, key in keys.items():
            cached = before.get(key_id)
            unchanged = cached and is_same(cached.key, key)
            self._keys[key_id] = cached if cached and unchanged else CachedKey(key, Revocation())
        if self._keys != before:
            count = "1 key" if len(keys) == 1 else f"{len(keys)} keys"
            logger.info("tokens are verified with %s of %s", count, self._location)
        for key_id, cached in before.items():
            if self._keys.get(key_id) is not cached:
                cached.revocation.revoke()


def read_keys(location: str) -> KeySet:
    """Read and parse the keys of a file or URL. Raises JwksError for whatever goes wrong.

    Blocks: call it in a thread.
    """
    try:
        return parse_key_set(jwks_fetch.fetch(location))
    except Exception as e:
        # The content is not under our control, so the parsers may raise anything.
        reason = e.reason if isinstance(e, URLError) else e
        raise JwksError(f"{location}: {' '.join(str(reason).split())}") from None
