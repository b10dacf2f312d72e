"""The public keys that tokens are verified with: from a file or an address, kept up to date."""

import asyncio
import json
import logging
import time
import urllib.request
from collections.abc import Callable, Mapping
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.error import URLError

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key

logger = logging.getLogger(__name__)

# Of a set of keys, in bytes.
_MAX_SIZE = 256 * 1024

# Seconds for each step of a fetch, and for all of it.
_STEP_TIMEOUT = 5.0
_FETCH_TIMEOUT = 10.0

# Seconds for which a call waits for keys that may have its token's.
_ASK_TIMEOUT = 1.0

# Seconds until a fetch that failed is tried again, or the interval if that is shorter.
_RETRY = 10.0

_MIN_RSA_BITS = 2048

# What each algorithm is used with.
_FITTING: Mapping[str, Callable[[Key], bool]] = {
    "RS256": lambda key: isinstance(key, RSAKey),
    "ES256": lambda key: isinstance(key, ECKey) and key.curve_name == "P-256",
    "EdDSA": lambda key: isinstance(key, OKPKey) and key.curve_name == "Ed25519",
}


class UnusableKeys(Exception):
    """There are no keys to be had; the message says why, in one line."""


class Keys:
    """Reads the keys again every `refresh` seconds, and when a token names an unknown one.

    While they can't be read, those known last stay. `generation` changes with the keys.
    """

    def __init__(self, source: str, refresh: float) -> None:
        self._source = source
        self._refresh = refresh
        self._keys: dict[str | None, Key] = {}
        self._reading: asyncio.Task[None] | None = None
        self._asked_at = -refresh
        self.generation = 0

    @property
    def there(self) -> bool:
        """Whether there are any keys yet."""
        return bool(self._keys)

    async def load(self) -> None:
        """Read the keys for the first time. UnusableKeys if a file has none.

        An address that does not answer is tried again by `follow`: it may be down just now.
        """
        try:
            self._take(await asyncio.to_thread(_read, self._source))
            problem = f"{self._source} has no keys"
        except UnusableKeys as e:
            problem = str(e)
        if not self.there and not _is_address(self._source):
            raise UnusableKeys(problem)
        if not self.there:
            logger.warning("no keys yet, no token can be verified: %s", problem)

    async def follow(self) -> None:
        """Read the keys again and again, until cancelled."""
        done = self.there
        while True:
            await asyncio.sleep(self._refresh if done else min(self._refresh, _RETRY))
            done = await self._read_once()

    async def find(self, key_id: str | None, algorithm: str) -> Key | None:
        """The key that a token names, fit for the algorithm; None if there is none.

        A token need not name one if there is only one.
        """
        if key_id is not None and key_id not in self._keys:
            await self._ask()
        key = self._keys.get(key_id)
        if key is None and len(self._keys) == 1 and (key_id is None or None in self._keys):
            [key] = self._keys.values()
        if key is None or not _FITTING[algorithm](key):
            return None
        return key if key.alg in (None, algorithm, _OTHER_NAMES.get(algorithm)) else None

    async def _ask(self) -> None:
        """Read the keys since one was not found: once in an interval, however many ask."""
        if self._reading is None:
            if time.monotonic() - self._asked_at < self._refresh:
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
        self._take(await asyncio.to_thread(_read, self._source))

    def _take(self, keys: dict[str | None, Key]) -> None:
        if _texts(keys) != _texts(self._keys):
            self._keys = keys
            self.generation += 1
            count = "1 key" if len(keys) == 1 else f"{len(keys)} keys"
            logger.info("tokens are verified with %s of %s", count, self._source)


_OTHER_NAMES = {"EdDSA": "Ed25519"}  # RFC 9864


def _texts(keys: Mapping[str | None, Key]) -> dict[str | None, object]:
    return {key_id: key.as_dict(private=False) for key_id, key in keys.items()}


def _is_address(source: str) -> bool:
    return source.startswith(("https://", "http://"))


def _read(source: str) -> dict[str | None, Key]:
    """The keys by their ids. UnusableKeys unless there are some, or are said to be none."""
    try:
        return _parse(_fetch(source) if _is_address(source) else Path(source).read_bytes())
    except Exception as e:
        # What is there may be anything; nothing of it may end the one who reads it.
        reason = e.reason if isinstance(e, URLError) else e
        raise UnusableKeys(f"{source}: {' '.join(str(reason).split())}") from None


def _parse(raw: bytes) -> dict[str | None, Key]:
    if raw.lstrip().startswith(b"-----BEGIN"):
        for kind in ("RSA", "EC", "OKP"):
            try:
                key = import_key(raw, kind)
            except (ValueError, JoseError):
                continue
            if not _is_strong(key):
                raise ValueError(_NONE_FITS)
            return {None: key}
        raise ValueError("the PEM has no key of a known kind")
    document = json.loads(raw)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError('a JWKS is an object with "keys"')
    keys: dict[str | None, Key] = {}
    for jwk in document["keys"]:
        # Other kinds, and what is for encryption, stand beside them.
        if isinstance(jwk, dict) and jwk.get("use", "sig") == "sig" and jwk.get("kty") in _KINDS:
            try:
                imported: Key = import_key(jwk)
            except (ValueError, TypeError, LookupError, JoseError) as e:
                logger.warning("a key is passed over: %s", e)
                continue
            if _is_strong(imported):
                keys[imported.kid] = imported
    # An empty set is one that withdraws all keys; one of others' keys only is a mistake.
    if document["keys"] and not keys:
        raise ValueError(_NONE_FITS)
    return keys


_KINDS = ("RSA", "EC", "OKP")
_NONE_FITS = "has no key that tokens could be verified with"


def _is_strong(key: Key) -> bool:
    return not isinstance(key, RSAKey) or key.public_key.key_size >= _MIN_RSA_BITS


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        """Nowhere: the answer is then the error that its status is."""
        return


def _fetch(address: str) -> bytes:
    """What is at an address, certificates verified (SSL_CERT_FILE names other authorities)."""
    deadline = time.monotonic() + _FETCH_TIMEOUT
    # Only loopback is asked without TLS, and no proxy has a say in that.
    direct = [urllib.request.ProxyHandler({})] if address.startswith("http://") else []
    opener = urllib.request.build_opener(_NoRedirects(), *direct)
    request = urllib.request.Request(address, headers={"Accept": "application/json"})  # noqa: S310
    with opener.open(request, timeout=_STEP_TIMEOUT) as response:
        body = b""
        while chunk := response.read1(65536):
            body += chunk
            if len(body) > _MAX_SIZE:
                raise ValueError(f"more than {_MAX_SIZE} bytes")
            if time.monotonic() > deadline:
                raise ValueError("too slow")
    return body
