"""Log formats: text from callers and exceptions cannot change how a terminal shows a log line."""

import json
import logging
import sys

import asyncpg
import pytest

from jobs_grpc.observability import logs
from tests.support.logging_setup import configured_logging

# Bidirectional controls, zero-width characters, line and paragraph separators, C1 controls,
# invisible letters, and surrogate, private-use and tag characters.
UNPRINTABLE = [
    *("\u061c", "\u200e", "\u200f", "\u202a", "\u202e", "\u2066", "\u2069"),
    *("\u00ad", "\u034f", "\u200b", "\u200d", "\u2060", "\ufeff", "\u115f", "\u3164", "\uffa0"),
    *("\u2028", "\u2029", "\x85", "\x9b", "\x1b", "\x7f", "\n", "\r", "\t"),
    *("\ud800", "\ue000", "\U000e0001", "\U000e0041"),
]


def record(message: str, *args: object, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("jobs_grpc.calls", logging.INFO, "", 0, message, args, None)
    vars(made).update(fields)
    return made


@pytest.mark.parametrize("character", UNPRINTABLE, ids=ascii)
def test_text_format_escapes_unprintable_characters(character: str) -> None:
    escapes = {ascii(character)[1:-1], json.dumps(character)[1:-1]}

    in_value = logs.TextFormatter().format(record("m", subject=f"a{character}b"))
    in_message = logs.TextFormatter().format(record("m %s", f"a{character}b"))

    for line in (in_value, in_message):
        assert character not in line
        assert any(f"a{escape}b" in line for escape in escapes)


@pytest.mark.parametrize("character", UNPRINTABLE, ids=ascii)
def test_json_format_is_ascii_and_keeps_the_text(character: str) -> None:
    line = logs.JsonFormatter().format(record("m %s", character, subject=character))

    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["subject"] == character


def test_text_format_shows_letters_of_other_languages_without_quotes() -> None:
    line = logs.TextFormatter().format(record("für %s", "東京", subject="jürgen", device="🚀"))

    assert line.endswith("für 東京 subject=jürgen device=🚀")


@pytest.mark.parametrize("value", ["", "a b", 'a"b', "a=b", "a\u3000b"])
def test_text_format_quotes_values_that_look_like_several_fields(value: str) -> None:
    assert logs.TextFormatter().format(record("m", key=value)).endswith(f"key={json.dumps(value)}")


def test_text_format_indents_tracebacks_and_escapes_their_text() -> None:
    failed = record("failed")
    try:
        raise ValueError("\u202eoops\n2026-01-01T00:00:00.000+00:00 INFO DeleteJob OK")
    except ValueError:
        failed.exc_info = sys.exc_info()

    first, *others = logs.TextFormatter().format(failed).split("\n")

    assert first.endswith("INFO    failed")
    assert all(line.startswith("  ") and line.isprintable() for line in others)
    assert others[-2:] == [
        "  ValueError: \\u202eoops",
        "  2026-01-01T00:00:00.000+00:00 INFO DeleteJob OK",
    ]


def test_line_has_the_number_of_the_worker() -> None:
    assert logs.TextFormatter(worker=2).format(record("m")).endswith("INFO    m worker=2")
    assert json.loads(logs.JsonFormatter(worker=2).format(record("m")))["worker"] == 2


async def test_errors_that_asyncpg_leaves_to_the_event_loop_are_not_logged() -> None:
    logger = logging.getLogger("asyncio")
    with configured_logging("text") as written:
        try:
            await asyncpg.connect("postgresql://nobody@127.0.0.1:1/none")
        except OSError:
            logger.exception("Future exception was never retrieved")
        logger.error("from asyncpg", exc_info=asyncpg.ConnectionDoesNotExistError("lost"))
        logger.error("from elsewhere", exc_info=OSError("lost"))

    [line, *traceback] = written.getvalue().splitlines()
    assert line.endswith("ERROR   from elsewhere")
    assert traceback == ["  OSError: lost"]
