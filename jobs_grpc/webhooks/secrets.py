"""The secrets of webhooks: derived from master keys, never stored."""

import base64
import hashlib
import hmac
import logging
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger(__name__)

_MIN_KEY_BYTES = 32
_MAX_FILE_BYTES = 65536
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Domain separation: any other use of a master key must have another purpose.
_PURPOSE = "jobs-grpc webhook secret"


class MalformedKeys(Exception):
    """The file of master keys is not usable. The message is one line and contains no key."""


class UnknownKey(Exception):
    """The file of master keys lacks a key that a webhook uses."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"JOBS_WEBHOOK_KEYS_FILE lacks the key {key_id}, which webhooks use; add it again"
        )


class SecretRow(Protocol):
    """A row with secret_number, key_id and previous_key_id, such as of claim_webhook.sql."""

    def __getitem__(self, column: str, /) -> Any: ...


class MasterKeys:
    """Master keys by id."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = dict(keys)
        self.newest_id = next(iter(self._keys))
        """The id of the first key in the file, from which new secrets are derived."""
        self.ids = tuple(self._keys)

    def secret(self, tenant_id: str, webhook_id: str, number: int, key_id: str) -> bytes:
        """Return the secret of a webhook with this number. Raises UnknownKey."""
        key = self._keys.get(key_id)
        if key is None:
            raise UnknownKey(key_id)
        # The lengths keep two different inputs from having the same message.
        fields = [field.encode() for field in (_PURPOSE, tenant_id, webhook_id, str(number))]
        message = b"".join(len(field).to_bytes(4) + field for field in fields)
        return hmac.digest(key, message, hashlib.sha256)

    def signing_secrets(self, tenant_id: str, webhook_id: str, row: SecretRow) -> list[bytes]:
        """Return the secrets that sign a delivery, the current one first.

        Raises UnknownKey if there is no key for the current one.
        """
        number = row["secret_number"]
        secrets = [self.secret(tenant_id, webhook_id, number, row["key_id"])]
        if row["previous_key_id"] in self._keys:
            secrets.append(self.secret(tenant_id, webhook_id, number - 1, row["previous_key_id"]))
        return secrets


def encoded(secret: bytes) -> str:
    """Return a secret in the form that receivers configure."""
    return f"whsec_{base64.b64encode(secret).decode()}"


def load_master_keys(path: Path) -> MasterKeys:
    """Read master keys: a line `ID BASE64` for each, the one for new secrets first.

    Empty lines and lines that start with # are ignored. Raises OSError and MalformedKeys.
    """
    # Without O_NONBLOCK, opening a FIFO would block.
    nonblocking = getattr(os, "O_NONBLOCK", 0)  # Windows has neither.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | nonblocking)) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise MalformedKeys(f"{path} is not a regular file")
        if os.name == "posix" and mode & 0o007:
            raise MalformedKeys(f"every user can access {path}: run chmod o= {path}")
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise MalformedKeys(f"{path} has more than {_MAX_FILE_BYTES} bytes")
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise MalformedKeys(f"{path} is not UTF-8") from None
    keys: dict[str, bytes] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        key_id, key = _parse(line, where)
        if key_id in keys:
            raise MalformedKeys(f"{where}: the id {key_id} is in an earlier line")
        keys[key_id] = key
    if not keys:
        raise MalformedKeys(f"{path} has no keys")
    return MasterKeys(keys)


def _parse(line: str, where: str) -> tuple[str, bytes]:
    parts = line.split()
    # An id in the wrong place could be a key, so no part is repeated in an error.
    if len(parts) != 2 or not _ID.fullmatch(parts[0]):
        raise MalformedKeys(f"{where}: must be an id (letters, digits, ._-), a space and the key")
    try:
        key = base64.b64decode(parts[1], validate=True)
    except ValueError:
        raise MalformedKeys(f"{where}: the key is not base64") from None
    if len(key) < _MIN_KEY_BYTES:
        raise MalformedKeys(
            f"{where}: the key has {len(key)} bytes, and must have {_MIN_KEY_BYTES} or more"
        )
    return parts[0], key


class MasterKeysFile:
    """The master keys of a file, read again when it changes. Keeps the last valid ones.

    The constructor raises OSError and MalformedKeys.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # The result of the last read: the version of the file, or the text of the error.
        self._last_result: object = self._version()
        self._keys = load_master_keys(path)

    def current(self) -> MasterKeys:
        """Return the keys of the file as it is now."""
        try:
            version = self._version()
            if version != self._last_result:
                keys = load_master_keys(self._path)
                # If the file changed while it was read, the next call reads it again.
                if self._version() == version:
                    self._last_result, self._keys = version, keys
                    logger.info("JOBS_WEBHOOK_KEYS_FILE has changed; using the new keys")
        except (OSError, MalformedKeys) as e:
            error = str(e)
            if error != self._last_result:
                self._last_result = error
                logger.warning(
                    "could not use the new JOBS_WEBHOOK_KEYS_FILE; the previous keys stay in use: "
                    "%s",
                    error,
                )
        return self._keys

    def _version(self) -> tuple[int, ...]:
        stat = self._path.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_mode
