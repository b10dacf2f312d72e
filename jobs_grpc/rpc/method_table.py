"""The methods that the server serves, by their full names."""

from collections.abc import Callable, Mapping
from typing import Any

import grpc


class MethodTable(grpc.GenericRpcHandler):
    """Finds the handler of a call. Generated code registers services here as with a server.

    Each handler is wrapped once, when it is registered.
    """

    def __init__(
        self, wrap: Callable[[str, Any], Any], serves: Callable[[str], bool] = lambda _: True
    ) -> None:
        """Serve only the methods for which `serves` returns True; others are unknown."""
        self._wrap = wrap
        self._serves = serves
        self._handlers: dict[str, Any] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Serve the methods of a service."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            if self._serves(method):
                self._handlers[method] = self._wrap(method, handler)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignore the generic handlers: generated code registers the same methods both ways."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call; None if the method is unknown."""
        return self._handlers.get(str(handler_call_details.method))
