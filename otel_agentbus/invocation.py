"""Who is running: the lineage of an agent run, and which one is current.

One context variable holds an immutable chain of small frames. Leaving marks a frame as ended and sets the variable to
the one above it; whoever looks passes over what has ended. A token is never reset, so nothing here can fail in a
foreign context, and a context that leaked heals itself.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
import uuid
import weakref
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from .streams import is_coroutine_function

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of one agent, and where it stands in the tree of runs. Immutable; safe to keep and to hand on.

    `path` has the agents' names from the root to this run. `trace` and `tracestate` have the outer trace and the
    sampling decision, made once for the whole tree; `parent_call_id` is the caller's call block, if it ran in one.
    """

    id: str
    parent_id: str | None = None
    root_id: str = ""
    agent: str | None = None
    path: tuple[str, ...] = ()
    attempt: int = 1
    conversation_id: str | None = None
    channel: str | None = None
    trace: str | None = None
    tracestate: str | None = None
    parent_call_id: str | None = None
    #: Whether it runs in another process, and is known here by a carrier.
    remote: bool = False

    @property
    def is_root(self) -> bool:
        """Whether no other run called this one."""
        return self.parent_id is None

    @property
    def depth(self) -> int:
        """How many runs stand above this one; 0 for a root."""
        return max(len(self.path) - 1, 0)

    @classmethod
    def root(cls, id: str | None = None, *, agent: str | None = None, **fields: Any) -> Invocation:
        """A run that nobody called, with the caller's id or a new one."""
        id = _given_or_new(id)
        return cls(id, None, id, agent, (agent,) if agent else (), **fields)

    def child(self, id: str | None = None, *, agent: str | None = None, **fields: Any) -> Invocation:
        """A run that this one calls: same root, same trace, same conversation and channel unless told otherwise."""
        return Invocation(
            _given_or_new(id),
            self.id or None,
            self.root_id,
            agent,
            (*self.path, agent) if agent else self.path,
            conversation_id=fields.pop("conversation_id", None) or self.conversation_id,
            channel=fields.pop("channel", None) or self.channel,
            trace=self.trace,
            tracestate=self.tracestate,
            **fields,
        )

    @classmethod
    def rehydrate(cls, id: str, root_id: str | None = None, **fields: Any) -> Invocation:
        """A run of another process or job, as far as a carrier tells; its own parent is not tracked."""
        return cls(text(id), None, text(root_id or id), remote=True, **fields)

    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function`, or await it, with this run as the current one, and give back what it returns."""
        return self.use().run(function, *args, **kwargs)

    @classmethod
    def run_rehydrated(
        cls, id: str | None, root_id: str | None, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call `function`, or await it, under the run that another job's ids name: its agents are that run's children.

        Without an id, agents that start in it are fresh roots, whatever is current here. A carrier's run, with its
        trace, is continued by `resume`.
        """
        scope = cls.rehydrate(id, root_id).use() if id else Scope(lambda: Boundary([]))
        return scope.run(function, *args, **kwargs)

    def use(self) -> Scope:
        """A `with` or `async with` inside which this run, which it gives, is the current one."""
        return Scope(lambda: Frame(self))

    def within(self, tool_call_id: str) -> Scope:
        """As `use`, inside a tool call of this run that is no block here: agents that start there hang under the call.

        For frameworks that tell their tool calls as events of their own (`ToolCallStart`, `ToolCall`).
        """
        call = tool_call_name(text(tool_call_id))
        return Scope(lambda: Frame(self, call))

    def push(self) -> Frame:
        """Make this run the current one until it is popped."""
        frame = Frame(self)
        enter(frame, top())
        return frame

    @staticmethod
    def pop(frame: Frame | None = None) -> None:
        """End exactly that frame, even where it is not on top, or the topmost one; without effect if it is gone."""
        frame = frame or top()
        if frame is not None and not frame.ended and not isinstance(frame, Boundary):
            leave(frame)

    @staticmethod
    def flush() -> None:
        """Forget every run here: the boundary between two jobs of one worker."""
        _current.set(Boundary([]))

    def attempted(self, attempt: int) -> Invocation:
        """The same run, tried again."""
        return replace(self, attempt=attempt)


class Frame:
    """One entry of the chain: a run, or a call block inside it (`call` is then its name for `parent_call_id`)."""

    __slots__ = ("call", "ended", "invocation", "owner", "parent")

    call: str | None
    #: Its lineage; that of a block is known from its start on.
    invocation: Invocation
    #: The thread and task in which a run began; calls have their run's.
    owner: Owner | None
    parent: Frame | None

    def __init__(self, invocation: Invocation, call: str | None = None) -> None:
        self.invocation = invocation
        self.call = call
        self.ended = False
        self.owner = owner()
        self.parent = None


class Scope:
    """Somewhere in the tree of runs, entered as often as it is used: each time is a frame of its own."""

    __slots__ = ("_frame", "_inside")

    def __init__(self, frame: Callable[[], Frame]) -> None:
        self._frame = frame
        self._inside: list[Frame] = []

    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function`, or await it, in here, and give back what it returns."""
        if is_coroutine_function(function):
            return self._run_awaited(function, *args, **kwargs)  # type: ignore[return-value]  # a coroutine, too
        frame = self._frame()
        enter(frame, top())
        try:
            return function(*args, **kwargs)
        finally:
            leave(frame)

    async def _run_awaited(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        frame = self._frame()
        enter(frame, top())
        try:
            return await function(*args, **kwargs)
        finally:
            leave(frame)

    def __enter__(self) -> Invocation:
        frame = self._frame()
        enter(frame, top())
        self._inside.append(frame)
        return frame.invocation

    def __exit__(self, *_: object) -> None:
        leave(self._inside.pop())

    async def __aenter__(self) -> Invocation:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


class Boundary(Frame):
    """A place where no run is, and new roots begin, each with these links to the outside."""

    __slots__ = ("links",)

    def __init__(self, links: list[Any]) -> None:
        super().__init__(Invocation(""))
        self.links = links


_current: ContextVar[Frame | None] = ContextVar("otel_agentbus.invocation", default=None)


def top() -> Frame | None:
    """The nearest frame here that still lives."""
    frame = _current.get()
    while frame is not None and frame.ended:
        frame = frame.parent
    return frame


def enclosing() -> Frame | None:
    """The frame under which something that starts now belongs.

    That is the nearest living one. Where all have ended, a task or thread that outlives its run still belongs to it; in
    the run's own task an ended frame is a leak (an abandoned generator), and is passed over.
    """
    frame = ended = _current.get()
    if frame is None or not frame.ended:
        return frame
    living = top()
    if living is not None and not isinstance(living, Boundary):
        return living
    while frame is not None and frame.owner is None:
        frame = frame.parent
    return living if frame is living or frame is None or frame.owner == owner() else ended


def own_id(id: str) -> str:
    """An id given for something of ours, which none may be that names a span of others' (see `telemetry/ids`)."""
    return id if id[-22:-16] != "@span:" else f"{id[:-22]}@span-{id[-16:]}"


def topmost() -> Frame | None:
    """What is set as current here, whether or not it has ended: for whoever will put it back with `make_current`."""
    return _current.get()


def make_current(frame: Frame | None) -> None:
    """Set what is current here, and nothing else."""
    _current.set(frame)


def enter(frame: Frame, parent: Frame | None) -> None:
    """Make `frame` the current one, below `parent`."""
    frame.parent = parent
    _current.set(frame)


def leave(frame: Frame) -> None:
    """End `frame`, wherever it stands in the chain and in whatever context this is called."""
    frame.ended = True
    if _current.get() is frame:
        _current.set(frame.parent)  # perhaps an ended one: a task that outlives its run stays that run's


class _ThisThread(threading.local):
    def __init__(self) -> None:
        self.mark = object()


_this_thread = _ThisThread()

#: A thread and a task: not their numbers, which are given again to others.
Owner = tuple[object, "weakref.ref[Any] | None"]
_NOBODY: Owner = (object(), None)


def owner() -> Owner:
    """The thread and the task, asyncio's or trio's, that run this code."""
    task: Any = None if asyncio._get_running_loop() is None else asyncio.current_task()
    if task is None:
        trio = sys.modules.get("trio.lowlevel")
        if trio is None or not trio.in_trio_task():
            return _this_thread.mark, None
        task = trio.current_task()
    return _this_thread.mark, weakref.ref(task)


def lasting(frame: Frame) -> Frame:
    """Under which whatever starts belongs to the run or call of `frame`, wherever it runs and even after its end."""
    mark = Frame(frame.invocation, frame.call)
    mark.parent, mark.ended, mark.owner = frame, True, _NOBODY
    return mark


def current() -> Invocation | None:
    """The run that is going on here, or None."""
    frame = top()
    if frame is None or not frame.invocation.id:  # a call that stands alone has a lineage, but no run
        return None
    return frame.invocation


class _Mint:
    """Ids of calls: a prefix that is new in every process and after every fork, and a counter."""

    __slots__ = ("numbers", "prefix")

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.prefix = os.urandom(6).hex() + "-"
        self.numbers = itertools.count(1)


_mint = _Mint()


def mint_call_id() -> str:
    """A new id for a model or tool call, unique across processes."""
    return f"{_mint.prefix}{next(_mint.numbers)}"


def tool_call_name(id: str) -> str:
    """A tool call's name as the `parent_call_id` of what happens in it; a model call's begins with "llm:"."""
    return f"tool:{id}" if id.startswith(("llm:", "tool:")) else id


def text(value: object) -> str:
    """An id or a name as text, whatever a program passes for one."""
    if isinstance(value, str):
        return value
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a broken __str__ of the program's must not become our exception
        return type(value).__name__


def _given_or_new(id: str | None) -> str:
    return (text(id) if id is not None else "") or mint_invocation_id()


def mint_invocation_id() -> str:
    """A new id for a run: 128 random bits from the operating system, whatever `random.seed` was told."""
    return uuid.uuid4().hex
