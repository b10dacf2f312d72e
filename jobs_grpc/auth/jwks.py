"""The public keys that tokens are verified with, kept up to date."""

import asyncio
import logging
import math
import time
from typing import NamedTuple
from urllib.error import URLError

from joserfc.jwk import Key

from jobs_grpc.auth import jwks_fetch as source
from jobs_grpc.auth.jwk_set import KeySet, fits, is_same, parse
from jobs_grpc.auth.revocation import Revocation

logger = logging.getLogger(__name__)

# Seconds for which a call waits for keys that may have its token's.
_ASK_TIMEOUT = 1.0

# Seconds between readings that tokens with unknown keys ask for. Who makes up ids spends them
# all, so this, and not the interval, is how long a rotated key may be held up by that.
_ASK_SPACING = 30.0

# Seconds until a fetch that failed is tried again, or the interval if that is shorter.
_RETRY = 10.0


class UnusableKeys(Exception):
    """There are no keys to be had; the message says why, in one line."""


class KnownKey(NamedTuple):
    """A key for as long as it is in the set, under the same id and unchanged."""

    key: Key
    revocation: Revocation


class Keys:
    """Reads the keys again every `refresh` seconds, and when a token names an unknown one.

    While they can't be read, those known last stay.
    """

    def __init__(self, where: str, refresh: float) -> None:
        self._where = where
        self._refresh = refresh
        self._keys: dict[str | None, KnownKey] = {}
        self._reading: asyncio.Task[None] | None = None
        self._asked_at = -math.inf

    @property
    def there(self) -> bool:
        """Whether there are any keys yet."""
        return bool(self._keys)

    async def load(self) -> None:
        """Read the keys for the first time. UnusableKeys if a file has none.

        An address that does not answer is tried again by `follow`: it may be down just now.
        """
        try:
            self._take(await asyncio.to_thread(_read, self._where))
            problem = f"{self._where} has no keys"
        except UnusableKeys as e:
            problem = str(e)
        if not self.there and not source.is_address(self._where):
            raise UnusableKeys(problem)
        if not self.there:
            logger.warning("no keys yet, no token can be verified: %s", problem)

    async def follow(self) -> None:
        """Read the keys again and again, until cancelled."""
        done = self.there
        while True:
            await asyncio.sleep(self._refresh if done else min(self._refresh, _RETRY))
            done = await self._read_once()

    async def find(self, key_id: str | None, algorithm: str) -> KnownKey | None:
        """The key that a token names, fit for the algorithm; None if there is none.

        A token need not name one if there is only one.
        """
        if key_id is not None and key_id not in self._keys:
            await self._ask()
        known = self._keys.get(key_id)
        if known is None and len(self._keys) == 1 and (key_id is None or None in self._keys):
            [known] = self._keys.values()
        return known if known and fits(known.key, algorithm) else None

    async def _ask(self) -> None:
        """Read the keys since one was not found: once in a while, however many ask."""
        if self._reading is None:
            if time.monotonic() - self._asked_at < min(self._refresh, _ASK_SPACING):
                return
            self._asked_at = time.monotonic()
        # Who makes up ids is not to have calls wait for a provider that hangs.
        await asyncio.wait({self._begin_reading()}, timeout=_ASK_TIMEOUT)

    async def _read_once(self) -> bool:
        try:
            await asyncio.shield(self._begin_reading())
        except UnusableKeys:
            return False
        return True

    def _begin_reading(self) -> "asyncio.Task[None]":
        """Read the keys, together with whoever else is waiting for that."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._end)
        return self._reading

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._reading = None
        if not task.cancelled() and (error := task.exception()):
            logger.warning("the keys can't be read, those known last stay: %s", error)

    async def _read(self) -> None:
        self._take(await asyncio.to_thread(_read, self._where))

    def _take(self, keys: KeySet) -> None:
        before, self._keys = self._keys, {}
        for key_id, key in keys.items():
            known = before.get(key_id)
            same = known and is_same(known.key, key)
            self._keys[key_id] = known if known and same else KnownKey(key, Revocation())
        if self._keys != before:
            count = "1 key" if len(keys) == 1 else f"{len(keys)} keys"
            logger.info("tokens are verified with %s of %s", count, self._where)
        for key_id, known in before.items():
            if self._keys.get(key_id) is not known:
                known.revocation.revoke()


def _read(where: str) -> KeySet:
    """The keys by their ids. UnusableKeys unless there are some, or are said to be none."""
    try:
        return parse(source.read(where))
    except Exception as e:
        # What is there may be anything; nothing of it may end the one who reads it.
        reason = e.reason if isinstance(e, URLError) else e
        raise UnusableKeys(f"{where}: {' '.join(str(reason).split())}") from None
