"""Counts the calls of each method, for the Prometheus metrics.

One event loop counts, so plain numbers need no lock and cost a tenth of what metric objects cost.
"""

from typing import Any

import grpc

from jobs_grpc.config import LimitsConfig
from jobs_grpc.config.declaration import settings_of
from jobs_grpc.errors import JobsError, LimitExceeded, Overloaded
from jobs_grpc.observability.histogram import Histogram

# Buckets of the duration of calls, in seconds.
_CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# Codes that have a count from the start, so that a rate includes the first call with the code.
_CODES = (
    grpc.StatusCode.OK,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
)

# Settings of limits that are not refusals by this service: gRPC enforces the first one, and values
# beyond the second one are invalid arguments.
_OTHER_SETTINGS = ("JOBS_MAX_CONNECTION_STREAMS", "JOBS_MAX_DOCUMENT_BYTES")

# Of calls that fail because no connection becomes free in time.
_POOL_SETTING = "JOBS_POOL_TIMEOUT"

# Of limits that no setting changes.
_NO_SETTING = ""


class CallMetrics:
    """The counts of all methods that a server serves."""

    def __init__(self) -> None:
        self.methods: list[MethodMetrics] = []
        limits = (setting.variable for _, setting in settings_of(LimitsConfig))
        self.refused = {
            setting: 0
            for setting in (*limits, _POOL_SETTING)
            if setting.startswith("JOBS_MAX_") or setting == _POOL_SETTING
            if setting not in _OTHER_SETTINGS
        }
        """Refused calls by the setting of the limit."""

    def add_method(self, method: str, handler: Any) -> "MethodMetrics":
        """Count the calls of `method` ("/package.Service/Method"), which `handler` describes.

        A method that is served on two addresses is counted once.
        """
        for known in self.methods:
            if method == f"/{known.service}/{known.method}":
                return known
        metrics = MethodMetrics(method, handler, self.refused)
        self.methods.append(metrics)
        return metrics


class MethodMetrics:
    """The counts of one method."""

    def __init__(self, method: str, handler: Any, refused: dict[str, int]) -> None:
        _, self.service, self.method = method.split("/")
        self.type = _type_of(handler)
        self.started = 0
        self.messages_received = 0
        self.messages_sent = 0
        self.handled = dict.fromkeys(_CODES, 0)
        self.seconds = Histogram(_CALL_SECONDS)
        self._refused = refused

    def count_messages(self, handler: Any) -> Any:
        """Return the handler with a decoder and a serializer that count messages.

        The responses of a stream are serialized before gRPC sends them; count_sent counts those.
        """
        decode, serialize = handler.request_deserializer, handler.response_serializer

        def counting_decode(raw_request: bytes) -> Any:
            message = decode(raw_request)
            self.messages_received += 1
            return message

        def counting_serialize(response: Any) -> Any:
            raw_response = serialize(response)
            self.messages_sent += 1
            return raw_response

        if handler.response_streaming:
            return handler._replace(request_deserializer=counting_decode)
        return handler._replace(
            request_deserializer=counting_decode, response_serializer=counting_serialize
        )

    def count_sent(self, raw_response: bytes) -> bytes:
        """Count a serialized response of a stream, as a serializer for gRPC."""
        self.messages_sent += 1
        return raw_response

    def end(self, code: grpc.StatusCode, error: JobsError | None, seconds: float) -> None:
        """Count a call that has ended."""
        self.handled[code] = self.handled.get(code, 0) + 1
        self.seconds.observe(seconds)
        if isinstance(error, LimitExceeded):
            setting = error.metadata.get("setting", _NO_SETTING)
            self._refused[setting] = self._refused.get(setting, 0) + 1
        elif isinstance(error, Overloaded):
            self._refused[_POOL_SETTING] += 1


def _type_of(handler: Any) -> str:
    """The name of a kind of call in the metrics of go-grpc-middleware."""
    if handler.request_streaming:
        return "bidi_stream" if handler.response_streaming else "client_stream"
    return "server_stream" if handler.response_streaming else "unary"
