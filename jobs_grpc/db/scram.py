"""Computes the verifier that PostgreSQL stores in place of a password."""

import base64
import hashlib
import hmac
import secrets
import unicodedata

# What PostgreSQL uses by default.
_ITERATIONS = 4096
_SALT_BYTES = 16


def scram_verifier(password: str, salt: bytes | None = None, iterations: int = _ITERATIONS) -> str:
    """Return the SCRAM-SHA-256 verifier of a password, in the format of RFC 5803.

    CREATE ROLE … PASSWORD accepts it, and it cannot be used to log in. The salt is random by
    default. The result contains no quotes.
    """
    if salt is None:
        salt = secrets.token_bytes(_SALT_BYTES)
    # PostgreSQL and its clients also remove and refuse some characters that are hardly ever used.
    prepared = unicodedata.normalize("NFKC", password).encode()
    salted_password = hashlib.pbkdf2_hmac("sha256", prepared, salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted_password, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted_password, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${iterations}:{_base64(salt)}${_base64(stored_key)}:{_base64(server_key)}"


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
