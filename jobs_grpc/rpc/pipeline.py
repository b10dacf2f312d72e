"""The interceptors that every call passes through, in order."""

import asyncio
from collections.abc import Sequence

from grpc.aio import ServerInterceptor

from jobs_grpc.auth.authenticator import Authenticator
from jobs_grpc.auth.peers import TrustedPeers
from jobs_grpc.config import Config
from jobs_grpc.rpc.access_log import AccessLog
from jobs_grpc.rpc.audit_log import AuditLog
from jobs_grpc.rpc.authentication import Authentication, Authorization
from jobs_grpc.rpc.deferred_read import DeferredRead
from jobs_grpc.rpc.error_status import ErrorStatus
from jobs_grpc.rpc.handler_cache import HandlerCache
from jobs_grpc.rpc.in_flight import InFlight
from jobs_grpc.rpc.limits import ServerLimits, TenantLimits
from jobs_grpc.rpc.rate_limiter import RateLimiter
from jobs_grpc.rpc.request_reader import RequestReader
from jobs_grpc.rpc.token_expiry import TokenExpiry


def interceptors(
    config: Config,
    in_flight: InFlight,
    stopping: asyncio.Event,
    authenticator: Authenticator,
    peers: TrustedPeers | None,
) -> Sequence[ServerInterceptor]:
    """The interceptors, outermost first.

    `stopping` is set when the server begins to stop.
    """
    return (
        HandlerCache(),
        DeferredRead(),
        AccessLog(in_flight),
        ErrorStatus(stopping),
        AuditLog(),
        ServerLimits(config),
        Authentication(authenticator, peers),
        TenantLimits(config),
        *([RateLimiter(config.limits.max_tenant_rate)] if config.limits.max_tenant_rate else []),
        RequestReader(config.limits.max_request_bytes, config.limits.request_read_timeout),
        Authorization(),
        TokenExpiry(),
    )
