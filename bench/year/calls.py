"""The calls of the benchmark: those of operators must succeed, and changes are recorded."""

import asyncio
from typing import Any

import grpc

from bench.year.ledger import Ledger
from jobs_grpc.client import JobsError
from tests.harness.calls import Calls, method_of
from tests.harness.ledger import OperatorCall

_TRANSIENT = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


class Callers:
    """The callers of a server."""

    def __init__(self, calls: Calls, ledger: Ledger) -> None:
        self.calls = calls
        self.ledger = ledger

    async def read(self, tenant: str, request: Any, user: str = "operator") -> Any:
        """Make a call of an operator. Return None if it fails."""
        method = method_of(request)
        while True:
            try:
                return await self.calls.call(request, tenant, user=user)
            except JobsError as e:
                if e.code not in _TRANSIENT or e.retry_after is None:
                    kind = f"{method} fails with {e.reason or e.code.name}"
                    self.ledger.problem(kind, f"{tenant} {request}: {e.message}")
                    return None
                self.ledger.done[f"{method} repeated after {e.reason}"] += 1
                await asyncio.sleep(e.retry_after)

    async def change(self, tenant: str, request: Any) -> tuple[Any, OperatorCall, str]:
        """Make a call of an operator that changes a job, as a user of its own.

        Returns the response, or None if it fails; the call; and its user.
        """
        method = method_of(request)
        user = self.ledger.begin(method, tenant, getattr(request, "job_id", ""))
        response = await self.read(tenant, request, user)
        self.ledger.end(user, accepted=response is not None)
        self.ledger.done[method] += response is not None
        return response, self.ledger.operator_calls[user], user

    async def device(self, tenant: str, device_id: str, request: Any) -> tuple[Any, str]:
        """Make a call of a device. Returns the response, or None and the reason."""
        try:
            return await self.calls.call(request, tenant, device=device_id), ""
        except JobsError as e:
            return None, e.reason or e.code.name
