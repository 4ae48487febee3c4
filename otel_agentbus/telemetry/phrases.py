"""What an event says, in a few words for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..events import (
    AgentEnd,
    CacheHit,
    CacheMiss,
    ChannelMessage,
    DomainEvent,
    Error,
    Event,
    LlmResponse,
    ToolCall,
)


def attributes_of(event: Event) -> str:
    """What the producer has said besides, in a few words."""
    said: dict[str, object] = {key: value for key, value in event.attributes.items() if not key.startswith("agentbus.")}
    if isinstance(event, LlmResponse) and event.time_to_first_chunk is not None:
        said["first_chunk"] = f"{event.time_to_first_chunk:.2f}s"
    return _pairs(said)


def _pairs(said: dict[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in said.items())


def reason_of(event: AgentEnd | LlmResponse | ToolCall) -> str:
    """Why it did not end well; nothing where it did."""
    if event.outcome != "error":
        return "" if event.outcome in ("ok", None) else str(event.outcome)
    kind = (event.error_type or "error").rpartition(".")[2]
    return f"{kind}: {event.error_message}" if event.error_message else kind


def _budget(said: Mapping[str, Any]) -> str:
    """How much of a budget is spent, or whatever else somebody says under that name."""
    try:
        spent, limit, sign = float(said["spent"]), float(said["limit"]), "$" if said["unit"] == "usd" else ""
        return f"{said['budget']}: {sign}{spent:,.4g} of {sign}{limit:,.4g}, {spent / limit:.0%}"
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return _pairs(dict(said))


def told(event: Event) -> str:
    """What a moment says, in a few words."""
    if isinstance(event, CacheHit):
        return f"{event.cache_type}, {event.tokens_saved:,} tokens saved"
    if isinstance(event, CacheMiss):
        return event.cache_type
    if isinstance(event, DomainEvent):
        return _budget(event.data) if event.name == "budget_threshold_hit" else _pairs(dict(event.data))
    if isinstance(event, Error):
        return f"{event.component}: {event.message}"
    if isinstance(event, ChannelMessage):
        return f"{event.direction} {event.channel}"
    return str(getattr(event, "deploy_id", ""))
