"""Events to JSON and back, checked against the contract; and the contract as JSON Schema.

Writing refuses nothing: what JSON cannot say is rendered. Reading is lenient where producers differ: durations may be
numbers, ISO 8601 or Rust's `{"secs", "nanos"}`; `turn_id` and `agent_alias` are our `invocation_id` and `agent`;
further fields of a known kind are kept under `attributes`; an unknown kind becomes an `UnknownEvent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, Union, cast

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError
from pydantic_core import SchemaValidator, from_json
from pydantic_core.core_schema import any_schema

from .errors import UnreadableEvent
from .event_writing import DEEPEST, ENVELOPE, defaults_of, write
from .events import JSON, KINDS, DomainEvent, Event, UnknownEvent, name_of

__all__ = ["ALIASES", "json_schema", "load", "read", "validate", "write"]

#: What other producers call fields of ours.
ALIASES = {"turn_id": "invocation_id", "agent_alias": "agent"}

_DURATIONS = frozenset({"duration", "time_to_first_chunk"})
_CLASSES: Mapping[str, type[Event]] = {**KINDS, DomainEvent.kind: DomainEvent, UnknownEvent.kind: UnknownEvent}


def read(data: bytes | str) -> Event:
    """The event in this JSON text; `UnreadableEvent` says in one sentence why there is none."""
    try:
        found = from_json(data)
    except ValueError as error:
        raise UnreadableEvent(f"not JSON: {error}") from None
    return _as_we_write_it(found) or load(found)


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


@cache
def _adapter() -> TypeAdapter[Any]:
    kinds = tuple(Annotated[cls, Tag(kind)] for kind, cls in _CLASSES.items())
    union = Union[kinds]  # type: ignore[valid-type]  # noqa: UP007 - it is computed
    told_apart = Annotated[union, Discriminator(lambda taken: taken["event"])]
    adapter: TypeAdapter[Any] = TypeAdapter(told_apart)
    return adapter


def _as_we_write_it(found: Any) -> Event | None:
    """The event of a kind of ours in what was JSON text, if nothing in it is another producer's way to say it."""
    tag = found.get("event") if isinstance(found, dict) else None
    cls: type | None = KINDS.get(tag) if isinstance(tag, str) else None
    if cls is None:
        return None
    names, validator = _of_json(cls)
    if not names.issuperset(found):
        return None
    try:
        return cast("Event", validator.validate_python(found))
    except ValidationError:
        return None


@cache
def _of_json(cls: type) -> tuple[frozenset[str], SchemaValidator]:
    """The names in a kind, and what checks it: what may be any JSON is not looked into, for it was JSON."""
    schema: Any = TypeAdapter(cls).core_schema
    known = schema["definitions"] if schema["type"] == "definitions" else ()
    refs = [each["ref"] for each in known]
    if refs and all(ref.startswith(f"{JSON.__module__}.{JSON.__name__}:") for ref in refs):
        schema = {**schema, "definitions": [any_schema(ref=ref) for ref in refs]}
    return frozenset({"event", *defaults_of(cls)}), SchemaValidator(schema)


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
    defaults = defaults_of(cls)
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
    envelope = {key: value for key, value in found.items() if key in ENVELOPE and value is not None}
    others = {key: value for key, value in found.items() if key not in ENVELOPE and key != "event"}
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
    for _ in range(DEEPEST):
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
