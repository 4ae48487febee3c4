"""What a subscription wants to hear: classes with their subclasses, and names with globs."""

from __future__ import annotations

import fnmatch
import re
import types
from functools import lru_cache
from typing import Union, get_args, get_origin

from otel_agentbus.events import DomainEvent, Event, UnknownEvent, name_of

#: An event class, a union of them, or a name, which may be a glob ("deployment.*").
What = type[Event] | types.UnionType | str

#: How many names of domain events a subscription remembers the answer for.
NAMES_REMEMBERED = 1024


class Interest:
    """What one subscription wants to hear."""

    __slots__ = ("_classes", "_named", "_text")

    def __init__(self, what: tuple[What, ...]) -> None:
        parts = [part for each in what for part in _parts_of(each)]
        self._text = ", ".join(part if isinstance(part, str) else part.__name__ for part in parts) or "every event"
        self._classes = tuple(part for part in parts if not isinstance(part, str)) if parts else (Event,)
        globs = [re.compile(fnmatch.translate(part)) for part in parts if isinstance(part, str)]

        @lru_cache(maxsize=NAMES_REMEMBERED)
        def named(name: str) -> bool:
            return any(glob.match(name) for glob in globs)

        self._named = named if globs else None

    def __str__(self) -> str:
        return self._text

    def in_class(self, cls: type) -> bool | None:
        """Whether events of this class are wanted; None when the name of each single event decides."""
        if not issubclass(cls, Event):
            return False
        if issubclass(cls, self._classes):
            return True
        if self._named is None:
            return False
        return None if issubclass(cls, (DomainEvent, UnknownEvent)) else self._named(cls.kind)

    def in_name(self, event: Event) -> bool:
        """Whether this event is wanted by its name."""
        return self._named is not None and self._named(name_of(event))


def _parts_of(what: object) -> tuple[type[Event] | str, ...]:
    if isinstance(what, str):
        if not what:
            raise ValueError('cannot subscribe to "": a name is a tag such as "tool.end", or a glob such as "tool.*"')
        return (what,)
    if isinstance(what, type) and issubclass(what, Event):
        return (what,)
    if get_origin(what) in (Union, types.UnionType):
        return tuple(part for each in get_args(what) for part in _parts_of(each))
    raise TypeError(f'cannot subscribe to {what!r}: give an event class, a union of them, or a name such as "tool.*"')
