"""Forging page tokens."""

import base64
import json
from typing import Any


def forged_token(token: str, *position: Any) -> str:
    """The token of the same request with another position."""
    raw = json.dumps([_parts(token)[0], *position]).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def position(token: str) -> list[Any]:
    return _parts(token)[1:]


def _parts(token: str) -> list[Any]:
    parts: list[Any] = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    return parts
