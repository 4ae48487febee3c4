"""What a handler is: its name, its kind, its strength; and how it is called inline."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable
from functools import partial
from itertools import repeat
from operator import length_hint
from types import BuiltinMethodType, MethodType
from typing import Any

#: What hears events. `Any`, because a handler of tool calls takes a `ToolCall`, not every event.
Handler = Callable[[Any], object]
#: Gives the handler, or None once nothing else holds it.
Target = Callable[[], Handler | None]
#: Takes the failure of a handler: the event and what was raised.
Report = Callable[[object, BaseException], None]


class Tally:
    """A counter that any thread may advance without a lock, exactly: an iterator in C that counts down."""

    __slots__ = ("_left", "add")

    #: Count one more.
    add: Callable[[], None]

    def __init__(self) -> None:
        self._left = repeat(None, sys.maxsize)
        self.add = self._left.__next__

    @property
    def value(self) -> int:
        """How often `add` was called."""
        return sys.maxsize - length_hint(self._left)


def name_of_handler(handler: Handler) -> str:
    """A name to find the handler by; partials and callable objects have none of their own."""
    inner = _inside_partials(handler)
    named = inner if isinstance(getattr(inner, "__qualname__", None), str) else type(inner)
    return f"{getattr(named, '__module__', None) or 'builtins'}.{named.__qualname__}"


def is_async(handler: Handler) -> bool:
    """Whether a call gives a coroutine: coroutine functions, partials of them, objects with an async `__call__`."""
    inner = _inside_partials(handler)
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(inner).__call__)


def is_generator(handler: Handler) -> bool:
    """Whether a call gives a generator, and would run nothing of the handler."""
    inner = _inside_partials(handler)
    return any(inspect.isgeneratorfunction(f) or inspect.isasyncgenfunction(f) for f in (inner, type(inner).__call__))


def weakly(handler: Handler, gone: Callable[[], None]) -> Target:
    """The handler for as long as something else holds it: a method by its owner, anything else by itself."""
    owner, function = _parts_of(handler)
    try:
        reference = weakref.ref(owner, lambda _: gone())
    except TypeError:
        what = f"a {type(owner).__name__} takes no weak references"
        raise TypeError(f"{name_of_handler(handler)} cannot be held weakly: {what}") from None

    def target() -> Handler | None:
        alive = reference()
        return alive if alive is None or function is None else MethodType(function, alive)

    return target


def _parts_of(handler: Handler) -> tuple[Any, Callable[..., object] | None]:
    """The owner and the function of a method; of anything else itself and None."""
    if isinstance(handler, MethodType):
        return handler.__self__, handler.__func__
    if isinstance(handler, BuiltinMethodType) and not inspect.ismodule(handler.__self__):
        return handler.__self__, getattr(type(handler.__self__), handler.__name__)
    return handler, None


class Inline:
    """Calls the handler where the event is emitted, and counts the calls that returned."""

    #: Nothing waits inline, so nothing is dropped.
    dropped = 0

    def __init__(self, handler: Handler | None, target: Target) -> None:
        """A `handler` that is held strongly is called without asking `target` for it."""
        self._returned = Tally()
        #: Hands one event over.
        self.offer = _strong(handler, self._returned) if handler is not None else _weak(target, self._returned)

    @property
    def delivered(self) -> int:
        """How many calls returned."""
        return self._returned.value

    def cancel(self) -> None:
        """Nothing waits here."""

    def retire(self) -> None:
        """Nothing waits here."""

    def after_fork(self) -> None:
        """Nothing here belongs to one process only."""


def _strong(handler: Handler, returned: Tally) -> Handler:
    count = returned.add

    def call(event: object) -> None:
        handler(event)
        count()

    return call


def _weak(target: Target, returned: Tally) -> Handler:
    def call(event: object) -> None:
        handler = target()
        if handler is not None:
            handler(event)
            returned.add()

    return call


def _inside_partials(handler: Handler) -> Handler:
    while isinstance(handler, partial):
        handler = handler.func
    return handler
