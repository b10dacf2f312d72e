"""The call path: one coroutine per method, which reads from top to bottom.

It starts when the headers of a call have arrived, and reads the request after it has
authenticated the caller. gRPC would read the request first, and so buffer what unauthenticated
callers send. Roles are checked after the read, so that the audit log has the ids of the request.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from grpc.aio import ServicerContext

from jobs_grpc.auth import policy
from jobs_grpc.auth.authenticator import Authenticator
from jobs_grpc.auth.forwarded_certificates import NOT_A_GATEWAY, has_forwarded_certificate
from jobs_grpc.auth.peers import TrustedPeers
from jobs_grpc.auth.principal import Principal, set_principal
from jobs_grpc.config import Config
from jobs_grpc.contract.methods import METHODS
from jobs_grpc.contract.unknown_fields import refuse_unknown_fields
from jobs_grpc.errors import InvalidCertificate, LimitExceeded
from jobs_grpc.limits.concurrency_limits import CallLimits, Permits
from jobs_grpc.limits.contention import Contention
from jobs_grpc.limits.fair_slots import FairSlots, Slot
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation, response_bytes
from jobs_grpc.limits.rate_limiter import RateLimiter
from jobs_grpc.observability import tracing
from jobs_grpc.observability.call_metrics import CallMetrics
from jobs_grpc.rpc import access_log
from jobs_grpc.rpc.audit_log import AuditLog
from jobs_grpc.rpc.call_tracker import CallTracker
from jobs_grpc.rpc.error_status import abort, to_jobs_error
from jobs_grpc.rpc.repeated_refusals import RepeatedRefusals
from jobs_grpc.rpc.request_reader import RequestReader, StreamRequests, fixed_max_request_bytes
from jobs_grpc.rpc.response_sizes import page_size_estimator
from jobs_grpc.rpc.token_expiry import end_when_token_expires

if TYPE_CHECKING:
    from jobs_grpc.errors import JobsError

Context: TypeAlias = ServicerContext[Any, Any]
# Quoted: generic for type checkers only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Metadata: TypeAlias = "tuple[tuple[str, str | bytes], ...]"
Authenticate: TypeAlias = Callable[[Context, Metadata], Awaitable[Principal]]
"""Returns the caller, or raises a JobsError."""

# How many unary calls have a slot while tenants contend. While one waits for the database, the
# others run.
_MAX_CALL_SLOTS = 4

# How many streams open at the same time. No tenant has all slots, so with two, a tenant opens its
# streams one by one, and the server accepts other calls in between. With more slots, thousands of
# watches open no faster, and calls of other tenants take two to three times as long.
_MAX_STREAM_SLOTS = 2


class Pipeline:
    """Wraps the handlers of all methods that a server serves."""

    def __init__(
        self,
        config: Config,
        authenticator: Authenticator,
        trusted_peers: TrustedPeers | None,
        memory: MemoryLimit,
        in_flight: CallTracker,
        stopping: asyncio.Event,
        metrics: CallMetrics | None = None,
        authenticate_forwarded: Authenticate | None = None,
    ) -> None:
        """`metrics` counts the calls, if it is not None.

        `authenticate_forwarded` returns the device whose certificate a gateway has forwarded.
        """
        self._authenticator = authenticator
        self._trusted_peers = trusted_peers
        self._authenticate_forwarded = authenticate_forwarded
        self._memory = memory
        self._in_flight = in_flight
        self._stopping = stopping
        self._metrics = metrics
        self.limits = CallLimits(config.limits)
        self._rate_limiter = RateLimiter(config.limits.max_tenant_rate)
        self.refusals = RepeatedRefusals()
        self.audit_log = AuditLog()
        self._contention = Contention()
        self._call_slots = FairSlots(_MAX_CALL_SLOTS)
        self._stream_slots = FairSlots(_MAX_STREAM_SLOTS)
        self._reader = RequestReader(
            config.limits.max_request_bytes, config.limits.request_read_timeout
        )

    def wrap(
        self, method: str, handler: Handler, authenticate: Authenticate | None = None
    ) -> Handler:
        """Return the handler that gRPC calls for `method` ("/package.Service/Method").

        `handler` is what generated code registers: the method of the service, and how to decode
        requests and serialize responses. `authenticate` replaces trusted peers and JOBS_AUTH.
        """
        authenticate = authenticate or self._authenticate
        metrics = self._metrics.add_method(method, handler) if self._metrics else None
        if metrics:
            handler = metrics.count_messages(handler)
        public = policy.is_public(method)
        is_device_call = policy.is_device_method(method)
        audited = method in METHODS and METHODS[method].audited
        audit_log = self.audit_log if audited else None
        rejects_unknown_fields = method in METHODS and not METHODS[method].ignores_unknown_fields
        request_stream: bool = handler.request_streaming
        stream = request_stream or handler.response_streaming
        serve_request = _method_of_service(handler)
        # A streaming method either yields its responses or writes them itself, serialized.
        yields = inspect.isasyncgenfunction(serve_request)
        serialize: Any = handler.response_serializer
        estimate_page_size = page_size_estimator(method)
        fixed_max_bytes = fixed_max_request_bytes(method)
        limits, reader, memory = self.limits, self._reader, self._memory
        contention, refusals = self._contention, self.refusals
        call_slots, stream_slots = self._call_slots, self._stream_slots

        async def serve(_: Any, context: Context) -> Any:
            started = time.perf_counter()
            if metrics:
                metrics.started += 1
            metadata: Metadata = tuple(context.invocation_metadata() or ())
            access_log.assign_request_id(context, metadata)
            span = None if public else tracing.start_call(method, metadata)
            permits = Permits()
            task = self._in_flight.enter(permits.release, public=public, stream=stream)
            caller: Principal | None = None
            request: Any = None
            response: Any = None
            error: JobsError | None = None
            authorized = canceled = False
            slot: Slot | None = None
            try:
                if public:
                    limits.acquire_public(
                        permits, context.peer(), stream=stream, request_stream=request_stream
                    )
                else:
                    limits.acquire_server(permits, stream=stream)
                    caller = await authenticate(context, metadata)
                    set_principal(caller)
                    metadata = ()  # Streams stay open for long and would keep it in memory.
                    contention.note_call(caller.tenant_id)
                    try:
                        limits.acquire_tenant(
                            permits, caller, stream=stream, request_stream=request_stream
                        )
                    except LimitExceeded:
                        # It does not count as in flight while it waits.
                        permits.release()
                        await contention.delay_refusal()
                        raise
                    if stream:
                        slot = await stream_slots.wait(caller.tenant_id)
                    else:
                        await self._rate_limiter.wait(caller.tenant_id)
                        if contention.active():
                            slot = await call_slots.wait(caller.tenant_id)
                    if slot:
                        task.add_done_callback(slot.release)
                reservation = Reservation(memory, caller.tenant_id if caller else "")
                permits.keep(reservation)
                if request_stream:
                    request = StreamRequests(
                        reader, context, handler, reservation, fixed_max_bytes, public=public
                    )
                else:
                    request = await reader.read(
                        context, handler, reservation, fixed_max_bytes, public=public
                    )
                if slot and stream:
                    slot.release()
                policy.authorize(method, caller)
                if rejects_unknown_fields:
                    refuse_unknown_fields(request)
                authorized = True
                if not stream:
                    if estimate_page_size:
                        await reservation.resize(estimate_page_size(request))
                    response = await serve_request(request, context)
                    raw_response = serialize(response)
                    reservation.set_size(response_bytes(len(raw_response)))
                    return raw_response
                async with end_when_token_expires(caller):
                    serving = serve_request(request, context)
                    if not request_stream:
                        # The service takes what it needs from the request and drops it. Each
                        # response waits for its own bytes, and must hold none meanwhile.
                        request = None
                        reservation.release()
                    if yields:
                        async with aclosing(serving) as responses:
                            async for item in responses:
                                raw_response = serialize(item)
                                # A message takes more memory than its bytes, which may wait for
                                # long until the client reads them.
                                del item
                                await context.write(raw_response)
                    else:
                        await serving
                return None
            except (Exception, asyncio.CancelledError) as e:
                error = to_jobs_error(method, context, e, stopping=self._stopping.is_set())
                if error is None:
                    canceled = not isinstance(e, grpc.aio.AbortError)
                    if canceled:
                        raise asyncio.CancelledError from None
                    raise
            finally:
                code = access_log.status_code(context, error, canceled=canceled)
                seconds = time.perf_counter() - started
                if metrics:
                    metrics.end(code, error, seconds)
                if audit_log:
                    audit_log.write(
                        *(method, context, caller, request, response, error, started),
                        canceled=canceled,
                        authorized=authorized,
                    )
                if span is not None:
                    reason = error.reason if error is not None else None
                    tracing.end_call(span, code, caller.tenant_id if caller else None, reason)
                # Clients end watches by canceling them.
                watch_ended = stream and canceled
                if public or watch_ended or refusals.should_log_call(method, caller, code, error):
                    fields = (
                        access_log.device_call_fields(caller, request, response)
                        if is_device_call
                        else {}
                    )
                    access_log.write(
                        method, code, caller, error, seconds, public=public, device_fields=fields
                    )
            # Free the request before the status is sent. Through its traceback, the error would
            # keep this frame and the call in memory until a garbage collection.
            request = response = None
            error.__traceback__ = error.__context__ = error.__cause__ = None
            await abort(context, error, caller.tenant_id if caller else None)
            return None

        # gRPC passes raw requests, and takes responses that are serialized already.
        if handler.response_streaming:
            count_sent = metrics.count_sent if metrics else None
            return grpc.stream_stream_rpc_method_handler(serve, None, count_sent)
        return grpc.stream_unary_rpc_method_handler(serve, None, None)

    async def _authenticate(self, context: Context, metadata: Metadata) -> Principal:
        if self._trusted_peers:
            auth_context: Any = context.auth_context()
            self._trusted_peers.check(auth_context)
        if has_forwarded_certificate(metadata):
            if self._authenticate_forwarded is None:
                raise InvalidCertificate(NOT_A_GATEWAY)
            return await self._authenticate_forwarded(context, metadata)
        return await self._authenticator.authenticate(metadata)


def _method_of_service(handler: Handler) -> Any:
    """Return the method of the service that handles a call."""
    return (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
