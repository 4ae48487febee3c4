"""Anything -> JSON that every sink takes: a copy of bounded size.

Nothing here raises for what it is given, consumes an iterator or calls a serialiser of the application. What a value
costs is bounded by the budget of its copy, not by its size: a prompt of 10 MB, a cycle and a list of a million items
are read only as far as they could ever be shown. What is left out says itself how much it was.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from itertools import islice
from pathlib import PurePath
from typing import TypeVar
from uuid import UUID

from otel_agentbus.events import JSON

_T = TypeVar("_T")

_MAX_NAME = 1024
_MAX_KEY = 128
_MAX_DEPTH = 24
_MAX_NODES = 20_000
_MAX_BITS = 4096
_MAX_BINARY = 1 << 16
_MAX_WORD = 512
_INT64 = 1 << 63

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def dumps(value: JSON) -> str:
    """The compact JSON text of a value that is JSON-safe already."""
    return _encode(value)


def size_of(text: str) -> int:
    """How many bytes this text takes in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def safe_text(value: object, limit: int = _MAX_NAME) -> str:
    """A name or an id that can always be encoded, of bounded length; what is clean is returned as it is.

    Different texts stay different: a lone surrogate becomes its escape, and what is cut off leaves its digest.
    """
    text = value if type(value) is str else _described(value, 1 << 16)
    if text.isascii() and len(text) <= limit:
        return text
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        safe = data.decode()
        return text if safe == text else safe
    return f"{data[: limit - 20].decode('utf-8', 'ignore')}…{blake2b(data, digest_size=8).hexdigest()}"


def safe_json(value: object, max_chars: int = 1 << 17, max_leaf: int = 1 << 15) -> JSON:
    """A copy of any value in the terms of JSON, of at most so many characters, `max_leaf` of them in one string."""
    return BoundedCopy(max_chars, max_leaf).of(value)


def utf8(text: str) -> str:
    """The text with lone surrogates replaced; two halves of one character that stand together become it."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class BoundedCopy:
    """Copies values into JSON until its budget of nodes and characters is spent; what is left out leaves a marker."""

    __slots__ = ("_above", "_chars", "_max_leaf", "_nodes")

    def __init__(self, max_chars: int, max_leaf: int) -> None:
        self._chars = max_chars
        self._max_leaf = max_leaf
        self._nodes = min(_MAX_NODES, 64 + max_chars // 4)
        self._above: set[int] = set()  # the containers that enclose the value being copied

    @property
    def spent(self) -> bool:
        """Is there nothing left to copy more with?"""
        return self._chars <= 0 or self._nodes <= 0

    def of(self, value: object, depth: int = _MAX_DEPTH) -> JSON:
        """The JSON of one value; it counts against the budget that all values of this copy share."""
        self._nodes -= 1
        if type(value) is str:
            return self._text(value)
        if value is None or type(value) is bool:
            return value
        if type(value) is int and -_INT64 <= value < _INT64:
            return value
        try:
            if isinstance(value, (int, float)) and not isinstance(value, Enum):
                return _number(value)
            return self._container(value, depth)
        except Exception as broken:  # noqa: BLE001 - the value's own code: isolation point
            return f"[unreadable {type(value).__name__}: {type(broken).__name__}]"

    def _container(self, value: object, depth: int) -> JSON:
        fields = None if type(value) in _BUILTIN else fields_of(value)
        if fields is None and not _is_walked(value):
            return self._text(_described(value, self._max_leaf + 1))
        if id(value) in self._above:
            return "[cycle]"
        if depth <= 0:
            return f"[{type(value).__name__} nested too deep]"
        self._above.add(id(value))
        try:
            if fields is not None:
                return self._mapping(fields, len(fields), depth - 1)
            if isinstance(value, Mapping):
                return self._mapping(_entries(value), len(value), depth - 1)
            assert isinstance(value, (Sequence, AbstractSet))
            return self._items(value, len(value), depth - 1)
        finally:
            self._above.discard(id(value))

    def _mapping(self, items: Iterable[tuple[object, object]], total: int, depth: int) -> JSON:
        copied: dict[str, JSON] = {}
        for key, value in self._taken(items):
            if self.spent:
                break
            name = _unused(_key(key), copied)
            self._chars -= len(name)
            copied[name] = self.of(value, depth)
        if len(copied) < total:
            copied[_unused("…", copied)] = f"[truncated {total - len(copied)} of {total} keys]"
        return copied

    def _items(self, items: Iterable[object], total: int, depth: int) -> JSON:
        copied: list[JSON] = []
        for item in self._taken(items):
            if self.spent:
                break
            copied.append(self.of(item, depth))
        if len(copied) < total:
            copied.append(f"…[truncated {total - len(copied)} of {total} items]")
        return copied

    def _taken(self, items: Iterable[_T]) -> list[_T]:
        # One call in C: no other thread can change the container half way.
        return list(islice(items, max(0, self._nodes)))

    def _text(self, text: str) -> str:
        room = max(0, min(self._chars, self._max_leaf))
        if len(text) > room:
            text = clipped(text, room)
        self._chars -= len(text)
        return utf8(text)


def fields_of(value: object) -> list[tuple[str, object]] | None:
    """The fields of a record (dataclass, pydantic model, attrs class, named tuple); None if it is none.

    They are read, never serialised: no code of the record runs but what its own attributes do.
    """
    cls = type(value)
    if cls in _BUILTIN or isinstance(value, type):
        return None
    declared = getattr(cls, "__dataclass_fields__", None) or getattr(cls, "__pydantic_fields__", None)
    if isinstance(declared, Mapping):
        names: Iterable[str] = [name for name, info in declared.items() if getattr(info, "exclude", None) is not True]
    elif isinstance(attrs := getattr(cls, "__attrs_attrs__", None), tuple):
        names = [field.name for field in attrs]
    elif isinstance(value, tuple) and isinstance(declared := getattr(cls, "_fields", None), tuple):
        names = declared
    else:
        return None
    found = [(name, said) for name in names if (said := getattr(value, name, _MISSING)) is not _MISSING]
    extra = getattr(value, "__pydantic_extra__", None)
    return found + list(extra.items()) if isinstance(extra, dict) else found


def object_of(value: object, name: str) -> dict[object, object]:
    """The entries of what should be a dict; what is none is read as one as far as it can be, or named."""
    if isinstance(value, dict):
        return dict(dict.items(value))
    copied = {} if value is None else safe_json(value)
    return dict(copied.items()) if isinstance(copied, dict) else {name: copied}


def _is_walked(value: object) -> bool:
    if type(value) in _WALKED:
        return True
    return isinstance(value, (Mapping, Sequence, AbstractSet)) and not isinstance(value, _LEAVES)


def _entries(value: Mapping[object, object]) -> Iterable[tuple[object, object]]:
    """A subclass of dict is read as the dict that it is, not through what it overrides."""
    return dict.items(value) if isinstance(value, dict) else value.items()


def _key(key: object) -> str:
    text = key if type(key) is str else _described(key, _MAX_KEY + 1)
    return utf8(text if len(text) <= _MAX_KEY else f"{text[:_MAX_KEY]}…")


def _unused(name: str, taken: dict[str, JSON]) -> str:
    """Keys that are the same as text (1 and "1") keep both their values."""
    if name not in taken:
        return name
    return next(other for other in _numbered(name) if other not in taken)


def _numbered(name: str) -> Iterator[str]:
    number = 2
    while True:
        yield f"{name}#{number}"
        number += 1


def clipped(text: str, room: int) -> str:
    """The head of a text, less its last word (half a secret would not be recognised as one), and what is missing."""
    end = room
    while end > 0 and room - end < _MAX_WORD and not text[end - 1].isspace():
        end -= 1
    return f"{text[:end]}…[truncated {len(text) - end} of {len(text)} chars]"


def _number(value: float) -> JSON:
    if isinstance(value, int):
        value = int(value)
        if -_INT64 <= value < _INT64:
            return value
        bits = value.bit_length()  # the digits of a huge int take quadratic time, and past 4300 they are refused
        return str(value) if bits <= _MAX_BITS else f"[int of {bits} bits]"
    value = float(value)
    return value if math.isfinite(value) else str(value)


def _described(value: object, limit: int) -> str:
    """The text of what is no container; its own code may be broken."""
    try:
        text = _text_of(value)
    except Exception as broken:  # noqa: BLE001 - the value's own __str__: isolation point
        return f"[unreadable {type(value).__name__}: {type(broken).__name__}]"
    return text if len(text) <= limit else clipped(text, limit)


def _text_of(value: object) -> str:
    match value:
        case Enum():
            return _text_of(value.value)
        case str():
            return str.__str__(value)
        case bytes() | bytearray() | memoryview():
            return _binary(value)
        case bool() | None:
            return str(value)
        case int() | float():
            return str(_number(value))
        case dt.date() | dt.time():
            return value.isoformat()
        case BaseException():
            return f"{type(value).__name__}: {value}"
        case _ if callable(value):
            return f"<{getattr(value, '__qualname__', type(value).__name__)}>"
        case _:
            return str.__str__(str(value))


def _binary(value: bytes | bytearray | memoryview) -> str:
    data = bytes(value[:_MAX_BINARY])
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = base64.b64encode(data).decode()
    left = len(value) - len(data)
    return f"{text}…[truncated {left} of {len(value)} bytes]" if left else text


_MISSING = object()
_WALKED = frozenset((dict, list, tuple))
_BUILTIN = frozenset((dict, list, tuple, set, frozenset, bytes, bytearray, dt.datetime, dt.date))
#: What is shown as a text although it may be walked (or is a record) too.
_LEAVES = (str, bytes, bytearray, memoryview, range, Enum, type, Decimal, UUID, PurePath)
