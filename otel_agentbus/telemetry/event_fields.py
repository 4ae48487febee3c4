"""Which field of which event is content, the text of an error, a name or something else, and which events are bare."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, TypeVar

from otel_agentbus.events import (
    KINDS,
    AgentEnd,
    AgentStart,
    CacheHit,
    CacheMiss,
    DeploymentFailed,
    DomainEvent,
    Error,
    Event,
    HeartbeatTick,
    LlmRequest,
    LlmResponse,
    ToolCall,
    ToolCallStart,
    TurnComplete,
    UnknownEvent,
)

from .names import FORWARDED
from .user_data import is_clean

E = TypeVar("E", bound=Event)

#: As what a content is rendered.
Shape = Literal["instructions", "sent", "answered", "value"]

_CONTENT: Mapping[type[Event], tuple[tuple[str, Shape], ...]] = {
    AgentStart: (("instructions", "instructions"), ("input", "sent")),
    AgentEnd: (("output", "answered"),),
    LlmRequest: (("messages", "sent"),),
    LlmResponse: (("messages", "answered"),),
    ToolCallStart: (("arguments", "value"),),
    ToolCall: (("arguments", "value"), ("result", "value")),
}
#: The field with an error's text, and what it is without one.
_ERROR_TEXT: Mapping[type[Event], tuple[str, str | None]] = {
    AgentEnd: ("error_message", None),
    LlmResponse: ("error_message", None),
    ToolCall: ("error_message", None),
    Error: ("message", ""),
    DeploymentFailed: ("reason", ""),
}
#: What is neither a name nor an id: numbers and flags, and what has a treatment of its own.
_NO_TEXT = frozenset(
    (
        *("time_ns", "seq", "attempt", "event", "attributes", "duration", "success", "stream", "messages_count"),
        *("cost_usd", "time_to_first_chunk", "tokens_saved", "input_tokens", "output_tokens"),
        *("cache_read_input_tokens", "cache_write_input_tokens", "reasoning_output_tokens", "error_type"),
        *("parameters", "data", "fields"),
    )
)
#: What all events of an invocation share.
_LINEAGE = frozenset(field.name for field in dataclasses.fields(Event)) - _NO_TEXT - {"parent_call_id"}
_COUNTS = frozenset(("tokens_used", "usage", "finish_reasons"))


class Fields(NamedTuple):
    """The fields of one class of events by their treatment."""

    content: tuple[tuple[str, Shape], ...]
    error_text: tuple[str, str | None] | None
    lineage: tuple[str, ...]
    texts: tuple[str, ...]
    counts: tuple[str, ...]
    #: Those that a subclass adds, of which nothing is known.
    added: tuple[str, ...]
    slots: tuple[str, ...]


_UNSET = object()
_by_class: dict[type, Fields] = {}


def fields_of(cls: type[Event]) -> Fields:
    """How to treat the fields of this class of events, also of one that an application derives."""
    found = _by_class.get(cls)
    if found is None:
        found = _by_class[cls] = _fields_of(cls)
    return found


def _fields_of(cls: type[Event]) -> Fields:
    known = next((one for one in cls.__mro__ if one in _KNOWN), Event)
    content, error_text = _CONTENT.get(known, ()), _ERROR_TEXT.get(known)
    apart = _NO_TEXT | _COUNTS | {field for field, _ in content} | {error_text[0] if error_text else ""}
    own = tuple(field.name for field in dataclasses.fields(known))
    every = tuple(field.name for field in dataclasses.fields(cls))
    return Fields(
        content=content,
        error_text=error_text,
        lineage=tuple(name for name in own if name in _LINEAGE),
        texts=tuple(name for name in own if name not in apart and name not in _LINEAGE),
        counts=tuple(name for name in own if name in _COUNTS),
        added=tuple(name for name in every if name not in own),
        slots=tuple(dict.fromkeys(slot for one in cls.__mro__ for slot in _slots(one))),
    )


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    every = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(slot for slot in every if slot not in ("__dict__", "__weakref__"))


def copy_of(event: E, changes: Mapping[str, object]) -> E:
    """A shallow copy of an event with some fields changed."""
    twin = object.__new__(type(event))
    put = object.__setattr__
    for name in fields_of(type(event)).slots:
        if name not in changes and (value := getattr(event, name, _UNSET)) is not _UNSET:
            put(twin, name, value)
    for name, value in {**getattr(event, "__dict__", {}), **changes}.items():
        put(twin, name, value)
    return twin


# -- the events of which nothing need be done -----------------------------------------------------------------------
# Each of these runs on the agent's own thread for every event: one expression, the names looked up among those that
# have been seen before, the ids (which never come back) looked at. Model calls, of which there are most, have all of it
# written out: the interpreter learns at each place where the fields of one class are.

#: Names, or the ids of runs, that have been looked at before.
Seen = set[str | None]


def _is_known(event: Event, runs: Seen) -> bool:
    """Has the event's lineage been looked at, and do its attributes and its place say nothing that must be?"""
    return (
        event.invocation_id in runs
        and (not event.attributes or (type(event.attributes) is dict and is_clean(event.attributes)))
        and (event.parent_call_id is None or _is_clean_id(event.parent_call_id))
    )


def _is_clean_id(value: str) -> bool:
    return type(value) is str and value.isascii() and len(value) <= 512


def _agent_start(event: AgentStart, names: Seen, runs: Seen) -> bool:
    return (
        event.instructions is None
        and event.input is None
        and event.model in names
        and event.model_provider in names
        and _is_known(event, runs)
    )


def _agent_end(event: AgentEnd, names: Seen, runs: Seen) -> bool:
    return (
        event.output is None
        and event.error_message is None
        and event.invocation_id != event.root_invocation_id  # a root's end is the end of what its run has said
        and event.error_type is None
        and event.model in names
        and event.model_provider in names
        and event.tokens_used.__class__ is not dict
        and _is_known(event, runs)
    )


def _llm_request(event: LlmRequest, names: Seen, runs: Seen) -> bool:
    return (
        event.invocation_id in runs
        and (not (said := event.attributes) or (type(said) is dict and is_clean(said)))
        and ((within := event.parent_call_id) is None or _is_clean_id(within))
        and event.messages is None
        and event.parameters is None
        and event.operation in names
        and event.model in names
        and event.model_provider in names
        and ((call := event.call_id) is None or call.isascii())
    )


def _llm_response(event: LlmResponse, names: Seen, runs: Seen) -> bool:
    return (
        event.invocation_id in runs
        and (not (said := event.attributes) or (type(said) is dict and is_clean(said)))
        and ((within := event.parent_call_id) is None or _is_clean_id(within))
        and event.messages is None
        and event.error_message is None
        and event.error_type is None
        and event.usage is None
        and event.model in names
        and event.model_provider in names
        and event.response_model in names
        and event.service_tier in names
        and (not (reasons := event.finish_reasons) or (len(reasons) == 1 and reasons[0] in names))
        and ((call := event.call_id) is None or call.isascii())
        and ((response := event.response_id) is None or response.isascii())
    )


def _tool_start(event: ToolCallStart, names: Seen, runs: Seen) -> bool:
    return (
        event.arguments is None
        and event.tool in names
        and ((call := event.tool_call_id) is None or call.isascii())
        and _is_known(event, runs)
    )


def _tool_end(event: ToolCall, names: Seen, runs: Seen) -> bool:
    return (
        event.arguments is None
        and event.result is None
        and event.error_message is None
        and event.error_type is None
        and event.tool in names
        and ((call := event.tool_call_id) is None or call.isascii())
        and _is_known(event, runs)
    )


def _always(event: Event, names: Seen, runs: Seen) -> bool:
    return _is_known(event, runs)


def _domain(event: DomainEvent, names: Seen, runs: Seen) -> bool:
    return (
        event.name in names
        and event.name not in FORWARDED  # they quote content
        and type(event.data) is dict
        and is_clean(event.data)
        and _is_known(event, runs)
    )


def _cache(event: CacheHit | CacheMiss, names: Seen, runs: Seen) -> bool:
    return event.cache_type in names and _is_known(event, runs)


#: By class: has this event nothing that must be looked at?
BARE: Mapping[type, Callable[..., bool]] = {
    AgentStart: _agent_start,
    AgentEnd: _agent_end,
    LlmRequest: _llm_request,
    LlmResponse: _llm_response,
    ToolCallStart: _tool_start,
    ToolCall: _tool_end,
    TurnComplete: _always,
    HeartbeatTick: _always,
    CacheHit: _cache,
    CacheMiss: _cache,
    DomainEvent: _domain,
}
_KNOWN = frozenset((*KINDS.values(), DomainEvent, UnknownEvent, Event))
