"""What JSON can say of a value of the application's: a state, the arguments of a tool, its result.

Nothing is read that can be read only once (a generator, a file), no serializer of the application's own is called, and
what refers to itself is told in part.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

#: How deep a value is told, and how many values of one.
DEEPEST = 8
MOST = 10_000

_ROWS = (list, tuple, set, frozenset)
#: What has a form of its own in JSON.
_WRITTEN = (date, time, timedelta, Decimal, UUID, PurePath)


def plain(value: Any, own: Callable[[Any], Any] | None = None) -> Any:
    """The value with its parts; by its type's name where it has none that could be told, as of what is binary.

    `own` says what a framework's own objects are to be told as, and None of others.
    """
    try:
        return _Telling(own).told(value, DEEPEST)
    except Exception:  # noqa: BLE001 - a value whose own code is broken, or one that another thread changes meanwhile
        return type(value).__name__


def structured(text: Any) -> Any:
    """A JSON text of an object or a list as what it says, so that single keys can be redacted; all else as it is."""
    if isinstance(text, str) and text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


class _Telling:
    """One value that is told."""

    def __init__(self, own: Callable[[Any], Any] | None) -> None:
        self._own = own
        self._left: Iterator[None] = itertools.repeat(None, MOST)

    def told(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, (str, bool, int)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, _WRITTEN):
            return to_jsonable_python(value)
        if isinstance(value, Enum):
            return self.told(value.value, depth)
        known = None if self._own is None else self._own(value)
        return self._parts(value, depth) if known is None else known

    def _parts(self, value: Any, depth: int) -> Any:
        parts = _parts_of(value) if depth else None
        if parts is None:
            return type(value).__name__
        told = {key: self.told(part, depth - 1) for _, (key, part) in zip(self._left, parts, strict=False)}
        return list(told.values()) if isinstance(value, _ROWS) else told


def _parts_of(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """What is in a value, each under its name or its place; None where that is not told."""
    if isinstance(value, Mapping):
        return ((str(key), part) for key, part in value.items())
    if isinstance(value, _ROWS):
        return enumerate(value)
    if isinstance(value, BaseModel):
        hidden = {name for name, field in type(value).model_fields.items() if field.exclude}
        return ((name, part) for name, part in vars(value).items() if name not in hidden)
    if is_dataclass(value) and not isinstance(value, type):
        return ((field.name, getattr(value, field.name, None)) for field in fields(value))
    return None


__all__ = ["DEEPEST", "MOST", "plain", "structured"]
