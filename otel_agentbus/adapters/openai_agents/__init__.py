"""The OpenAI Agents SDK, observed: by a processor of its traces, and by hooks that every run of it gets.

The processor is added beside those that are there, so that the SDK uploads what it did before; the SDK cannot remove
one, so ours stays and is silent while it is off. Its spans tell of agents, tools and their nesting, in the place where
the program runs; the hooks tell what the spans leave out, and may stop a run. Tested with openai-agents 0.17.2 and
0.24.0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents import Runner
from agents.stream_events import RawResponsesStreamEvent
from agents.tool_context import ToolContext
from agents.tracing.spans import SpanImpl

from ..losses import Shielded
from ..wrapping import wrap
from .runs import Function, running, starting
from .spans import Observer

_UNSEEN = Shielded("a tool call of the Agents SDK could not be observed")

#: One in a process: the SDK keeps it as long as it lives.
_observer = Observer()


class Instrumentation:
    """What `instrument` has switched on, until `off()`."""

    chained = False

    def __init__(self, undo: list[Callable[[], None]]) -> None:
        self._undo = undo

    def off(self) -> None:
        """Observe no new runs; the Runner is as it was found, and our processor hears to the end what has begun."""
        _observer.blocks.off()
        while self._undo:
            self._undo.pop()()


def instrument() -> Instrumentation:
    """Observe every run of an agent in this process."""
    _observer.blocks.on = True
    _observer.listen()
    return Instrumentation(
        [
            wrap(Runner, "run", running(_observer)),
            wrap(Runner, "run_sync", starting(_observer, streamed=False)),
            wrap(Runner, "run_streamed", starting(_observer, streamed=True)),
            wrap(ToolContext, "from_agent_context", _preparing),
            wrap(SpanImpl, "set_error", _failing),
            wrap(RawResponsesStreamEvent, "__init__", _arriving),
        ]
    )


def _preparing(found: Function) -> Function:
    def from_agent_context(*args: Any, **named: Any) -> Any:
        context = found(*args, **named)
        with _UNSEEN:
            _observer.tool_is_prepared(context)
        return context

    return from_agent_context


def _failing(found: Function) -> Function:
    def set_error(span: Any, *args: Any, **named: Any) -> Any:
        with _UNSEEN:
            _observer.has_failed(span)
        return found(span, *args, **named)

    return set_error


def _arriving(found: Function) -> Function:
    def init(*args: Any, **named: Any) -> None:
        found(*args, **named)
        with _UNSEEN:
            _observer.chunk_arrives()

    return init


__all__ = ["Instrumentation", "instrument"]
