"""Escapes characters that a terminal does not show or that change how it shows others."""

import json
from collections.abc import Callable

# Characters that str.isprintable accepts although they show nothing. It rejects control, format
# (bidirectional controls, zero-width characters) and separator characters other than space.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")


def is_printable(text: str) -> bool:
    """Whether a terminal shows every character of the text as it is, on one line."""
    return text.isprintable() and (text.isascii() or _BLANK.isdisjoint(text))


def escape_unprintable(text: str) -> str:
    """Replace characters that are not printable with Python's escapes, such as \\u202e."""
    return _escape(text, lambda character: ascii(character)[1:-1])


def escape_unprintable_json(text: str) -> str:
    """Replace characters that are not printable in a line of JSON with JSON's escapes.

    The values stay the same, because only strings can contain such characters.
    """
    return _escape(text, lambda character: json.dumps(character)[1:-1])


def _escape(text: str, escape: Callable[[str], str]) -> str:
    if is_printable(text):
        return text
    return "".join(c if is_printable(c) else escape(c) for c in text)
