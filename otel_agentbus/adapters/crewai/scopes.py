"""What is open of a crew's run, as CrewAI's events tell it: scopes in scopes, each with its block.

Beginning and end are told in the same place, mostly. A scope whose end is never told (CrewAI tells of exceptions, but
not of cancellation) ends with what it is in, or with the task that it began in.
"""

from __future__ import annotations

import asyncio
import json
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from typing import Any, Literal

from ...blocks import Block
from ..losses import Shielded

Kind = Literal["crew", "flow", "agent", "llm", "tool"]

#: What one model answer has asked for: the tool calls' ids, names and arguments.
Asked = list[tuple[str, str, Any]]

_UNSEEN = Shielded("the end of something in a crew could not be observed")


class Scope:
    """Something that has begun: its block, what it is in, and where it runs."""

    __slots__ = (
        *("__weakref__", "_asked", "_lock", "_used"),
        *("block", "ended", "inside", "key", "kind", "parent", "place", "watched"),
    )

    def __init__(self, kind: Kind, key: Hashable, block: Block, parent: Scope | None) -> None:
        self.kind = kind
        self.key = key
        self.block = block
        self.parent = parent
        self.ended = False
        self.inside: set[Scope] = set()
        self.place = Place()
        #: What ends it with the task that it began in.
        self.watched: Callable[[asyncio.Task[Any]], None] | None = None
        self._asked: Asked = []
        self._used: Counter[str] = Counter()
        self._lock = threading.Lock()

    def asked(self, calls: Asked) -> None:
        """The model of this agent has asked for these tool calls, and for no others any more."""
        with self._lock:
            self._asked = calls

    def tool_call_id(self, name: str, arguments: Any) -> str | None:
        """The model's id of a call that now begins, which its event does not tell; each is given once.

        Some models give the same ids again: from its second use on an id is numbered.
        """
        with self._lock:
            for call in self._asked:
                if call[1] == name and _same(call[2], arguments):
                    self._asked.remove(call)
                    self._used[call[0]] += 1
                    used = self._used[call[0]]
                    return call[0] if used == 1 else f"{call[0]}#{used}"
        return None

    def is_over(self, error: BaseException | None) -> bool:
        """Whether nobody will tell the end of this any more, now that what it is in has ended with that error."""
        if self.place.is_left:
            return True
        # An exception has passed through the call, in whatever thread that was. (A cancelled run leaves its threads
        # to themselves: their calls go on, and are told of.)
        return self.kind in ("llm", "tool") and self.place.task is None and isinstance(error, Exception)


class Place:
    """The thread and the task in which something runs."""

    __slots__ = ("task", "thread")

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.task = _task()

    @property
    def is_left(self) -> bool:
        """Whether nothing that began there can still go on: it is this place, which has gone on, or is no more."""
        if self.task is not None:
            return self.task is _task() or self.task.done()
        return self.thread is threading.current_thread() or not self.thread.is_alive()


_here: ContextVar[Scope | None] = ContextVar("otel_agentbus.crewai", default=None)


class Scopes:
    """All that is open; `idle` is called where nothing is any more."""

    def __init__(self, idle: Callable[[], None]) -> None:
        #: Whether what begins outside of any scope is observed.
        self.on = True
        self._open: weakref.WeakSet[Scope] = weakref.WeakSet()
        self._idle = idle

    def __len__(self) -> int:
        return len(self._open)

    @property
    def listening(self) -> bool:
        """Whether what happens here is to be observed: also in a run that had begun before we were switched off."""
        return self.on or current() is not None

    def begin(self, kind: Kind, key: Hashable, block: Block) -> Scope:
        """Begin `block` here, and make it current. Raises `BudgetExceeded` where a budget refuses it."""
        above = current()
        block.start()
        scope = Scope(kind, key, block, above)
        if above is not None:
            above.inside.add(scope)
        elif kind == "llm":
            self._end_with_its_task(scope)
        self._open.add(scope)
        _here.set(scope)
        return scope

    def find(self, kind: Kind, key: Hashable) -> Scope | None:
        """The innermost open scope of that kind and key around here."""
        scope = current()
        while scope is not None and (scope.ended or scope.kind != kind or scope.key != key):
            scope = scope.parent
        return scope

    def end(self, scope: Scope, error: BaseException | None = None, **fields: Any) -> None:
        """End a scope, and before it what was left open inside."""
        inner = current()
        while inner is not None and inner is not scope:
            above = inner.parent
            if inner.kind in ("llm", "tool") or inner.place.is_left:
                self._close(inner, error)
            inner = above
        self._close(scope, error, fields)

    def leave(self, before: Scope | None, error: BaseException | None) -> None:
        """End whatever has begun since `before` was the current scope here, however it was left."""
        while before is not None and before.ended:
            before = before.parent
        scope = current()
        while scope is not None and scope is not before:
            above = scope.parent
            if not scope.ended:
                self._close(scope, error)
            scope = above
        if _here.get() is not before:
            _here.set(before)

    def _close(self, scope: Scope, error: BaseException | None, fields: dict[str, Any] | None = None) -> None:
        if scope.ended:
            return
        scope.ended = True
        for child in tuple(scope.inside):
            if child.is_over(error):
                self._close(child, error)
            else:
                self._end_with_its_task(child)
        said = {name: value for name, value in (fields or {}).items() if value is not None}
        if fields is None and error is None and scope.kind in ("llm", "tool"):
            said["outcome"] = "interrupted"
        scope.block.record(**said)
        scope.block.end(error)
        task = scope.place.task
        if scope.watched is not None and task is not None and task is _task():
            task.remove_done_callback(scope.watched)
        scope.inside.clear()
        self._open.discard(scope)
        if scope.parent is not None:
            scope.parent.inside.discard(scope)
        if _here.get() is scope:
            _here.set(scope.parent)
        if not self._open:
            self._idle()

    def _end_with_its_task(self, scope: Scope) -> None:
        task = scope.place.task
        if task is None or scope.watched is not None or task.get_loop() is not _loop():
            return

        def forsaken(ended: asyncio.Task[Any]) -> None:
            with _UNSEEN:
                self._close(scope, asyncio.CancelledError() if ended.cancelled() else ended.exception())

        scope.watched = forsaken
        task.add_done_callback(forsaken)


def current() -> Scope | None:
    """The innermost scope here that is open."""
    scope = _here.get()
    while scope is not None and scope.ended:
        scope = scope.parent
    return scope


def agent_of(scope: Scope | None) -> Scope | None:
    """The innermost agent around a scope."""
    while scope is not None and scope.kind != "agent":
        scope = scope.parent
    return scope


def _task() -> asyncio.Task[Any] | None:
    return None if _loop() is None else asyncio.current_task()


def _loop() -> asyncio.AbstractEventLoop | None:
    return asyncio._get_running_loop()


def _same(asked: Any, given: Any) -> bool:
    """Whether the arguments of a call are those that the model has asked for, which it gives as a text mostly."""
    if isinstance(asked, str):
        try:
            asked = json.loads(asked) if asked else {}
        except (ValueError, RecursionError):
            return bool(asked == given)
    return bool((asked or {}) == (given or {}))
