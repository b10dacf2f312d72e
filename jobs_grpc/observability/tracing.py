"""Traces of calls for OpenTelemetry: a span for each call and one for its SQL statement.

The OTEL_… environment variables of OpenTelemetry configure it. Unless they name a collector,
OpenTelemetry is not imported, and no spans are created.
"""

import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import grpc

from jobs_grpc.observability import logs

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

logger = logging.getLogger(__name__)

# Any of these turns tracing on.
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORTER = "OTEL_TRACES_EXPORTER"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

# The version, the trace id, the id of the caller's span, and flags.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-.{2}")

# What W3C Trace Context requires to be passed on. A span keeps it until it is exported.
_MAX_TRACESTATE = 512

# How long a process that stops waits for the remaining spans to be exported.
_SHUTDOWN_SECONDS = 3.0

# Statuses that are errors of the server, as OpenTelemetry defines them.
_SERVER_ERRORS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)

_FUNCTION = re.compile(r"FROM jobs\.(\w+)\(")

# None unless spans are exported.
_tracer: "Tracer | None" = None


@contextmanager
def exporting(environ: Mapping[str, str]) -> Iterator[None]:
    """Export spans within the block, if `environ` names a collector; at its end, flush the rest.

    Spans wait in a queue of OTEL_BSP_MAX_QUEUE_SIZE. If it is full, further ones are dropped.
    """
    global _tracer
    provider = _make_provider(environ) if _is_configured(environ) else None
    if provider is None:
        yield
        return
    _tracer = provider.get_tracer("jobs_grpc")
    try:
        yield
    finally:
        _tracer = None
        # OpenTelemetry sends what is left, and tries again for half a minute if it cannot.
        shutdown = threading.Thread(target=provider.shutdown, daemon=True)
        shutdown.start()
        shutdown.join(_SHUTDOWN_SECONDS)


def _is_configured(environ: Mapping[str, str]) -> bool:
    exporter = environ.get(_EXPORTER)
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return False
    if not exporter and not any(environ.get(variable) for variable in _ENDPOINTS):
        return False
    if exporter not in (None, "", "otlp"):
        logger.warning("traces are off: %s=%s is not supported; use otlp", _EXPORTER, exporter)
        return False
    protocol = next(filter(None, map(environ.get, _PROTOCOLS)), "grpc")
    if protocol != "grpc":
        logger.warning(
            "traces are off: the OTLP protocol %s is not supported; set %s=grpc",
            protocol,
            _PROTOCOLS[0],
        )
        return False
    return True


def _make_provider(environ: Mapping[str, str]) -> Any:
    """Return a TracerProvider, or None if OpenTelemetry is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("traces are off: OTEL_… is set, but the extra `otel` is not installed")
        return None
    resource = Resource.create(
        {"service.name": "jobs-grpc", "service.version": version("jobs-grpc")}
    ).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def start_call(method: str, metadata: Iterable[tuple[str, str | bytes]]) -> "Span | None":
    """Start the span of a call, if spans are exported, and set the trace id of its log lines.

    `method` is "/package.Service/Method". The span continues the trace of the caller's
    `traceparent`. Call this in the task of the call: statements of the task become children.
    """
    traceparent = tracestate = ""
    for key, value in metadata:
        if key == "traceparent":
            traceparent = str(value)
        elif key == "tracestate":
            tracestate = str(value)
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match:
        logs.trace_id.set(match[1])
    if _tracer is None:
        return None
    return _start_span(_tracer, method, traceparent if match else "", tracestate)


def _start_span(tracer: "Tracer", method: str, traceparent: str, tracestate: str) -> "Span":
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": traceparent}
    if len(tracestate) <= _MAX_TRACESTATE:
        carrier["tracestate"] = tracestate
    # In an empty context, unlike the default, which is the current one.
    parent = TraceContextTextMapPropagator().extract(carrier, context.Context())
    name = method.removeprefix("/")
    span = tracer.start_span(
        name,
        parent,
        trace.SpanKind.SERVER,
        {
            "rpc.system.name": "grpc",
            "rpc.method": name,
            "jobs.request_id": logs.request_id.get() or "",
        },
    )
    context.attach(trace.set_span_in_context(span, parent))
    if span.is_recording():
        logs.trace_id.set(format(span.get_span_context().trace_id, "032x"))
    return span


def end_call(
    span: "Span", code: grpc.StatusCode, tenant_id: str | None, reason: str | None
) -> None:
    """End the span of a call with its status and, if it failed, the reason of its error."""
    if span.is_recording():
        span.set_attribute("rpc.response.status_code", code.name)
        if tenant_id is not None:
            span.set_attribute("jobs.tenant", tenant_id)
        if reason is not None:
            span.set_attribute("error.type", reason)
        if code in _SERVER_ERRORS:
            _set_error(span)
    span.end()


def start_statement(sql: str) -> "Span | None":
    """Start the span of an SQL statement, if it runs in the task of a call that is traced."""
    if _tracer is None:
        return None
    from opentelemetry import trace

    if not trace.get_current_span().is_recording():
        return None
    found = _FUNCTION.search(sql)
    function = f"jobs.{found[1]}" if found else "statement"
    return _tracer.start_span(
        function,
        kind=trace.SpanKind.CLIENT,
        attributes={
            "db.system.name": "postgresql",
            "db.stored_procedure.name": function,
            "db.query.text": sql,
        },
    )


def end_statement(span: "Span", error: BaseException | None = None) -> None:
    """End the span of a statement. Its error is named by its SQLSTATE or its type."""
    if error is not None:
        span.set_attribute("error.type", getattr(error, "sqlstate", None) or type(error).__name__)
        _set_error(span)
    span.end()


def _set_error(span: "Span") -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR)
