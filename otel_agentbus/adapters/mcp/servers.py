"""The answering side: a tool call that a server of this process handles goes on where its client has left off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ... import observe
from ...blocks import Block
from ...callbacks import hold
from ...carriers import ENTRY, Resumed, extract, resume
from ...errors import BudgetExceeded
from ..losses import Shielded
from ..nearby import asked_by_claude, calling
from ..wrapping import Function
from .calls import Asked, asked, code_of, enclosing, outcome_of

_LOST = "a call that an MCP server handles could not be observed"


class Served:
    """One call, from its coming in to its answer."""

    def __init__(self, call: Asked, meta: Any, attributes: dict[str, Any]) -> None:
        self._call = call
        self._meta = meta if isinstance(meta, Mapping) else {}
        self._attributes = attributes
        self._block: Block | None = None
        self._resumed: Resumed | None = None
        self._leave: Callable[[], None] | None = None

    def begin(self) -> None:
        """Make current what the handler runs in: the client's call where that is of this process, else one of ours."""
        told = extract(self._meta)
        run = told.invocation
        known = calling.get(told.traceparent) if run is None else calling.get((run.id, told.call))
        if known is None and self._call.is_tool:
            known = enclosing(self._call.target) or asked_by_claude(self._meta)
        if known is not None:
            self._leave = hold(known)
            return
        if told.traceparent is not None or ENTRY in self._meta:
            self._resumed = resume(told)
            self._resumed.__enter__()
        if self._call.is_tool:
            said = {"mcp.method.name": self._call.method, **self._attributes}
            block = observe.tool(self._call.target, arguments=_arguments(self._call), **said)
            try:
                self._block = block.start()
            except BaseException:
                self.end()
                raise

    def end(self, error: BaseException | None = None, **fields: Any) -> None:
        """The handler is done."""
        block, self._block = self._block, None
        if block is not None:
            block.record(**fields, **code_of(error))
            block.end(error)
        if self._resumed is not None:
            self._resumed.__exit__()
        if self._leave is not None:
            self._leave()


def _arguments(call: Asked) -> Any:
    return call.params.get("arguments") if isinstance(call.params, Mapping) else getattr(call.params, "arguments", None)


async def _answered(served: Served | None, answer: Awaitable[Any], told: Callable[[Any], dict[str, Any]]) -> Any:
    try:
        result = await answer
    except BaseException as error:
        if served is not None:
            with Shielded(_LOST):
                served.end(error)
        raise
    if served is not None:
        with Shielded(_LOST):
            served.end(**told(result))
    return result


def _begun(call: Asked | None, meta: Any, **said: Any) -> Served | None:
    if call is None:
        return None
    served = Served(call, meta, {name: value for name, value in said.items() if value is not None})
    served.begin()
    return served


class Middleware:
    """The servers of mcp 2: ours is the innermost of their middlewares."""

    def compose(self, found: Function) -> Function:
        """Around what puts a server's middlewares together."""

        def compose(runner: Any, inner: Any) -> Any:
            async def handle(context: Any) -> Any:
                served = None
                with Shielded(_LOST):
                    served = self._begin(context)
                if served is None:
                    return await inner(context)
                return await _answered(served, inner(context), outcome_of)

            return found(runner, handle)

        return compose

    def _begin(self, context: Any) -> Served | None:
        if context.request_id is None:
            return None
        params = context.params or {}
        request = getattr(context, "request", None)
        headers = getattr(request, "headers", None) or {}
        return _begun(
            asked(context.method, params),
            params.get("_meta"),
            **{
                "mcp.protocol.version": context.protocol_version,
                "mcp.session.id": headers.get("mcp-session-id"),
                "jsonrpc.request.id": str(context.request_id),
                "network.protocol.name": None if request is None else "http",
            },
        )


class Handlers:
    """The servers of mcp 1: what a request gave is known where it is answered."""

    def __init__(self, refusal: Callable[[str], Any]) -> None:
        self._answers: dict[int, Any] = {}
        self._refusal = refusal

    def handle_request(self, found: Function) -> Function:
        """Around a server's handling of one request."""

        async def handle_request(server: Any, message: Any, request: Any, *args: Any, **named: Any) -> Any:
            served = None
            try:
                with Shielded(_LOST):
                    served = self._begin(message, request)
            except BudgetExceeded as refused:  # raised here, it would end the whole server
                return await message.respond(self._refusal(str(refused)))
            if served is None:
                return await found(server, message, request, *args, **named)
            self._answers[id(message)] = None
            try:
                return await _answered(
                    served, found(server, message, request, *args, **named), lambda _: self._told(message)
                )
            finally:
                self._answers.pop(id(message), None)

        return handle_request

    def _begin(self, message: Any, request: Any) -> Served | None:
        params = getattr(request, "params", None)
        meta = getattr(params, "meta", None)
        return _begun(
            asked(getattr(request, "method", None), params),
            None if meta is None else meta.model_dump(by_alias=True, exclude_none=True),
            **{"jsonrpc.request.id": str(getattr(message, "request_id", ""))},
        )

    def _told(self, message: Any) -> dict[str, Any]:
        answer = self._answers.get(id(message))
        if answer is None:  # nothing was sent: the client has gone, or wants it no more
            return {"outcome": "cancelled"}
        answer = getattr(answer, "root", answer)
        code = getattr(answer, "code", None)
        if code is not None:
            return {"outcome": "error", "error_type": str(code), "error_message": getattr(answer, "message", None)}
        return outcome_of(answer)

    def respond(self, found: Function) -> Function:
        """Around the sending of an answer."""

        async def respond(message: Any, response: Any) -> Any:
            if id(message) in self._answers:
                self._answers[id(message)] = response
            return await found(message, response)

        return respond
