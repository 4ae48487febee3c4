"""Events to JSON: fast where their values are plain, and whatever their values are.

Writing refuses nothing: what JSON cannot say is rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

from pydantic_core import to_json

from .events import JSON, DomainEvent, Event, UnknownEvent, name_of

#: The fields that every event has.
ENVELOPE = frozenset(field.name for field in fields(Event))
#: How deep a value may be nested.
DEEPEST = 100

#: What JSON says as it is; ints are not among them, for they may be too long for those who read them.
_PLAIN = frozenset({str, bool, float, type(None)})
# An int between these is a number; beyond, its digits in hexadecimal.
_LOWEST, _HIGHEST = -(1 << 1024), 1 << 1024
_MOST_ITEMS = 10_000


def write(event: Event) -> bytes:
    """The event as compact JSON, its fields in the order of the class, what is unset left out; never raises."""
    cls: type = type(event)
    try:
        return _writer(cls)(event)
    except Exception:  # noqa: BLE001 - lone surrogates, values whose own code is broken, fields that were deleted
        return write_carefully(event)


def write_carefully(event: Event) -> bytes:
    """The same bytes as `write`, one value at a time: `write` comes here with what is not plain."""
    said: dict[str, Any] = {"event": _rendered(_asked(name_of, event, type(event).kind))}
    cls: type = type(event)
    for name, default in _written(cls).items():
        value = _asked(attrgetter(name), event, default)
        if not _is_default(value, default):
            said[name] = _rendered(value)
    if isinstance(event, UnknownEvent):
        kept = _rendered(_asked(attrgetter("fields"), event, None))
        said.update({name: value for name, value in kept.items() if name not in said} if isinstance(kept, dict) else {})
    try:
        return to_json(said, inf_nan_mode="strings")
    except Exception:  # noqa: BLE001 - lone surrogates: an event is written whatever it says
        return to_json(_encodable(said), inf_nan_mode="strings")


@lru_cache(maxsize=1024)
def defaults_of(cls: type) -> dict[str, object]:
    """The fields of a class and what they are when nobody sets them; MISSING for those that must be said."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(cls)
        if field.name != "event"
    }


@lru_cache(maxsize=1024)
def _written(cls: type) -> dict[str, object]:
    """The fields to write, and what each of them is when it can be left out."""
    unknown = issubclass(cls, UnknownEvent)
    defaults = {name: default for name, default in defaults_of(cls).items() if name in ENVELOPE or not unknown}
    return {name: MISSING if name == "data" else default for name, default in defaults.items()}


def _asked(question: Callable[[Event], object], event: Event, default: object) -> object:
    try:
        return question(event)
    except Exception:  # noqa: BLE001 - the field was deleted, or is a property of the program's
        return default


def _is_default(value: object, default: object) -> bool:
    if value is default or default is None:
        return value is default
    try:
        return type(value) is type(default) and bool(value == default)
    except Exception:  # noqa: BLE001 - the value's own code
        return False


# Writing what is plain: straight code for each class, made out of its fields as `dataclass` makes its methods. A loop
# over the fields takes twice as long, and the agent waits for it where every event is journalled.

_BEGINNING = """
def write(event):
    value = event.{tag}
    said = {{"event": value if type(value) is str else rendered(value)}}"""
_UNLESS_NONE = """
    value = event.{name}
    if value is not None:"""
_UNLESS_DEFAULT = """
    value = event.{name}
    if value is not unset_{name} and (type(value) is not type(unset_{name}) or not value == unset_{name}):"""
_SAY = """
        kind = type(value)
        if kind is str or kind in PLAIN or (kind is int and LOWEST < value < HIGHEST) or is_json(value):
            said["{name}"] = value
        else:
            said["{name}"] = rendered(value)"""
_END = """
    return to_json(said, inf_nan_mode="strings")"""


@lru_cache(maxsize=1024)
def _writer(cls: type) -> Callable[[Event], bytes]:
    """The function that writes the events of a class."""
    unset = _written(cls)
    if issubclass(cls, UnknownEvent):
        return write_carefully
    source = _BEGINNING.format(tag="name" if issubclass(cls, DomainEvent) else "kind")
    for name, default in unset.items():
        source += ((_UNLESS_NONE if default is None else _UNLESS_DEFAULT) + _SAY).format(name=name)
    known: dict[str, Any] = {f"unset_{name}": default for name, default in unset.items()}
    known |= {"PLAIN": _PLAIN, "LOWEST": _LOWEST, "HIGHEST": _HIGHEST, "is_json": _is_json}
    known |= {"rendered": _rendered, "to_json": to_json}
    exec(source + _END, known)
    return cast("Callable[[Event], bytes]", known["write"])


def _is_json(value: Any, levels: int = 20) -> bool:
    """Whether JSON says this container as it is: JSON's own types all the way down, not what inherits from them."""
    items: Iterable[Any] = value
    kind = type(value)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        items = value.values()
    elif kind is not list and kind is not tuple:
        return False
    for item in items:
        kind = type(item)
        if kind is int:
            if not _LOWEST < item < _HIGHEST:
                return False
        elif kind is not str and kind not in _PLAIN and not (levels and _is_json(item, levels - 1)):
            return False
    return True


# Writing whatever it is


def _rendered(value: object, above: tuple[int, ...] = ()) -> JSON:
    """A value in the terms of JSON; what it cannot say becomes text. Iterators are left alone: they are the agent's."""
    try:
        if type(value) in _PLAIN or (type(value) is int and _LOWEST < value < _HIGHEST):
            return cast("JSON", value)
        if isinstance(value, Enum):
            return _rendered(value.value, above)
        if isinstance(value, int):
            number = int.__add__(value, 0)
            return number if _LOWEST < number < _HIGHEST else hex(number)
        if isinstance(value, (str, float)):
            return str.__str__(value) if isinstance(value, str) else float.__add__(value, 0.0)
        return _rendered_container(value, above)
    except Exception as broken:  # noqa: BLE001 - the value's own code: an event is written whatever it says
        return f"[unreadable {type(value).__name__}: {type(broken).__name__}]"


def _rendered_container(value: object, above: tuple[int, ...]) -> JSON:
    mapping = value if isinstance(value, (dict, Mapping)) else _record(value)
    if mapping is None and not isinstance(value, (list, tuple, set, frozenset)):
        return _rendered_object(value)
    if id(value) in above:
        return "[cycle]"
    if len(above) >= DEEPEST:
        return f"[{type(value).__name__} nested too deep]"
    above = (*above, id(value))
    if mapping is not None:
        rendered: dict[str, JSON] = {}
        for key, item in _items_of(mapping):
            name = _key(key)
            while name in rendered:  # 1 and "1" are two keys
                name += "'"
            rendered[name] = _rendered(item, above)
        return rendered
    base = next(base for base in (list, tuple, set, frozenset) if isinstance(value, base))
    items = [_rendered(item, above) for item in list(cast("Any", base).__iter__(value))]
    return sorted(items, key=repr) if base in (set, frozenset) else items


def _items_of(mapping: Mapping[Any, object]) -> list[tuple[object, object]]:
    """A dict is read as the dict that it is, and of another mapping no more than anybody means."""
    return list(dict.items(mapping) if isinstance(mapping, dict) else islice(mapping.items(), _MOST_ITEMS))


def _record(value: object) -> Mapping[str, object] | None:
    """The fields of a dataclass or a pydantic model, as they are: its own serialiser is not called."""
    cls = type(value)
    declared = getattr(cls, "__dataclass_fields__", None) or getattr(cls, "__pydantic_fields__", None)
    if not isinstance(declared, dict):
        return None
    return {n: getattr(value, n, None) for n, info in declared.items() if getattr(info, "exclude", None) is not True}


def _rendered_object(value: object) -> JSON:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (date, time)):
        return value.isoformat()
    return str(value) if isinstance(value, (UUID, Decimal, PurePath)) else repr(value)


def _key(key: object) -> str:
    rendered = _rendered(key)
    return rendered if isinstance(rendered, str) else to_json(rendered).decode()


def _encodable(value: JSON) -> JSON:
    """The same without lone surrogates; two halves of one character that stand together become it."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {cast("str", _encodable(key)): _encodable(item) for key, item in value.items()}
    return value
