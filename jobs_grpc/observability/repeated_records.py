"""Keeps a message that is logged again and again from filling the log."""

import asyncio
import logging
from typing import NamedTuple

from jobs_grpc.observability.log_throttle import LogThrottle

_MAX_PER_SECOND = 20

# These limit their lines themselves: calls that are served have a line each.
_OTHER_LIMITS = ("jobs_grpc.calls", "jobs_grpc.audit")

_MAX_TEMPLATE_LENGTH = 200


class _Kind(NamedTuple):
    logger: str
    level: int
    template: str
    """The message before its arguments are inserted; "": any."""


class RepeatedRecords(logging.Filter):
    """Limits each message to 20 records per second. The access and audit logs are exempt.

    A message is that of a logger and a level, before its arguments are inserted. A line per second
    has it and the number of further records (`others`). So callers can't fill the log with a
    warning, or with the traceback of a bug. Records outside an event loop are exempt, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._throttle = LogThrottle(
            _log_others,
            lambda kind: kind._replace(template=""),
            lines_per_second=_MAX_PER_SECOND,
        )

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record; if not, count it."""
        if record.name in _OTHER_LIMITS:
            return True
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return True
        template = str(record.msg)[:_MAX_TEMPLATE_LENGTH]
        return self._throttle.should_log(_Kind(record.name, record.levelno, template))

    def flush(self) -> None:
        """Log the numbers of records that are counted and not logged yet."""
        self._throttle.flush()


def flush_repeated_records() -> None:
    """Flush the filters of the root logger's handlers."""
    for handler in logging.getLogger().handlers:
        for repeated in handler.filters:
            if isinstance(repeated, RepeatedRecords):
                repeated.flush()


def _log_others(kind: _Kind, others: int) -> None:
    message = kind.template or "further messages"
    logging.getLogger(kind.logger).log(kind.level, message, extra={"others": others})
