"""Computes the verifier that PostgreSQL stores in place of a password."""

import base64
import hashlib
import hmac
import secrets
import stringprep
import unicodedata

# What PostgreSQL uses by default.
_ITERATIONS = 4096
_SALT_BYTES = 16

# The prohibited characters of RFC 4013, section 2.3, and unassigned code points (table A.1). Table
# C.1.2 has no effect here, because its spaces are mapped before the check.
_PROHIBITED = (
    stringprep.in_table_a1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def scram_verifier(password: str, salt: bytes | None = None, iterations: int = _ITERATIONS) -> str:
    """Return the SCRAM-SHA-256 verifier of a password, in the format of RFC 5803.

    CREATE ROLE … PASSWORD accepts it, and it cannot be used to log in. The salt is random by
    default. The result contains no quotes.
    """
    if salt is None:
        salt = secrets.token_bytes(_SALT_BYTES)
    prepared = _saslprep(password).encode()
    salted_password = hashlib.pbkdf2_hmac("sha256", prepared, salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted_password, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted_password, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${iterations}:{_base64(salt)}${_base64(stored_key)}:{_base64(server_key)}"


def _saslprep(password: str) -> str:
    """Normalize a password as PostgreSQL and its clients do (RFC 4013).

    They use a password unchanged if it is in ASCII or contains prohibited characters. Unlike
    RFC 4013, they check the characters before they normalize them.
    """
    if password.isascii():
        return password
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in password
        if stringprep.in_table_c12(character) or not stringprep.in_table_b1(character)
    )
    if not mapped or any(prohibits(c) for c in mapped for prohibits in _PROHIBITED):
        return password
    if any(map(stringprep.in_table_d1, mapped)) and not _has_valid_directions(mapped):
        return password
    return unicodedata.normalize("NFKC", mapped)


def _has_valid_directions(text: str) -> bool:
    """Whether text that contains right-to-left characters meets section 6 of RFC 3454."""
    return (
        not any(map(stringprep.in_table_d2, text))
        and stringprep.in_table_d1(text[0])
        and stringprep.in_table_d1(text[-1])
    )


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
