"""The places of the SDK where we stand, each put back by `off()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcp.client.session import ClientSession

from ..wrapping import Function, wrap
from .clients import Clients
from .servers import Handlers, Middleware


class Instrumentation:
    """What `instrument` has wrapped, until `off()`; calls that are on their way are observed to their end."""

    chained = False

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._clients = Clients(ClientSession)

    def on(self) -> Instrumentation:
        """Wrap; undone again where that cannot be done as a whole."""
        try:
            for owner, name, around in self._places():
                self._undo.append(wrap(owner, name, around))
        except BaseException:
            self.off()
            raise
        return self

    def _places(self) -> list[tuple[Any, str, Callable[[Function], Function]]]:
        clients = self._clients
        if "send_request" in vars(ClientSession):  # mcp 2
            from mcp.server.runner import ServerRunner

            middleware = Middleware()
            return [
                (ClientSession, "send_request", clients.send_request),
                (ServerRunner, "_compose_server_middleware", middleware.compose),
            ]
        from mcp.server.lowlevel.server import Server
        from mcp.shared.session import BaseSession, RequestResponder
        from mcp.types import INTERNAL_ERROR, ErrorData

        handlers = Handlers(lambda why: ErrorData(code=INTERNAL_ERROR, message=why))
        return [
            (BaseSession, "send_request", clients.send_request),
            (Server, "_handle_request", handlers.handle_request),
            (RequestResponder, "respond", handlers.respond),
        ]

    def off(self) -> None:
        """Put everything back as it was found."""
        while self._undo:
            self._undo.pop()()


def instrument() -> Instrumentation:
    """Observe every MCP client and server of this process."""
    return Instrumentation().on()


__all__ = ["Instrumentation", "instrument"]
