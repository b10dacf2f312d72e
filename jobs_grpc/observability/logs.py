"""Log output as text or JSON, with the ids of the request that is being served."""

import asyncio
import functools
import json
import logging
import re
import time
import traceback
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime

import grpc

from jobs_grpc.observability.repeated_records import RepeatedRecords
from jobs_grpc.text import escape_unprintable, is_printable

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
"""The trace of the request, if its caller has sent one or it is traced."""

# The attributes of every record. Other attributes come from extra={…} and are printed, unless
# log_fields made the record.
_EMPTY_RECORD = vars(logging.makeLogRecord({}))
_STANDARD_ATTRIBUTES = _EMPTY_RECORD.keys() | {"message", "asctime"}

# Callers choose some values, so anything that could be read as another field is quoted.
_SEPARATORS = re.compile(r"[\s\"=]")

# Texts that need neither quotes nor escapes; most values match.
_PLAIN = re.compile(r"[!#-<>-~]+")


class _FieldsRecord(logging.LogRecord):
    """A record with fields, but without the line of code, the process and the thread.

    Looking these up takes most of the time of LogRecord's constructor.
    """

    def __init__(self, name: str, level: int, message: str, fields: dict[str, object]) -> None:
        # Takes half of the time of an update of vars(self).
        self.__dict__ = _EMPTY_RECORD | {
            "name": name,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": message,
            "created": time.time(),
            "fields": fields,
        }


def log_fields(logger: logging.Logger, level: int, message: str, fields: dict[str, object]) -> None:
    """Log a message with fields; those that are None are left out.

    Takes a third of the time of `logger.log(level, message, extra=fields)`, because it looks up
    neither the line of code that logs nor, when it formats the record, which of its attributes
    are fields.
    """
    if logger.isEnabledFor(level):
        logger.handle(_FieldsRecord(logger.name, level, message, fields))


MAX_BYTES = 4096
"""Maximum bytes of a text of a request, and of a list of its IDs, as written: escaped."""


def first_that_fit(texts: Iterable[str], max_bytes: int) -> list[str]:
    """Return as many of the first texts as take at most `max_bytes` in a line, escaped."""
    first: list[str] = []
    for text in texts:
        # The text format quotes the JSON of a list, which is longer than what the JSON format has.
        max_bytes -= len(json.dumps(json.dumps(text)))
        if max_bytes < 0:
            break
        first.append(text)
    return first


def _fields(record: logging.LogRecord, worker: int | None) -> dict[str, object]:
    attributes = vars(record)
    fields: dict[str, object] = attributes.get("fields") or {
        k: v for k, v in attributes.items() if k not in _STANDARD_ATTRIBUTES
    }
    fields = {k: v for k, v in fields.items() if v is not None}
    if worker is not None:
        fields["worker"] = worker
    # OpenTelemetry logs problems of its exporter in the context of any call.
    if (current := request_id.get()) is not None and not record.name.startswith("opentelemetry"):
        fields["request_id"] = current
        if (trace := trace_id.get()) is not None:
            fields["trace_id"] = trace
    return fields


def _timestamp(record: logging.LogRecord) -> str:
    seconds = int(record.created)
    return f"{_format_seconds(seconds)}.{int((record.created - seconds) * 1000):03}+00:00"


@functools.lru_cache(maxsize=1)
def _format_seconds(seconds: int) -> str:
    """Format a time in UTC, without fraction and offset. Most records are of the same second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def _quote_if_needed(value: object) -> str:
    if isinstance(value, str):
        text = value
    else:
        text = json.dumps(value) if isinstance(value, (list, dict)) else str(value)
    if _PLAIN.fullmatch(text):
        return text
    if text and is_printable(text) and not _SEPARATORS.search(text):
        return text
    return json.dumps(text)


class TextFormatter(logging.Formatter):
    """One line per record, followed by the indented lines of its traceback, if it has one.

    Unprintable characters are escaped. `worker` is the number of the worker process.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        message = escape_unprintable(record.getMessage())
        output = f"{_timestamp(record)} {record.levelname:<7} {message}"
        for key, value in _fields(record, self._worker).items():
            output += f" {key}={_quote_if_needed(value)}"
        if record.exc_info:
            # Indented, because a line of an exception's text could look like a record.
            for line in self.formatException(record.exc_info).split("\n"):
                output += "\n  " + escape_unprintable(line)
        return output


class JsonFormatter(logging.Formatter):
    """One ASCII line of JSON per record. `worker` is the number of the worker process."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": _timestamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        } | _fields(record, self._worker)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def _is_relevant(record: logging.LogRecord) -> bool:
    """False for records of libraries that are noise or contain secrets."""
    error = record.exc_info[1] if record.exc_info else None
    if record.name == "asyncio":
        # A lost connection fails whatever asyncpg waits for, such as the response to a cancel
        # request. The call that used the connection has failed as well, and that is logged.
        return not _is_from_asyncpg(error)
    if not record.name.startswith("grpc"):
        return True
    # gRPC logs a traceback when the shutdown cancels a handler, and when a client leaves before it
    # has read its response.
    is_canceled_call = isinstance(error, (asyncio.CancelledError, grpc.aio.InternalError))
    # The message quotes metadata that is not text, which may be a token.
    return not is_canceled_call and not record.getMessage().startswith("Invalid encoding on")


def _is_from_asyncpg(error: BaseException | None) -> bool:
    """Whether asyncpg raised the error, or passed on an error of the network."""
    if error is None:
        return False
    frames = traceback.walk_tb(error.__traceback__)
    modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    return any(name.partition(".")[0] == "asyncpg" for name in (type(error).__module__, *modules))


def configure_logging(level: str, log_format: str, worker: int | None = None) -> None:
    """Log to stderr at `level` and above; `log_format` is "text" or "json".

    Each line has the number of the worker process, if given.
    """
    handler = logging.StreamHandler()
    handler.addFilter(_is_relevant)
    handler.addFilter(RepeatedRecords())
    handler.setFormatter(JsonFormatter(worker) if log_format == "json" else TextFormatter(worker))
    # The formats do not show these, so do not look them up for each record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # The audit log ignores JOBS_LOG_LEVEL.
    logging.getLogger("jobs_grpc.audit").setLevel(logging.INFO)
