"""CrewAI's events, heard where they are emitted, and told to our blocks."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from crewai import Agent, Crew
from crewai.events import event_bus
from crewai.flow.flow import Flow

from ...blocks import installed
from ...events import CacheHit, DomainEvent
from ...observe import LlmBlock
from ..losses import Shielded
from ..wrapping import wrap
from . import mapping, moments
from .messages import tool_calls
from .scopes import Kind, Scope, Scopes, agent_of, current

_UNSEEN = Shielded("an event of CrewAI's could not be observed")

#: Where runs begin: what is left open there has been cancelled, or stopped by an exception that no event tells of.
_ENTRANCES: tuple[tuple[type[Any], tuple[str, ...]], ...] = (
    (Crew, ("kickoff", "akickoff", "replay")),
    (Agent, ("kickoff", "kickoff_async", "execute_task", "aexecute_task")),
    (Flow, ("kickoff_async", "resume_async")),
)

#: Where CrewAI keeps the flows that are its own making; older versions do not mark them.
_MACHINERY = ("crewai.agents.", "crewai.experimental.", "crewai.memory.")


class Listener:
    """Hears every event of this process's bus, as long as it is on or a run that it has seen begin is going on."""

    #: CrewAI's own listeners go on as they were.
    chained = False

    def __init__(self) -> None:
        self.scopes = Scopes(self._idle)
        self._undo: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._heard: Mapping[str, Callable[[Any, Any], None]] = {
            "crew_kickoff_started": self._crew_started,
            "crew_kickoff_completed": self._ends("crew", mapping.crew_end),
            "crew_kickoff_failed": self._fails("crew"),
            "flow_started": self._flow_started,
            "flow_finished": self._ends("flow", mapping.flow_end),
            "flow_failed": self._fails("flow"),
            "flow_paused": self._ends("flow", lambda event: {"crewai.flow.paused": True}),
            "agent_execution_started": self._agent_started,
            "agent_execution_completed": self._ends("agent", lambda event: {"output": event.output}),
            "agent_execution_error": self._fails("agent"),
            "lite_agent_execution_started": self._agent_started,
            "lite_agent_execution_completed": self._ends("agent", lambda event: {"output": event.output}),
            "lite_agent_execution_error": self._fails("agent"),
            "llm_call_started": self._llm_started,
            "llm_stream_chunk": self._llm_chunk,
            "llm_thinking_chunk": self._llm_chunk,
            "llm_call_completed": self._llm_completed,
            "llm_call_failed": self._llm_failed,
            "tool_usage_started": self._tool_started,
            "tool_usage_finished": self._tool_finished,
            "tool_usage_error": self._fails("tool"),
            **dict.fromkeys(moments.TOLD, self._moment),
        }

    def on(self) -> None:
        """Observe what begins from now on."""
        with self._lock:
            self.scopes.on = True
            if not self._undo:
                self._undo.append(wrap(event_bus.CrewAIEventsBus, "emit", self._listening))
                self._undo.extend(self._guard(owner, name) for owner, name in entrances())

    def off(self) -> None:
        """Leave CrewAI as it was found, once the runs that have begun are over."""
        self.scopes.on = False
        if not len(self.scopes):
            self._idle()

    def _idle(self) -> None:
        with self._lock:
            if self.scopes.on:
                return
            for undo in reversed(self._undo):
                undo()
            self._undo.clear()

    # -- where we listen -----------------------------------------------------------------------------------------------

    def _listening(self, emit: Callable[..., Any]) -> Callable[..., Any]:
        def emitting(bus: Any, source: Any, event: Any, *args: Any, **named: Any) -> Any:
            result = emit(bus, source, event, *args, **named)
            with _UNSEEN:
                heard = self._heard.get(event.type)
                if heard is not None and self.scopes.listening:
                    heard(source, event)
            return result

        return emitting

    def _guard(self, owner: Any, name: str) -> Callable[[], None]:
        """Have a method end what it has left open. It stays what it is: a function, or a coroutine function."""
        found = vars(owner)[name]
        scopes = self.scopes
        if inspect.iscoroutinefunction(found):

            @functools.wraps(found)
            async def guarded(*args: Any, **named: Any) -> Any:
                with _Guard(scopes):
                    return await found(*args, **named)
        else:

            @functools.wraps(found)
            def guarded(*args: Any, **named: Any) -> Any:
                with _Guard(scopes):
                    return found(*args, **named)

        setattr(owner, name, guarded)

        def undo() -> None:
            if vars(owner).get(name) is guarded:
                setattr(owner, name, found)

        return undo

    # -- what we hear --------------------------------------------------------------------------------------------------

    def _crew_started(self, source: Any, event: Any) -> None:
        self.scopes.begin("crew", id(source), mapping.crew_block(source, event))

    def _flow_started(self, source: Any, event: Any) -> None:
        if not _is_machinery(source):
            self.scopes.begin("flow", id(source), mapping.flow_block(source, event))

    def _agent_started(self, source: Any, event: Any) -> None:
        block = mapping.agent_block(source, event)
        before = current()
        while before is not None and before.kind == "llm":
            before = before.parent
        if before is not None and (before.kind, before.key) == ("agent", id(source)):
            # It is tried again, from where the error of the attempt before is being handled: some versions tell of
            # that at the end only, and for the last attempt.
            self.scopes.end(before, sys.exc_info()[1])
        self.scopes.begin("agent", id(source), block)

    def _llm_started(self, source: Any, event: Any) -> None:
        self.scopes.begin("llm", event.call_id, mapping.llm_block(source, event))

    def _llm_chunk(self, source: Any, event: Any) -> None:
        scope = self.scopes.find("llm", event.call_id)
        if scope is not None and isinstance(scope.block, LlmBlock):
            scope.block.first_chunk()

    def _llm_completed(self, source: Any, event: Any) -> None:
        scope = self.scopes.find("llm", event.call_id)
        if scope is None:  # told a second time
            return
        agent = agent_of(scope)
        if agent is not None:
            with _UNSEEN:
                agent.asked(tool_calls(event.response))
        self._over(scope, mapping.llm_end, event)

    def _llm_failed(self, source: Any, event: Any) -> None:
        self._failed(self.scopes.find("llm", event.call_id), event)

    def _tool_started(self, source: Any, event: Any) -> None:
        agent = agent_of(current())
        id_given = None if agent is None else agent.tool_call_id(event.tool_name, event.tool_args)
        self.scopes.begin("tool", id(source), mapping.tool_block(event, id_given))

    def _tool_finished(self, source: Any, event: Any) -> None:
        scope = self.scopes.find("tool", id(source))
        if scope is None:
            return
        if getattr(event, "from_cache", False):
            _emit(CacheHit(cache_type="tool", tokens_saved=0))
        self._over(scope, mapping.tool_end, event)

    def _moment(self, source: Any, event: Any) -> None:
        _emit(DomainEvent(name=f"crewai.{event.type}", data=moments.data(event)))

    def _ends(self, kind: Kind, said: Callable[[Any], dict[str, Any]]) -> Callable[[Any, Any], None]:
        def ended(source: Any, event: Any) -> None:
            scope = self.scopes.find(kind, id(source))
            if scope is not None:
                self._over(scope, said, event)

        return ended

    def _over(self, scope: Scope, said: Callable[[Any], dict[str, Any]], event: Any) -> None:
        """End a scope with what its event says, and all the same where we fail to read that."""
        fields: dict[str, Any] = {}
        with _UNSEEN:
            fields = said(event)
        self.scopes.end(scope, **fields)

    def _fails(self, kind: Kind) -> Callable[[Any, Any], None]:
        return lambda source, event: self._failed(self.scopes.find(kind, id(source)), event)

    def _failed(self, scope: Scope | None, event: Any) -> None:
        if scope is not None:
            error, said = mapping.failure(event)
            self.scopes.end(scope, error, **said)


class _Guard:
    """A `with` around a run: whatever has begun in it and is still open when it is left, ends with it."""

    __slots__ = ("_before", "_scopes")

    def __init__(self, scopes: Scopes) -> None:
        self._scopes = scopes
        self._before = current()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with _UNSEEN:
            self._scopes.leave(self._before, error)


_listener = Listener()


def instrument() -> Listener:
    """Observe every crew, flow and agent in this process."""
    _listener.on()
    return _listener


def entrances() -> Iterator[tuple[type[Any], str]]:
    """The methods in which runs begin, each with the class that has it: CrewAI's own may inherit them."""
    for owner, names in _ENTRANCES:
        for name in names:
            for kind in owner.__mro__:
                if name in vars(kind):
                    yield kind, name
                    break


def _is_machinery(flow: Any) -> bool:
    """Whether it is a flow of CrewAI's own making, which runs an agent's loop or its memory."""
    kind = type(flow)
    return bool(getattr(kind, "is_crewai_internal", False)) or kind.__module__.startswith(_MACHINERY)


def _emit(event: Any) -> None:
    runtime = installed()
    if runtime is not None:
        runtime.emit(event)
