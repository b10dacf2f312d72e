"""What every call goes through before it reaches a service, and on its way back."""

import asyncio
from collections.abc import Sequence

from grpc.aio import ServerInterceptor

from jobs_grpc.auth.callers import Callers
from jobs_grpc.auth.peers import TrustedPeers
from jobs_grpc.config import Config
from jobs_grpc.interceptors.audit import Audit
from jobs_grpc.interceptors.authenticate import Authenticate, Authorize
from jobs_grpc.interceptors.errors import Errors
from jobs_grpc.interceptors.expire import EndWithToken
from jobs_grpc.interceptors.limits import ServerLimits, TenantLimits
from jobs_grpc.interceptors.messages import Messages
from jobs_grpc.interceptors.observe import InFlight, Observe
from jobs_grpc.interceptors.once import Once
from jobs_grpc.interceptors.pace import Pace
from jobs_grpc.interceptors.unread import Unread

__all__ = ["InFlight", "chain"]


def chain(
    config: Config,
    in_flight: InFlight,
    stopping: asyncio.Event,
    callers: Callers,
    peers: TrustedPeers | None,
) -> Sequence[ServerInterceptor]:
    """The interceptors, outermost first."""
    return (
        Once(),
        Unread(),
        Observe(in_flight),
        Errors(stopping),
        Audit(),
        ServerLimits(config),
        Authenticate(callers, peers),
        TenantLimits(config),
        *([Pace(config.max_tenant_rate)] if config.max_tenant_rate else []),
        Messages(config.max_request_bytes, config.message_timeout),
        Authorize(),
        EndWithToken(),
    )
