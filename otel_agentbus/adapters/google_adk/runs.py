"""What lasts as long as one of ADK's generators: a runner's run, an agent's run, a call of a model."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakValueDictionary

from ...blocks import Block
from ...events import DomainEvent, Event
from ...invocation import current
from ...observe import LlmBlock
from . import mapping
from .driving import UNSEEN, Observed


class Ended(Protocol):
    """Whoever is to be told that a run is over."""

    def __call__(self, run: Run, /) -> None:
        """That run is over."""


class Run(Observed):
    """One run of a runner: the block of its root agent, under which is whatever runs until the run is over."""

    def __init__(self, block: Block, name: str, abort: Any, ended: Ended) -> None:
        super().__init__(block)
        self.name = name
        self._ended = ended
        self._abort = abort
        self._answer: Any = None
        self._invocation: str | None = None
        self._left = self._failed = False
        #: What has begun in it, by the order of that; whatever ended is left out.
        self._inside: WeakValueDictionary[int, Observed] = WeakValueDictionary()
        self._numbers = itertools.count()
        self._ids: Counter[tuple[str, str]] = Counter()

    def enter(self) -> Callable[[], None]:
        before = running.get()
        leave = super().enter()
        running.set(self)

        def out() -> None:
            leave()
            running.set(before)

        return out

    def saw(self, item: Any) -> None:
        self._answer = _answer_in(item) or self._answer
        self._invocation = getattr(item, "invocation_id", None) or self._invocation
        target = getattr(getattr(item, "actions", None), "transfer_to_agent", None)
        if isinstance(target, str):
            self._tell(DomainEvent(name="agent.handoff", data={"from": item.author, "to": target}))

    def _tell(self, event: Event) -> None:
        runtime = self.block.runtime
        if runtime is not None:
            leave = self.enter()
            try:
                runtime.emit(event)
            finally:
                leave()

    def left(self) -> None:
        self._left = True

    @property
    def is_cut_short(self) -> bool:
        """Whether its consumer has left it, or has aborted it."""
        return self._left or (self._abort is not None and self._abort.is_set())

    @property
    def is_undone(self) -> bool:
        """Whether it does not come to its own end."""
        return self._failed or self.is_cut_short

    def begun(self, observed: Observed) -> None:
        """That belongs to this run, and ends with it at the latest."""
        self._inside[next(self._numbers)] = observed

    def fields(self) -> dict[str, Any]:
        return {
            "output": mapping.said(self._answer),
            "outcome": "cancelled" if self.is_cut_short else None,
            "adk.invocation.id": self._invocation,
        }

    def end(self, error: BaseException | None) -> None:
        self._failed = error is not None
        try:
            for observed in reversed(list(self._inside.values())):  # what nobody has closed
                with UNSEEN:
                    observed.end(GeneratorExit())
            super().end(error)
        finally:
            self._ended(self)

    def call_id(self, given: Any) -> str | None:
        """A tool call's id, numbered from its second use in one agent's run on: some models give the same one again."""
        if not isinstance(given, str) or not given:
            return None
        run = current()
        key = ("" if run is None else run.id, given)
        self._ids[key] += 1
        used = self._ids[key]
        return given if used == 1 else f"{given}#{used}"


class AgentRun(Observed):
    """One run of an agent that is not its runner's root."""

    def __init__(self, block: Block, run: Run | None) -> None:
        super().__init__(block)
        self._run = run
        self._answer: Any = None
        self._cancelled = False
        if run is not None:
            run.begun(self)

    def saw(self, item: Any) -> None:
        self._answer = _answer_in(item) or self._answer

    def fields(self) -> dict[str, Any]:
        return {"output": mapping.said(self._answer)}

    def end(self, error: BaseException | None) -> None:
        super().end(None if self._is_done(error) else error)

    def left(self) -> None:
        task = asyncio.current_task()
        self._cancelled = task is not None and task.cancelling() > 0

    def _is_done(self, error: BaseException | None) -> bool:
        """Whether ADK itself takes no more of an agent that has handed over, delegated or finished its task."""
        if not isinstance(error, GeneratorExit) or self._cancelled:
            return False
        return self._run is not None and not self._run.is_undone


class ModelCall(Observed):
    """One call of a model, from its request to the end of its answer."""

    def __init__(self, block: LlmBlock, run: Run | None, *, stream: bool, content: bool) -> None:
        super().__init__(block)
        if run is not None:
            run.begun(self)
        self._first_chunk: Callable[[], None] | None = block.first_chunk if stream else None
        self._content = content
        self._last: Any = None
        self._usage: Any = None
        self._whole: list[Any] = []
        self._partial: list[Any] = []

    def saw(self, item: Any) -> None:
        if self._first_chunk is not None:
            self._first_chunk()
        self._last = item
        self._usage = getattr(item, "usage_metadata", None) or self._usage  # each report is of the whole call so far
        if self._content and (content := getattr(item, "content", None)) is not None:
            (self._partial if getattr(item, "partial", None) else self._whole).append(content)
        if self._is_whole(item):
            self.end(None)

    def _is_whole(self, item: Any) -> bool:
        """Whether this is the last of the answer: ADK runs the tools that it calls before it asks for more."""
        if getattr(item, "partial", None):
            return False
        counted = getattr(item, "usage_metadata", None) is not None
        marks = ("finish_reason", "turn_complete", "error_code")
        marked = any(getattr(item, mark, None) for mark in marks)
        return (counted and marked) if self._first_chunk is not None else (counted or marked)

    def fields(self) -> dict[str, Any]:
        return mapping.llm_end(self._last, self._usage, self._whole or self._partial)


def _answer_in(event: Any) -> Any:
    content = getattr(event, "content", None)
    if content is None or getattr(event, "partial", None) or getattr(content, "role", None) == "user":
        return None
    return content


#: The run in which something happens; set only while ADK's own code runs, and what that calls.
running: ContextVar[Run | None] = ContextVar("otel_agentbus.google_adk", default=None)
