"""Logging: one line a record, as text or JSON, each with the request it belongs to."""

import asyncio
import json
import logging
import re
from contextvars import ContextVar
from datetime import UTC, datetime

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

# What a record has by itself; all else came as extra={…} and belongs in the output.
_BUILTIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

# Of one word. What callers are called is theirs to say.
_PLAIN = re.compile(r"[^\s\"=\x00-\x20\x7f-\x9f]+")


def _extras(record: logging.LogRecord) -> dict[str, object]:
    extras = {k: v for k, v in vars(record).items() if k not in _BUILTIN and v is not None}
    if (current := request_id.get()) is not None:
        extras["request_id"] = current
    return extras


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _shown(value: object) -> str:
    """A value as it is, or quoted if it could be taken for more than that."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        parts = [_time(record), f"{record.levelname:<7}", record.getMessage()]
        parts += [f"{key}={_shown(value)}" for key, value in _extras(record).items()]
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        } | _extras(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def _matters(record: logging.LogRecord) -> bool:
    """Whether a record is none of gRPC's that say nothing, or say what only a caller may know."""
    if not record.name.startswith("grpc"):
        return True
    # A handler that a stop cuts off while it answers that it is cut off.
    cut_off = record.exc_info is not None and record.exc_info[0] is asyncio.CancelledError
    # Metadata that is not text, quoted whole: it may be a token.
    return not cut_off and not record.getMessage().startswith("Invalid encoding on")


def configure_logging(level: str, log_format: str) -> None:
    """Send the log to stderr; `log_format` is "text" or "json"."""
    handler = logging.StreamHandler()
    handler.addFilter(_matters)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    # Of thread and process nothing is shown, so nothing is looked up for each record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # The trail is no matter of how much one wants to read.
    logging.getLogger("jobs_grpc.audit").setLevel(logging.INFO)
