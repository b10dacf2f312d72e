"""An OTLP receiver, as an OpenTelemetry collector has one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.waiting import wait_until_true


@dataclass(frozen=True)
class ReceivedSpan:
    """A span, and the name of the service that sent it."""

    service: str
    span: Span

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def attributes(self) -> dict[str, Any]:
        return {
            a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in self.span.attributes
        }


@dataclass
class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Receives spans at `endpoint`."""

    endpoint: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of a process that sends its spans here, soon after each."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    async def Export(self, request: Any, context: Any) -> Any:
        for of_resource in request.resource_spans:
            names = {a.key: a.value.string_value for a in of_resource.resource.attributes}
            for of_scope in of_resource.scope_spans:
                self.spans += [ReceivedSpan(names["service.name"], s) for s in of_scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    async def wait_for(self, name: str, trace_id: str | None = None) -> ReceivedSpan:
        """Wait for the first span with a name, in a trace if given, and return it."""

        def matching() -> list[ReceivedSpan]:
            return [s for s in self.spans if s.span.name == name and trace_id in (None, s.trace_id)]

        await wait_until_true(lambda: bool(matching()))
        return matching()[0]


@asynccontextmanager
async def running_receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = grpc.aio.server()
    add_to_server: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # has no types
    add_to_server(receiver, server)
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield receiver
    finally:
        await server.stop(None)
