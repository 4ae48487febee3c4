"""Events to JSON and back, checked against the contract; and the contract as JSON Schema.

Writing refuses nothing: what JSON cannot say is rendered. Reading is lenient where producers differ: durations may be
numbers, ISO 8601 or Rust's `{"secs", "nanos"}`; `turn_id` and `agent_alias` are our `invocation_id` and `agent`;
further fields of a known kind are kept under `attributes`; an unknown kind becomes an `UnknownEvent`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache, lru_cache
from itertools import islice
from operator import attrgetter
from pathlib import PurePath
from typing import Annotated, Any, Union, cast
from uuid import UUID

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from .errors import UnreadableEvent
from .events import JSON, KINDS, DomainEvent, Event, UnknownEvent, name_of

#: What other producers call fields of ours.
ALIASES = {"turn_id": "invocation_id", "agent_alias": "agent"}

_DURATIONS = frozenset({"duration", "time_to_first_chunk"})
_CLASSES: Mapping[str, type[Event]] = {**KINDS, DomainEvent.kind: DomainEvent, UnknownEvent.kind: UnknownEvent}
_ENVELOPE = frozenset(field.name for field in fields(Event))


def read(data: bytes | str) -> Event:
    """The event in this JSON text; `UnreadableEvent` says in one sentence why there is none."""
    try:
        found = from_json(data)
    except ValueError as error:
        raise UnreadableEvent(f"not JSON: {error}") from None
    return load(found)


def load(found: object) -> Event:
    """The event in this JSON object; `UnreadableEvent` says in one sentence why there is none."""
    if not isinstance(found, dict):
        raise UnreadableEvent(f"an event is a JSON object, and this is {_type_of(found)}")
    name = found.get("event")
    if not isinstance(name, str):
        raise UnreadableEvent(f'an event names its kind in "event", a string, and here that is {_type_of(name)}')
    if found.get("name") == name and isinstance(found.get("data"), dict):
        kind, taken = DomainEvent.kind, _known_fields(DomainEvent, found)
    elif name in KINDS:
        kind, taken = name, _known_fields(KINDS[name], found)
    else:
        kind, taken = UnknownEvent.kind, _unknown_fields(name, found)
    return _checked(name, {**taken, "event": kind})


def write(event: Event) -> bytes:
    """The event as compact JSON, its fields in the order of the class, what is unset left out; never raises."""
    said: dict[str, Any] = {"event": _rendered(name_of(event))}
    cls: type = type(event)
    names, defaults, values_of = _written(cls)
    for name, default, value in zip(names, defaults, values_of(event), strict=True):
        if value is default or (default is not None and type(value) is type(default) and value == default):
            continue
        said[name] = value if type(value) in _PLAIN else _rendered(value)
    if isinstance(event, UnknownEvent) and isinstance(kept := _rendered(event.fields), dict):
        said.update({name: value for name, value in kept.items() if name not in said})
    try:
        return to_json(said, inf_nan_mode="strings")
    except Exception:  # noqa: BLE001 - lone surrogates: an event is written whatever it says
        return to_json(_encodable(said), inf_nan_mode="strings")


def validate(event: Event) -> None:
    """Check that every field is what the contract says; `UnreadableEvent` names the first that is not.

    Of a kind of the application's own, what the contract knows is checked: the envelope, or the kind that it extends.
    """
    if not isinstance(event, Event):
        raise UnreadableEvent(f"an event is an instance of a class of `events`, and this is {_type_of(event)}")
    name, base = str(name_of(event)), _known_base(type(event))
    given = {field.name: getattr(event, field.name, None) for field in fields(base) if field.name != "event"}
    for field, value in given.items():
        if not _is_plain(value):  # pydantic would iterate whatever can be iterated, to no end if need be
            raise UnreadableEvent(f"{name}: field `{field}` holds what JSON cannot say")
    of_unknown = {"name": name, "fields": {}} if base is Event else {}
    taken = _checked(name, {**of_unknown, **given, "event": UnknownEvent.kind if base is Event else base.kind})
    for field, value in given.items():
        if not _is_same(value, getattr(taken, field)):
            expected, found = _type_of(getattr(taken, field)), _type_of(value)
            what = "holds what JSON cannot say" if found == expected else f"should be {expected}, and is {found}"
            raise UnreadableEvent(f"{name}: field `{field}` {what}")


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what `write` writes: the sixteen kinds, and domain events."""
    definitions: dict[str, Any] = _adapter().json_schema(ref_template="#/$defs/{model}")["$defs"]
    del definitions[UnknownEvent.__name__]
    for kind, cls in KINDS.items():
        _describe(definitions[cls.__name__], {"const": kind, "type": "string"})
    _describe(definitions[DomainEvent.__name__], {"type": "string", "description": "The same as `name`."}, "data")
    mapping = {kind: f"#/$defs/{cls.__name__}" for kind, cls in KINDS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An event of otel-agentbus",
        "oneOf": [{"$ref": ref} for ref in (*mapping.values(), f"#/$defs/{DomainEvent.__name__}")],
        "discriminator": {"propertyName": "event", "mapping": mapping},
        "$defs": definitions,
    }


def _describe(definition: dict[str, Any], event: dict[str, str], *required: str) -> None:
    others = {name: schema for name, schema in definition["properties"].items() if name != "event"}
    for schema in others.values():
        schema.pop("title", None)
    definition["properties"] = {"event": event, **others}
    definition["required"] = ["event", *definition.get("required", ()), *required]
    definition["additionalProperties"] = False


# Reading


@cache
def _adapter() -> TypeAdapter[Any]:
    kinds = tuple(Annotated[cls, Tag(kind)] for kind, cls in _CLASSES.items())
    union = Union[kinds]  # type: ignore[valid-type]  # noqa: UP007 - it is computed
    told_apart = Annotated[union, Discriminator(lambda taken: taken["event"])]
    adapter: TypeAdapter[Any] = TypeAdapter(told_apart)
    return adapter


def _checked(name: str, taken: dict[str, object]) -> Event:
    try:
        return cast("Event", _adapter().validate_python(taken))
    except ValidationError as error:
        # Without its cause, which shows values: they may be content that has to stay at home.
        raise UnreadableEvent(_sentence(name, error)) from None


def _sentence(name: str, error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)
    places = [problem["loc"] for problem in problems]
    named = [str(place[1] if len(place) > 1 else place[0]) for place in places]
    if problems[0]["type"] == "missing":
        what = "is missing"
    elif named.count(named[0]) > 1:
        what = "is of none of the types that it may have"
    else:
        what = problems[0]["msg"].replace("Input should", "should")
    others = len(set(named)) - 1
    return f"{name}: field `{named[0]}` {what}" + (f" (and {others} more)" if others else "")


def _known_fields(cls: type, found: Mapping[Any, object]) -> dict[str, object]:
    """The fields of a class by our names; whatever else is said is kept under `attributes`."""
    defaults = _defaults(cls)
    taken: dict[str, object] = {}
    further: dict[Any, object] = {}
    for key, value in found.items():
        name = ALIASES.get(key, key)
        if name not in defaults or (name != key and name in found):
            further[key] = value
        elif value is not None or defaults[name] is None or defaults[name] is MISSING:
            taken[name] = _seconds(value) if name in _DURATIONS else value
    further = {key: value for key, value in further.items() if key != "event" and value is not None}
    attributes = taken.get("attributes", {})
    if further and isinstance(attributes, dict):
        free = {key if key not in attributes else f"event.{key}": value for key, value in further.items()}
        taken["attributes"] = {**attributes, **free}
    return taken


def _unknown_fields(name: str, found: Mapping[Any, object]) -> dict[str, object]:
    envelope = {key: value for key, value in found.items() if key in _ENVELOPE and value is not None}
    others = {key: value for key, value in found.items() if key not in _ENVELOPE and key != "event"}
    return {**envelope, "name": name, "fields": others}


def _seconds(value: object) -> object:
    """A duration in seconds; what is none is left for the contract to refuse."""
    try:
        if isinstance(value, dict) and value.keys() == {"secs", "nanos"}:
            return value["secs"] + value["nanos"] / 1e9
        if isinstance(value, str) and value.lstrip("-").startswith("P"):
            value = TypeAdapter(timedelta).validate_python(value)
    except (TypeError, ValidationError):
        return value
    return value.total_seconds() if isinstance(value, timedelta) else value


def _known_base(cls: type[Event]) -> type[Event]:
    """The class of the contract that this is or extends; the envelope, if there is none."""
    known = set(map(id, _CLASSES.values()))
    return next((base for base in cls.__mro__ if id(base) in known), Event)


def _is_plain(value: object) -> bool:
    """Whether this is made of JSON's own types all the way down, no deeper than anybody means it."""
    if value is None or isinstance(value, (str, int, float)):
        return True
    level, seen = [value], {id(value)}
    for _ in range(_DEEPEST):
        below: list[object] = []
        for container in level:
            if not isinstance(container, (dict, list)):
                return False
            below.extend(dict.values(container) if isinstance(container, dict) else list.__iter__(container))
        containers = (inner for inner in below if inner is not None and not isinstance(inner, (str, int, float)))
        level = [inner for inner in containers if id(inner) not in seen]
        if not level:
            return True
        seen.update(map(id, level))
    return False


def _is_same(given: object, taken: object) -> bool:
    """Whether the contract took the value as it was given, and did not read something else into it."""
    if isinstance(given, bool) != isinstance(taken, bool) or (isinstance(given, float) and isinstance(taken, int)):
        return False
    try:
        return bool(given == taken)
    except Exception:  # noqa: BLE001 - the value's own code
        return False


def _type_of(value: object) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"


# Writing


@lru_cache(maxsize=1024)
def _defaults(cls: type) -> dict[str, object]:
    """The fields of a class and what they are when nobody sets them; MISSING for those that must be said."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(cls)
        if field.name != "event"
    }


@lru_cache(maxsize=1024)
def _written(cls: type) -> tuple[tuple[str, ...], tuple[object, ...], Callable[[Event], tuple[object, ...]]]:
    """The fields to write, what each of them is when it can be left out, and how to get them all."""
    defaults = _defaults(cls)
    names = tuple(name for name in defaults if name in _ENVELOPE or not issubclass(cls, UnknownEvent))
    return names, tuple(MISSING if name == "data" else defaults[name] for name in names), attrgetter(*names)


#: What JSON says as it is; ints are not among them, for they may be too long for those who read them.
_PLAIN = frozenset({str, bool, float, type(None)})
_LONGEST_INT = 1 << 1024
_DEEPEST = 100
_MOST_ITEMS = 10_000


def _rendered(value: object, above: tuple[int, ...] = ()) -> JSON:
    """A value in the terms of JSON; what it cannot say becomes text. Iterators are left alone: they are the agent's."""
    if type(value) in _PLAIN or (type(value) is int and -_LONGEST_INT < value < _LONGEST_INT):
        return cast("JSON", value)
    try:
        if isinstance(value, Enum):
            return _rendered(value.value, above)
        if isinstance(value, int):
            number = int.__add__(value, 0)
            return number if -_LONGEST_INT < number < _LONGEST_INT else hex(number)
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
    if len(above) >= _DEEPEST:
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
