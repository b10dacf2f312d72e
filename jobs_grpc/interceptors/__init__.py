"""What every call goes through before it reaches a service, and on its way back."""

import asyncio
from collections.abc import Sequence

from grpc.aio import ServerInterceptor

from jobs_grpc.interceptors.authenticate import Authenticate
from jobs_grpc.interceptors.errors import Errors
from jobs_grpc.interceptors.observe import InFlight, Observe

__all__ = ["InFlight", "chain"]


def chain(in_flight: InFlight, stopping: asyncio.Event) -> Sequence[ServerInterceptor]:
    """The interceptors, outermost first."""
    return (Observe(in_flight), Errors(stopping), Authenticate())
