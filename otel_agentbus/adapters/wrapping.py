"""A function of a library that has no hook, wrapped so that it can be left as it was found."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def wrap(owner: Any, name: str, around: Callable[[Function], Function]) -> Callable[[], None]:
    """Let `around(found)` take the place of a class's or module's own function; gives back how to undo it.

    A method gets its object, a class method its class, as the first argument; a coroutine function stays one. Undone
    while somebody else has wrapped it since, ours stays below theirs and only passes through.
    """
    found = vars(owner)[name]
    inner: Function = found.__func__ if isinstance(found, classmethod) else found
    outer: Function | None = around(inner)

    def wrapper(*args: Any, **named: Any) -> Any:
        return (outer or inner)(*args, **named)

    async def awaiting(*args: Any, **named: Any) -> Any:
        return await (outer or inner)(*args, **named)

    wrapper = functools.wraps(inner)(awaiting if inspect.iscoroutinefunction(inner) else wrapper)
    ours = classmethod(wrapper) if isinstance(found, classmethod) else wrapper
    setattr(owner, name, ours)

    def undo() -> None:
        nonlocal outer
        outer = None
        if vars(owner).get(name) is ours:
            setattr(owner, name, found)

    return undo


__all__ = ["wrap"]
