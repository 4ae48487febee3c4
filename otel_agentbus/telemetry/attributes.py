"""Which values an attribute may have: the rules that keep every span and every series encodable, whatever comes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from operator import attrgetter, itemgetter
from typing import TypeAlias
from uuid import UUID

from otel_agentbus.events import ChannelMessage, Event

from . import names

AttributeValue: TypeAlias = (
    "str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]"
)
Attributes: TypeAlias = "dict[str, AttributeValue]"
#: The name of a span or of a span event, and its attributes.
Named: TypeAlias = "tuple[str, Attributes]"

#: How long a name (of an agent, a model, a tool) may be on a span; more is not a name.
NAME_LENGTH = 256
#: How long the path of an invocation may be: the names of the agents from the root to it.
PATH_LENGTH = 1024
#: How many attributes of its own one event may bring: with ours, a span stays under a hundred.
ROOM = 32

_LOWEST = -(2**63)
_SCALARS = frozenset((str, bool, int, float))


def text(value: object, limit: int | None = None) -> str | None:
    """A text that can be encoded, cut to the limit; None where there is none (no text, or an empty one)."""
    said = value if isinstance(value, str) else _id_as_text(value)
    if said is None:
        return None
    if said.__class__ is not str:
        said = str.__str__(said)
    if limit is not None and len(said) > limit:
        said = said[:limit]
    if not said.isascii():
        said = said.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate would cost the whole batch
    return said or None


def _id_as_text(value: object) -> str | None:
    """Ids are often integers or UUIDs; the text of anything else may differ from process to process."""
    if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool) and fits(value)):
        return str(value)
    return None


def name(value: object) -> str | None:
    """A text that names something."""
    if value.__class__ is str and value.isascii() and 0 < len(value) <= NAME_LENGTH:
        return value
    return None if value is None else text(value, NAME_LENGTH)


def fits(value: int) -> bool:
    """Whether an integer fits into 64 bits. (`in range` walks the whole range for a subclass of int.)"""
    return _LOWEST <= int(value) < -_LOWEST


def whole(value: object) -> int | None:
    """An integer that fits into 64 bits."""
    if isinstance(value, int) and not isinstance(value, bool) and fits(value):
        return int(value)
    return None


def number(value: object) -> float | None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return None
    try:
        found = float(value)
    except (OverflowError, ValueError):
        return None
    return found if math.isfinite(found) else None


def legal(value: object) -> AttributeValue | None:
    """The value as OpenTelemetry can carry it, nested JSON as a JSON text; None where it cannot or says nothing."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return whole(value)
    if isinstance(value, (float, Decimal)):
        return number(value)
    if isinstance(value, (list, tuple)):
        return _sequence(value)
    return _json(value) if isinstance(value, Mapping) and value else None


def _sequence(values: Sequence[object]) -> AttributeValue | None:
    kinds = {value.__class__ for value in values}
    if len(kinds) == 1 and kinds <= _SCALARS:
        members = [("" if value == "" else legal(value)) for value in values]
        if None not in members:
            return members  # type: ignore[return-value]  # of one scalar class, which the line above has seen
    return _json(values) if values else None


def _json(value: object) -> str | None:
    try:
        return text(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    except (TypeError, ValueError, RecursionError):
        return None


def mapping(value: object) -> Mapping[str, object]:
    """The entries of a mapping that have a name; none of what is no mapping."""
    if not isinstance(value, Mapping) or not value:
        return {}
    return {key: entry for key, entry in value.items() if isinstance(key, str)}


def plain(attributes: object, room: int, prefix: str = "") -> tuple[Attributes, int]:
    """The attributes that an event brings, sorted by their names, and how many found no room or cannot be said."""
    found: Attributes = {}
    dropped = 0
    if not attributes:
        return found, dropped
    for key, said in sorted(mapping(attributes).items(), key=itemgetter(0)):
        label = name(key)
        if said is None or label is None or label in names.RESERVED:
            continue
        value = legal(said)
        if value is not None and len(found) < room:
            found[prefix + label] = value
        elif value is not None or said not in ("", [], (), {}):
            dropped += 1
    return found, dropped


def put(attributes: Attributes, key: str, value: AttributeValue | None) -> None:
    """Write what is known, and nothing where nothing is."""
    if value is not None:
        attributes[key] = value


def put_name(attributes: Attributes, key: str, value: object) -> None:
    """Write what names something, where it can be said."""
    if value.__class__ is str and 0 < len(value) <= NAME_LENGTH and value.isascii():
        attributes[key] = value
    elif value is not None:
        put(attributes, key, text(value, NAME_LENGTH))


_IDENTITY = (
    (names.INVOCATION_ROOT, attrgetter("root_invocation_id")),
    (names.INVOCATION_PARENT, attrgetter("parent_invocation_id")),
    (names.INVOCATION_ID, attrgetter("invocation_id")),
    (names.CONVERSATION, attrgetter("conversation_id")),
    (names.AGENT_NAME, attrgetter("agent")),
)


def identity(event: Event) -> Attributes:
    """Who and where: on every span, since nothing is inherited from a parent's attributes."""
    attributes: Attributes = {}
    if event.channel is not None and not isinstance(event, ChannelMessage):
        put_name(attributes, names.CHANNEL, event.channel)
    if event.attempt != 1 and (whole(event.attempt) or 0) > 1:
        attributes[names.ATTEMPT] = event.attempt
    if event.attributes:
        put(attributes, names.INVOCATION_PATH, _path(mapping(event.attributes).get(names.INVOCATION_PATH)))
    for key, field in _IDENTITY:
        put_name(attributes, key, field(event))
    return attributes


def _path(value: object) -> str | None:
    if isinstance(value, (list, tuple)):
        value = "/".join(part for part in value if isinstance(part, str))
    return text(value, PATH_LENGTH)
