"""What LangChain has begun and not ended: blocks and steps by their run ids, each under the run that is its parent."""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from ...blocks import Block, installed
from ...callbacks import MOST, hold
from ...events import Event
from ...invocation import top
from ..losses import Shielded
from ..tool_ids import ToolCallIds
from .messages import Conversation
from .places import Place, hold_here, is_context_of

_UNSEEN = Shielded("the end of a call of LangChain could not be observed")


class Scene:
    """What is kept while an agent runs: its converted messages, and which tool call ids it has used."""

    def __init__(self) -> None:
        self.conversation = Conversation()
        self.tool_call_id = ToolCallIds()


class Run:
    """One run of LangChain's that has begun: an agent, a call, or a step that belongs to one."""

    __slots__ = ("block", "cached", "home", "is_generator", "kind", "leave", "scene", "streams", "unwatch")

    def __init__(
        self, kind: str, block: Block, scene: Scene, place: Place, home: contextvars.Context | None = None
    ) -> None:
        self.kind = kind
        self.block = block
        self.scene = scene
        self.is_generator = place.is_generator
        #: The context in which the block lives; a step has none, its block is another's.
        self.home = home
        #: How the context in which it began becomes again what it was.
        self.leave: Callable[[], None] | None = None
        self.unwatch: Callable[[], Any] | None = None
        #: Whether the answer of a model comes in pieces.
        self.streams = False
        #: Whether LangChain asks a cache before it asks the model.
        self.cached = False


class Runs:
    """The runs of this process that go on. Safe in threads, never longer than `MOST`."""

    def __init__(self) -> None:
        #: Whether what begins without a known parent is observed; else only what is open goes on.
        self.on = False
        self._runs: dict[UUID, Run] = {}
        #: The tasks that wait for a call which is current in them.
        self._waiting: weakref.WeakKeyDictionary[asyncio.Task[Any], UUID] = weakref.WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, run_id: UUID | None) -> Run | None:
        """The run of that id, if it goes on and is observed."""
        return None if run_id is None else self._runs.get(run_id)

    def begin(
        self, run_id: UUID, parent: UUID | None, kind: str, make: Callable[[Scene], Block], place: Place
    ) -> Run | None:
        """Begin a block under that of `parent`, or under what is current here where that is nearer.

        It is the current one here only where nobody else's code runs here before its end. None where it is not
        observed any more. Raises `BudgetExceeded` where a budget is to stop it: it has not begun then.
        """
        self._end_what_was_left(place)
        outer = self.get(parent)
        if outer is None and not self.on:
            return None
        scene = Scene() if outer is None or kind == "agent" else outer.scene
        block = make(scene)
        home = contextvars.copy_context()
        home.run(_start_under, block, None if outer is None else outer.block)
        run = self._keep(run_id, Run(kind, block, scene, place, home))
        if place.is_whole:
            run.leave = hold_here(block, place)
        return run

    def join(self, run_id: UUID, parent: UUID | None, place: Place) -> None:
        """Let a step belong to the block of its parent, which is current in the user's function that it runs."""
        self._end_what_was_left(place)
        outer = self.get(parent)
        if outer is None:
            return
        run = self._keep(run_id, Run("step", outer.block, outer.scene, place))
        if is_within(outer.block):
            return
        if place.is_whole:
            run.leave = hold_here(outer.block, place)
        elif is_context_of(parent):
            hold(outer.block)  # this context is used for nothing else, and dropped with its run

    def end(self, run_id: UUID, error: BaseException | None = None, **fields: Any) -> None:
        """End a run, and set back the context in which it began. One that is not known is no matter."""
        run = self._runs.pop(run_id, None)
        if run is None:
            return
        if run.leave is not None:
            self._end_what_is_in(run.block, error)
        try:
            if run.home is not None:
                said = {name: value for name, value in fields.items() if value is not None}
                run.block.record(**said)
                run.home.run(run.block.end, error)
        finally:
            for undo in (run.unwatch, run.leave):
                if undo is not None:
                    undo()

    def watch(self, run_id: UUID, place: Place) -> None:
        """End it as cancelled when its code is over, where LangChain does not tell so.

        That is where something async is cancelled, and where a tool or a retriever is left by what is no `Exception`.
        Its task may be over, or what was local in the call is freed. A task may also go on after a timeout: then it
        begins something else, or lets others run.
        """
        run = self.get(run_id)
        if run is None or not place.is_whole:
            return
        over = partial(self._is_over, run_id)
        freed = None if place.manager is None else weakref.ref(place.manager, over)
        task = asyncio.current_task() if place.is_async else None
        if task is not None:
            task.add_done_callback(over)
            if run.leave is not None and run.kind != "step":  # a step's own code begins others in the same task
                self._waiting[task] = run_id

        def unwatch() -> None:
            nonlocal freed
            freed = None
            if task is not None:
                task.remove_done_callback(over)
                if self._waiting.get(task) == run_id:
                    del self._waiting[task]

        run.unwatch = unwatch

    def _end_what_was_left(self, place: Place) -> None:
        """End the call for which this task has waited: it would not begin anything else, were it not over."""
        task = asyncio.current_task() if self._waiting and place.is_async else None
        left = None if task is None else self._waiting.get(task)
        if left is not None:
            self.end(left, asyncio.CancelledError())

    def _end_what_is_in(self, block: Block, error: BaseException | None) -> None:
        """End what is still current here inside of a block that ends: its own end was not told."""
        while (inner := top()) is not block and is_within(block):
            found = next((id for id, run in list(self._runs.items()) if run.block is inner and run.home), None)
            if found is None:
                return  # it is somebody else's
            self.end(found, error or asyncio.CancelledError())

    def has_calls_of(self, agent: Run) -> bool:
        """Whether model calls of this agent go on."""
        return any(run.kind == "llm" and run.scene is agent.scene for run in list(self._runs.values()))

    def _is_over(self, run_id: UUID, what: object) -> None:
        with _UNSEEN:
            self.end(run_id, asyncio.CancelledError())

    def _keep(self, run_id: UUID, run: Run) -> Run:
        while len(self._runs) >= MOST:
            self._runs.pop(next(iter(self._runs)), None)
        self._runs[run_id] = run
        return run


def _start_under(block: Block, above: Block | None) -> None:
    if above is not None and not is_within(above):
        hold(above)
    block.start()


def is_within(block: Block) -> bool:
    """Whether what is current here is this block or has begun in it, and so is nearer than what an id names."""
    frame = top()
    while frame is not None and frame is not block:
        frame = frame.parent
    return frame is not None


def tell(block: Block, event: Event) -> None:
    """Emit an event as one that happens in this block."""
    runtime = block.runtime or installed()
    if runtime is not None:
        contextvars.copy_context().run(_tell_in, block, runtime.emit, event)


def _tell_in(block: Block, emit: Callable[[Event], None], event: Event) -> None:
    if not is_within(block):
        hold(block)
    emit(event)


__all__ = ["Run", "Runs", "Scene", "is_within", "tell"]
