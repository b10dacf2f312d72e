"""FleetClient: the operators' API for devices."""

from collections.abc import Iterable, Sequence
from typing import Self

from fleet.jobs.v1 import fleet_pb2 as pb
from fleet.jobs.v1 import fleet_pb2_grpc

from jobs_grpc.client.calls import Caller, ServiceCalls, TokenSource
from jobs_grpc.client.channel import Connection
from jobs_grpc.client.pager import Pager
from jobs_grpc.client.retry import RetryPolicy


class FleetClient:
    """Calls FleetService for one tenant. Use it with `async with`, in one event loop.

    Parameters that have the name of a field in the contract have its meaning, limits and default.
    Every call raises JobsError. A call that is safe to repeat is tried again after a transient
    error; other calls only if the server refused them because of a limit.
    """

    def __init__(
        self,
        server: str | Connection,
        *,
        tenant: str | None = None,
        user: str | None = None,
        roles: Sequence[str] = (),
        token: TokenSource | None = None,
        timeout: float = 30.0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - immutable
    ) -> None:
        """Call `server`: HOST:PORT, unix:PATH, or a Connection for TLS or several channels.

        `timeout` is in seconds, for each call with its retries. `token` is called before each try.
        """
        caller = Caller(tenant=tenant, user=user, roles=roles, token=token)
        self._calls = ServiceCalls(
            server, fleet_pb2_grpc.FleetServiceStub, caller, timeout=timeout, retry=retry
        )

    async def __aenter__(self) -> Self:
        await self._calls.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._calls.__aexit__(*exception)

    def devices(
        self,
        selector: str = "",
        *,
        device_id_prefix: str = "",
        page_size: int = 100,
        page_token: str = "",
        limit: int | None = None,
    ) -> Pager[pb.Device]:
        """List the devices that match a selector, by device_id ascending.

        `limit` is the maximum number of devices of all pages; None: all.
        """
        request = pb.ListDevicesRequest(selector=selector, device_id_prefix=device_id_prefix)

        async def fetch(size: int, token: str) -> tuple[Iterable[pb.Device], str]:
            request.limit, request.page_token = size, token
            page = await self._calls.unary("ListDevices", request, pb.ListDevicesResponse)
            return page.devices, page.next_page_token

        return Pager(fetch, page_size=page_size, page_token=page_token, limit=limit)
