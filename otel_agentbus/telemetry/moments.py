"""What an event says apart from its span's own attributes: its error, its content, the moment that it is."""

from __future__ import annotations

import re

from otel_agentbus.events import (
    JSON,
    AgentEnd,
    AgentStart,
    CacheHit,
    CacheMiss,
    ChannelMessage,
    DeploymentFailed,
    DomainEvent,
    Error,
    Event,
    LlmRequest,
    LlmResponse,
    ToolCall,
    ToolCallStart,
    TurnComplete,
)

from . import names
from .attributes import ROOM, Attributes, Named, identity, name, plain, put, put_name, text
from .usage import count

_ERROR_TYPE = re.compile(r"[\w.:/$<>\[\]-]{1,128}", re.ASCII)


def error_kind(value: object) -> str:
    """An error's type as the conventions want it, of low cardinality; a sentence in its place is `_OTHER`."""
    given = text(value)
    return given if given is not None and _ERROR_TYPE.fullmatch(given) else "_OTHER"


def error_of(event: Event) -> tuple[str, str | None] | None:
    """The error's type and description, of an event whose span has the status ERROR; None for every other event."""
    match event:
        case Error():
            return error_kind(event.error_type), text(event.message)
        case DeploymentFailed():
            return "_OTHER", text(event.reason)
        case AgentEnd() | LlmResponse() | ToolCall() if event.outcome == "error":
            return error_kind(event.error_type), text(event.error_message)
        case _:
            return None


def exception(event: Event) -> Named | None:
    """The span event `exception` of an event that ended in an error of which anything is known."""
    match event:
        case Error():
            message: object = event.message
        case AgentEnd() | LlmResponse() | ToolCall() if event.outcome == "error":
            message = event.error_message
        case _:
            return None
    attributes: Attributes = {}
    put(attributes, names.EXCEPTION_TYPE, text(event.error_type))
    put(attributes, names.EXCEPTION_MESSAGE, text(message))
    return (names.EXCEPTION_EVENT, attributes) if attributes else None


def content_attributes(event: Event) -> Attributes:
    """The content that an event carries. It is captured, scrubbed and rendered by then: all but text stays home."""
    content: tuple[tuple[str, JSON], ...]
    match event:
        case AgentStart():
            content = ((names.SYSTEM_INSTRUCTIONS, event.instructions), (names.INPUT_MESSAGES, event.input))
        case AgentEnd():
            content = ((names.OUTPUT_MESSAGES, event.output),)
        case LlmRequest():
            content = ((names.INPUT_MESSAGES, event.messages),)
        case LlmResponse():
            content = ((names.OUTPUT_MESSAGES, event.messages),)
        case ToolCallStart():
            content = ((names.TOOL_ARGUMENTS, event.arguments),)
        case ToolCall():
            content = ((names.TOOL_ARGUMENTS, event.arguments), (names.TOOL_RESULT, event.result))
        case _:
            return {}
    return {key: said for key, value in content if isinstance(value, str) and (said := text(value)) is not None}


def details(*events: Event | None) -> Named | None:
    """The span event that carries the content of a call (its start and its end, as far as they came)."""
    attributes: Attributes = {}
    for event in events:
        if event is not None:
            attributes |= content_attributes(event)
    return (names.DETAILS_EVENT, attributes) if attributes else None


def moment(event: Event) -> Named | None:
    """The span event that an event becomes on the span it belongs to; None for events that are not moments."""
    attributes, _ = plain(event.attributes, ROOM)
    match event:
        case TurnComplete():
            return "agentbus.turn.complete", attributes
        case ChannelMessage():
            put_name(attributes, names.CHANNEL, event.channel)
            put_name(attributes, names.DIRECTION, event.direction)
            return "agentbus.channel.message", attributes
        case CacheHit():
            put_name(attributes, names.CACHE_TYPE, event.cache_type)
            put(attributes, names.TOKENS_SAVED, count(event.tokens_saved))
            return "agentbus.cache.hit", attributes
        case CacheMiss():
            put_name(attributes, names.CACHE_TYPE, event.cache_type)
            return "agentbus.cache.miss", attributes
        case Error():
            put_name(attributes, names.COMPONENT, event.component)
            attributes |= (exception(event) or ("", {}))[1]
            return names.EXCEPTION_EVENT, attributes
        case DomainEvent():
            data, _ = plain(event.data, 2 * ROOM, names.DATA)
            return name(event.name) or "agentbus.domain", attributes | data
        case _:
            return None


def moment_span(event: Event) -> Named | None:
    """The name and attributes of the span without length that an error or a domain event outside of any run becomes."""
    found = moment(event)
    if found is None or not isinstance(event, (Error, DomainEvent)):
        return None
    label, attributes = found
    if isinstance(event, Error):
        component = name(event.component)
        label = f"error {component}" if component else "error"
        attributes = {key: value for key, value in attributes.items() if not key.startswith("exception.")}
        attributes[names.ERROR_TYPE] = error_kind(event.error_type)
    return label, attributes | identity(event)
