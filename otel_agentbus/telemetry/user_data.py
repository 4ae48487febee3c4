"""What applications say themselves, on events and on their span: JSON-safe, without secrets, of bounded size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol

from otel_agentbus.events import JSON

from . import names
from .rendering import dumps, object_of, safe_json, safe_text, size_of
from .secrets import is_secret_name, scrub, secret_spans
from .truncation import fitted

Data = dict[str, JSON]

#: The attributes that are content, whoever sets them.
CONTENT_ATTRIBUTES = frozenset(
    (
        *(names.SYSTEM_INSTRUCTIONS, names.INPUT_MESSAGES, names.OUTPUT_MESSAGES),
        *(names.TOOL_ARGUMENTS, names.TOOL_RESULT),
        *("gen_ai.tool.definitions", "gen_ai.prompt", "gen_ai.completion", "gen_ai.retrieval.documents"),
        *("gen_ai.retrieval.query.text", "gen_ai.memory.records", "gen_ai.memory.query.text"),
        # names of an event's fields that are content, recorded where that event has no such field; OpenInference's
        *("instructions", "input", "output", "messages", "arguments", "prompt", "completion"),
        *("input.value", "output.value"),
    )
)
_ERROR_TEXTS = frozenset(("exception.message", "exception.stacktrace", "error.message"))
_MAX_EVENTS = 1000
_MAX_LINKS = 128
_MAX_ERRORS = 32
_MAX_SPAN_BYTES = 1 << 20
_INT64 = range(-(1 << 63), 1 << 63)


class ErrorText(Protocol):
    """How the text of an error is cleaned."""

    def __call__(self, field: str, said: object, *, tail: bool = False) -> str:
        """What may be told of it."""


class UserData:
    """Cleans the attributes of one event, with what user code did to its span."""

    __slots__ = ("_content", "_error_text", "_errors", "_max_bytes", "cut")

    def __init__(self, max_bytes: int, error_text: ErrorText, *, content: bool) -> None:
        self._max_bytes = max_bytes
        self._error_text = error_text
        self._content = content
        self._errors = _MAX_ERRORS
        #: How much had to be cut off.
        self.cut = 0

    def attributes(self, attributes: object) -> Data:
        """The attributes of an event; the same object if nothing need be done."""
        if type(attributes) is dict and is_clean(attributes):
            return attributes
        entries = object_of(attributes, "attributes")
        span = entries.pop(names.SPAN_DATA, None)
        clean = self._attributes(entries, self._max_bytes)
        if isinstance(span, dict):
            clean[names.SPAN_DATA] = self._span(span)
        return clean

    def data(self, data: object) -> Data:
        """The payload of an event of the application's own; the same object if nothing need be done."""
        if type(data) is dict and is_clean(data):
            return data
        return self._plain(object_of(data, "data"), self._max_bytes)

    def _attributes(self, attributes: Mapping[object, object], max_bytes: int) -> Data:
        errors: Data = {}
        others: dict[object, object] = {}
        for key, value in list(attributes.items()):
            if isinstance(key, str) and key in _ERROR_TEXTS:
                errors[key] = self._error(key, value)
            elif self._content or not _is_content(key):
                others[key] = value
        return self._plain(others, max_bytes) | errors

    def _error(self, field: str, said: object) -> str:
        self._errors -= 1
        if self._errors < 0:  # each costs a search through the content of its run
            self.cut += 1
            return ""
        return self._error_text(field, said, tail=field == "exception.stacktrace")

    def _plain(self, data: Mapping[object, object], max_bytes: int) -> Data:
        copied = scrub(safe_json(data, 2 * max_bytes, max_bytes))
        kept, _ = fitted(copied, max_bytes)
        self.cut += kept is not copied
        return kept if isinstance(kept, dict) else {}

    def _span(self, data: Mapping[str, object]) -> Data:
        clean: Data = {}
        for key, value in data.items():
            clean_part = _SPAN_PARTS.get(key)
            if clean_part is not None:
                clean[key] = clean_part(self, value)
            else:
                clean |= self._plain({key: value}, _MAX_SPAN_BYTES)
        return clean

    def _events(self, events: object) -> JSON:
        """`[[name, time_ns, {attributes}], ...]`, the first of them, as far as they have room."""
        kept: list[JSON] = []
        room = _MAX_SPAN_BYTES
        given = events if isinstance(events, list) else []
        for event in given[:_MAX_EVENTS]:
            if isinstance(event, (list, tuple)) and len(event) == 3 and isinstance(event[2], Mapping) and room > 0:
                time_ns = event[1] if type(event[1]) is int and event[1] in _INT64 else None
                attributes = self._attributes(event[2], min(self._max_bytes, room))
                kept.append([_label(event[0]), time_ns, attributes])
                room -= size_of(dumps(attributes))
        self.cut += len(given) - len(kept)
        return kept

    def _links(self, links: object) -> JSON:
        """`[[traceparent, {attributes}], ...]`."""
        given = links if isinstance(links, list) else []
        return [
            [_label(link[0]), self._attributes(link[1], self._max_bytes)]
            for link in given[:_MAX_LINKS]
            if isinstance(link, (list, tuple)) and len(link) == 2 and isinstance(link[1], Mapping)
        ]

    def _status(self, status: object) -> JSON:
        """`[code, description]`: the description is the text of an error."""
        if not isinstance(status, (list, tuple)) or len(status) != 2:
            return ["UNSET", None]
        said = status[1]
        return [safe_text(status[0]), None if said is None else self._error("status", said)]

    def _name(self, name: object) -> JSON:
        return _label(name)


_SPAN_PARTS: dict[str, Callable[[UserData, object], JSON]] = {
    "events": UserData._events,
    "links": UserData._links,
    "status": UserData._status,
    "name": UserData._name,
}


def _label(value: object) -> str:
    text = scrub(safe_text(value))
    return text if isinstance(text, str) else ""


def _is_content(key: object) -> bool:
    return isinstance(key, str) and (key in CONTENT_ATTRIBUTES or key.startswith("gen_ai.prompt.variable."))


@lru_cache(maxsize=4096)
def _is_clean_key(key: str) -> bool:
    return (
        key.isascii()
        and len(key) <= 64
        and key not in CONTENT_ATTRIBUTES
        and key not in _ERROR_TEXTS
        and not key.startswith("gen_ai.prompt.")
        and not is_secret_name(key)
        and not (len(key) >= 16 and secret_spans(key))
    )


def _is_clean_text(text: str) -> bool:
    return len(text) <= 512 and _is_clean_short_text(text)


@lru_cache(maxsize=4096)
def _is_clean_short_text(text: str) -> bool:
    return text.isascii() and text[:1] not in ("{", "[") and not secret_spans(text)


def is_clean(data: Mapping[str, JSON]) -> bool:
    """Is this an object of plain values with nothing in it that must be looked at again?"""
    for key, value in data.items():
        check = _CLEAN.get(type(value))
        if check is None or type(key) is not str or not _is_clean_key(key) or not check(value):
            return False
    return True


_CLEAN: dict[type, Callable[..., bool]] = {
    str: _is_clean_text,
    int: lambda value: value in _INT64 and (value < 10**13 or scrub(value) is value),
    float: math.isfinite,
    bool: lambda value: True,
    type(None): lambda value: True,
}
