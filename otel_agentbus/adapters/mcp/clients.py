"""The asking side: a client's tool call is a block, and tells the server whose it is."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Any

from ... import observe
from ...blocks import Block, describe, installed
from ...carriers import extract
from ...events import DomainEvent
from ..losses import Shielded
from ..nearby import calling, place_of
from ..wrapping import Function
from .calls import Asked, asked, carried, code_of, enclosing, outcome_of

_LOST = "a call of an MCP client could not be observed"


class Clients:
    """The clients of this process."""

    def __init__(self, kind: type[Any]) -> None:
        self._kind = kind

    def send_request(self, found: Function) -> Function:
        """Around `send_request` of a session."""

        def send_request(session: Any, request: Any, *args: Any, **named: Any) -> Any:
            call = None
            with Shielded(_LOST):
                plain = getattr(request, "root", request)
                if isinstance(session, self._kind):
                    call = asked(getattr(plain, "method", None), getattr(plain, "params", None))
            if call is None:
                return found(session, request, *args, **named)
            sent = _Sent(session, call)
            return sent.run(found, request, args, named)

        return send_request


class _Sent:
    """One request, from its sending to its answer."""

    def __init__(self, session: Any, call: Asked) -> None:
        self._session = session
        self._call = call
        self._own: Block | None = None
        self._block: Block | None = None
        self._places: list[Hashable] = []
        self._began = time.perf_counter()

    async def run(self, found: Function, request: Any, args: Any, named: Any) -> Any:
        """Send it, and give back what came, as it came."""
        with Shielded(_LOST):
            self._begin()
        with Shielded(_LOST):
            request = self._carrying(request)
        try:
            result = await found(self._session, request, *args, **named)
        except BaseException as error:
            with Shielded(_LOST):
                self._end(error, code_of(error))
            raise
        with Shielded(_LOST):
            self._end(None, outcome_of(result) if self._call.is_tool else {})
        return result

    def _begin(self) -> None:
        if not self._call.is_tool:
            return
        attributes = self._attributes()
        block: Block | None = enclosing(self._call.target)
        if block is None:
            arguments = getattr(self._call.params, "arguments", None)
            block = observe.tool(self._call.target, arguments=arguments, **attributes)
            self._own = block.start()
        else:
            block.record(attributes=attributes)
        self._block = block

    def _carrying(self, request: Any) -> Any:
        """The request with the place of here, by which a server of this very process knows the call, too."""
        sent, meta = with_place(request)
        if self._block is not None:
            told = extract(meta)
            self._places = [place for place in (place_of(self._block), told.traceparent) if place is not None]
            calling.update(dict.fromkeys(self._places, self._block))
        return sent

    def _attributes(self) -> dict[str, Any]:
        version = getattr(self._session, "protocol_version", None)
        said = {"mcp.method.name": self._call.method, "mcp.protocol.version": version}
        return {name: value for name, value in said.items() if value is not None}

    def _end(self, error: BaseException | None, fields: dict[str, Any]) -> None:
        for place in self._places:
            calling.pop(place, None)
        if self._own is not None:
            self._own.record(**fields)
            self._own.end(error)
        elif not self._call.is_tool:
            self._tell(error, fields)

    def _tell(self, error: BaseException | None, fields: dict[str, Any]) -> None:
        runtime = installed()
        if runtime is None:
            return
        outcome, kind, _ = ("ok", None, None) if error is None else describe(error)
        data: dict[str, Any] = {
            "method": self._call.method,
            "target": self._call.target,
            "outcome": outcome,
            "error_type": kind,
            "seconds": round(time.perf_counter() - self._began, 6),
            **fields,
        }
        runtime.emit(DomainEvent(name="mcp.request", data={k: v for k, v in data.items() if v is not None}))


def with_place(request: Any) -> tuple[Any, dict[str, Any]]:
    """The request with the place of here in its metadata, and that; the application's own object stays as it is."""
    plain = getattr(request, "root", request)
    given = plain.params.meta
    told = carried(given)
    meta: Any = told
    if given is not None and not isinstance(given, dict):
        meta = type(given).model_validate(told)
    elif plain is not request:  # mcp 1 has a model for it
        kinds = getattr(type(plain.params).model_fields["meta"].annotation, "__args__", ())
        meta = next(kind for kind in kinds if kind is not type(None)).model_validate(told)
    sent = plain.model_copy(update={"params": plain.params.model_copy(update={"meta": meta})})
    return (sent if plain is request else request.model_copy(update={"root": sent})), told
