"""Where a callback came from, and the context in which it ran.

LangChain calls handlers from the code that runs a step, and says nothing about that code. But whether a block may be
current there depends on it: a function has the step all to itself, a generator gives control to its consumer in
between. So the calling frame is looked at: its name, its module, and whether it is a generator's.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

from langchain_core.runnables.config import var_child_runnable_config

from ...blocks import Block
from ...callbacks import hold

#: Through which a callback passes on its way to the handler.
_MANAGERS = "langchain_core.callbacks."
_NODES = "langgraph._internal._runnable"
_GRAPHS = "langgraph.pregel"
_OURS = __name__.rpartition(".")[0]
_HELPERS = frozenset(("_start", "_astart"))
#: The functions that begin one run, run it, and end it before they return.
_WHOLE = frozenset(
    ("invoke", "ainvoke", "_call_with_config", "_acall_with_config", "generate", "agenerate", "run", "arun")
)
_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Place(NamedTuple):
    """The code that has begun a run."""

    name: str
    module: str
    flags: int
    #: Its variables, and the object that has called the handlers, which lives at least as long as it runs.
    local: Mapping[str, Any]
    manager: Any

    @property
    def is_generator(self) -> bool:
        """Whether its consumer goes on between its steps."""
        return bool(self.flags & _GENERATOR)

    @property
    def is_async(self) -> bool:
        """Whether the end is told in another task than the beginning."""
        return bool(self.flags & _ASYNC)

    @property
    def is_graph(self) -> bool:
        """Whether it is a graph's run as a whole."""
        return self.module.startswith(_GRAPHS) and self.is_generator

    @property
    def is_whole(self) -> bool:
        """Whether nobody else's code runs here between the beginning and the end but what belongs to the run.

        A node's sequence is a generator in some modes; then it is LangGraph itself that consumes it.
        """
        return self.module == _NODES or (self.name in _WHOLE and not self.is_generator)

    def shared(self) -> Place:
        """The same place as one where other runs begin and end meanwhile."""
        return self._replace(name="")


_NOWHERE = Place("", "", 0, {}, None)


def calling() -> Place:
    """The code that has called this callback, whatever it passed through."""
    frame: FrameType | None = sys._getframe(1)
    manager = None
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        name = frame.f_code.co_name
        if module.startswith(_MANAGERS):
            manager = frame.f_locals.get("self")
        elif not module.startswith(_OURS) and not (name in _HELPERS and module == _NODES):
            return Place(name, module, frame.f_code.co_flags, frame.f_locals, manager)
        frame = frame.f_back
    return _NOWHERE


def is_context_of(run_id: Any) -> bool:
    """Whether this context is one that LangChain has made for what runs inside of that run."""
    config = var_child_runnable_config.get()
    callbacks = None if config is None else config.get("callbacks")
    return run_id is not None and getattr(callbacks, "parent_run_id", None) == run_id


#: What tells one context from another: there is no way to ask which one is current.
_here: ContextVar[object] = ContextVar("otel_agentbus.langchain.here")


def hold_here(block: Block, place: Place) -> Callable[[], None] | None:
    """Make a block current here; gives back how to leave it, from wherever the end is told.

    LangChain tells the end of what is async in a task of its own, which has a copy of the context. What was set here
    is set back here, where the task that waits for it will go on. None where that would not be possible.
    """
    if not place.is_async:
        return hold(block)
    context = _running_context()
    return None if context is None else partial(_leave_in, context, hold(block))


def _leave_in(context: Context, leave: Callable[[], None]) -> None:
    if _is_here(context):
        leave()
        return
    try:
        context.run(leave)
    except RuntimeError:  # it is in use right now: the end is told by an eager task, within this context's own step
        asyncio.get_running_loop().call_soon(leave, context=context)


def _is_here(context: Context) -> bool:
    mark = object()
    _here.set(mark)
    return context.get(_here) is mark


def _running_context() -> Context | None:
    """The context of the current task itself, not a copy; None where this code runs in another one."""
    task: Any = asyncio.current_task()
    get_context = getattr(task, "get_context", None)
    # Before 3.12 a task does not give it away, but to the garbage collector.
    found = gc.get_referents(task) if get_context is None else [get_context()]
    return next((one for one in found if isinstance(one, Context) and _is_here(one)), None)
