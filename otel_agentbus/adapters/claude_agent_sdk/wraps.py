"""The places of the SDK where we stand, each put back by `off()`.

`query()` asks `InternalClient.process_query`, whoever has imported it and when; a `ClaudeSDKClient` connects; both make
a `Query`, which reads the program's lines from a transport: there we listen, at the SDK's own abstraction.
"""

from __future__ import annotations

import contextvars
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

from claude_agent_sdk import ClaudeSDKClient
from claude_agent_sdk._internal.client import InternalClient
from claude_agent_sdk._internal.query import Query
from mcp.server.lowlevel.server import Server

from ...callbacks import OpenBlocks, hold
from ...errors import BudgetExceeded
from ...streams import stepped
from ..losses import Shielded
from ..nearby import CLAUDE, asked_by_claude, calling
from ..wrapping import Function, wrap
from .sessions import Session

_ASKED = "what Claude Code asks for could not be observed"
#: The session that the next `Query` of this context is to be listened to for.
_coming: contextvars.ContextVar[Session | None] = contextvars.ContextVar("otel_agentbus.claude_agent_sdk", default=None)


class Listening:
    """A transport that lets us hear what is read from it, and is the application's or the SDK's own in all else."""

    def __init__(self, transport: Any, session: Session) -> None:
        self._transport = transport
        self._session = session

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        """The transport's lines, each told before it is handed on. A budget that is exceeded ends the stream."""
        session = self._session
        try:
            async for line in self._transport.read_messages():
                session.hear(line)
                yield line
        except Exception as error:
            session.over(error)
            raise
        session.over()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_transport"], name)


class Instrumentation:
    """What `instrument` has wrapped, until `off()`; sessions that have begun are observed to their end."""

    chained = False

    def __init__(self) -> None:
        self.blocks = OpenBlocks()
        self._sessions: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()
        self._clients: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()
        self._undo: list[Callable[[], None]] = []

    def on(self) -> Instrumentation:
        """Wrap; undone again where that cannot be done as a whole."""
        places: list[tuple[Any, str, Callable[[Function], Function]]] = [
            (InternalClient, "process_query", self._process_query),
            (ClaudeSDKClient, "connect", self._connect),
            (ClaudeSDKClient, "query", self._query),
            (Query, "__init__", self._init),
            (Query, "_handle_control_request", self._handle_control_request),
            (Query, "interrupt", self._interrupt),
            (Query, "close", self._close),
        ]
        if "_handle_request" in vars(Server):  # mcp 1
            places.append((Server, "_handle_request", self._handle_request))
        try:
            for owner, name, around in places:
                self._undo.append(wrap(owner, name, around))
        except BaseException:
            self.off()
            raise
        return self

    def off(self) -> None:
        """Put everything back as it was found."""
        self.blocks.off()
        while self._undo:
            self._undo.pop()()

    # -- `query()` ----------------------------------------------------------------------------------------------------

    def _process_query(self, found: Function) -> Function:
        def process_query(client: Any, prompt: Any, options: Any, *args: Any, **named: Any) -> Any:
            session = context = None
            with Shielded("a query of the Claude Agent SDK could not be observed"):
                session = Session(self.blocks, options)
                session.awaited = True
                session.prompt(prompt)
                context = contextvars.copy_context()
                context.run(_coming.set, session)
                context.run(session.inside)
            messages = found(client, prompt, options, *args, **named)
            if session is None or context is None:
                return messages
            return stepped(messages, context, ended=session.over)

        return process_query

    # -- `ClaudeSDKClient` --------------------------------------------------------------------------------------------

    def _connect(self, found: Function) -> Function:
        async def connect(client: Any, prompt: Any = None) -> Any:
            session = leave = None
            with Shielded("a client of the Claude Agent SDK could not be observed"):
                session = self._clients[client] = Session(self.blocks, client.options)
                if prompt is not None:
                    session.prompt(prompt)
                    leave = session.inside()
            if session is None:
                return await found(client, prompt)
            token = _coming.set(session)
            session.awaited = True
            try:
                return await found(client, prompt)
            except BaseException as error:
                session.over(error)
                raise
            finally:
                session.awaited = False
                _coming.reset(token)
                if leave is not None:
                    leave()

        return connect

    def _query(self, found: Function) -> Function:
        async def query(client: Any, prompt: Any, session_id: str = "default") -> Any:
            session = None
            with Shielded("a prompt to the Claude Agent SDK could not be observed"):
                session = self._clients.get(client)
                if session is not None and session.taken:
                    session.prompt(prompt, session_id if session_id != "default" else None)
            try:
                return await found(client, prompt, session_id)
            except BaseException as error:
                if session is not None:
                    session.over(error)
                raise

        return query

    # -- the connection -----------------------------------------------------------------------------------------------

    def _init(self, found: Function) -> Function:
        def init(query: Any, *args: Any, **named: Any) -> None:
            found(query, *args, **named)
            with Shielded("a connection of the Claude Agent SDK could not be listened to"):
                session = _coming.get()
                if session is not None and not session.taken:
                    session.taken = True
                    self._sessions[query] = session
                    query.transport = Listening(query.transport, session)

        return init

    def _handle_control_request(self, found: Function) -> Function:
        async def handle(query: Any, request: Any) -> Any:
            leave, session, tool = None, self._sessions.get(query), None
            if session is not None:
                with Shielded(_ASKED):
                    try:
                        tool = session.tool_of(request["request"])
                    except BudgetExceeded:
                        pass  # the line that asks for this tool will say so to the consumer
                    leave = session.inside(tool)
                    block = None if tool is None else session.block_of(tool)
                    if block is not None:
                        calling[CLAUDE, tool] = block
            try:
                return await found(query, request)
            finally:
                if tool is not None:
                    calling.pop((CLAUDE, tool), None)
                if leave is not None:
                    leave()

        return handle

    def _handle_request(self, found: Function) -> Function:
        """Around what handles a request in a server of mcp 1, whose tasks know nothing of who asks."""

        async def handle(server: Any, message: Any, request: Any, *args: Any, **named: Any) -> Any:
            leave = None
            with Shielded(_ASKED):
                meta = getattr(getattr(request, "params", None), "meta", None)
                block = None if meta is None else asked_by_claude(meta.model_extra)
                leave = None if block is None else hold(block)
            try:
                return await found(server, message, request, *args, **named)
            finally:
                if leave is not None:
                    leave()

        return handle

    def _interrupt(self, found: Function) -> Function:
        async def interrupt(query: Any) -> Any:
            session = self._sessions.get(query)
            if session is not None:
                session.interrupt()
            return await found(query)

        return interrupt

    def _close(self, found: Function) -> Function:
        async def close(query: Any) -> Any:
            try:
                return await found(query)
            finally:
                session = self._sessions.pop(query, None)
                if session is not None and not session.awaited:
                    session.over()

        return close


def instrument() -> Instrumentation:
    """Observe every `query()` and every `ClaudeSDKClient` of this process that connects from now on."""
    return Instrumentation().on()


__all__ = ["Instrumentation", "Listening", "instrument"]
