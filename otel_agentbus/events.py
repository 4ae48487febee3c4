"""What can happen: the sixteen events, the domain event, and the envelope that all of them carry.

Events are plain dataclasses, treated as immutable once emitted. The envelope fields that an author leaves unset are
filled in when the event is emitted. Times are nanoseconds of the wall clock, durations are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import TypeAliasType

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Whatever JSON can say. What cannot be said in JSON is rendered by the sinks, never refused.
JSON = TypeAliasType("JSON", "bool | int | float | str | list[JSON] | dict[str, JSON] | None")

#: How a run or a call ended. Cancelled (an early break, a cancelled task, a client gone) is never an error.
Outcome = Literal["ok", "error", "cancelled", "interrupted"]


class _Replayed:
    """Where an event comes from that was read from a journal: no block of this process will end what it began."""

    ended = True

    def __repr__(self) -> str:
        return "REPLAYED"


#: The origin of every event that was read from a journal.
REPLAYED = _Replayed()


class InProcess:
    """What an event carries inside its process only: the block that emitted it, and what the ledger made of it."""

    __slots__ = ("account", "origin")

    account: Any
    origin: Any

    @property
    def replayed(self) -> bool:
        """Whether the event was read from a journal: it happened before, perhaps in another process."""
        return getattr(self, "origin", None) is REPLAYED


@dataclass(slots=True, kw_only=True)
class Event(InProcess):
    """The envelope of every event; subscribing to `Event` means all of them.

    `source` is one bus in one process, and `seq` has no gap within it. The three invocation ids are the lineage;
    `parent_call_id` names the call block that directly encloses this event's own span or moment (for an `AgentStart`,
    the caller's): a tool call by its id, a model call by `llm:` and its id. `trace` has the outer trace and the
    sampling decision in the form of a W3C traceparent.
    """

    #: The tag of this class on the wire and in subscriptions ("llm.request"); a domain event has its own name.
    kind: ClassVar[str] = "event"

    time_ns: int | None = None
    source: str | None = None
    seq: int | None = None
    invocation_id: str | None = None
    parent_invocation_id: str | None = None
    root_invocation_id: str | None = None
    parent_call_id: str | None = None
    attempt: int = 1
    agent: str | None = None
    channel: str | None = None
    conversation_id: str | None = None
    trace: str | None = None
    tracestate: str | None = None
    attributes: dict[str, JSON] = field(default_factory=dict)


def _seconds(duration: float | timedelta | None) -> float | None:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


@dataclass(slots=True, kw_only=True)
class AgentStart(Event):
    """An agent run begins. A run without a parent invocation is the root of its tree."""

    kind: ClassVar[str] = "agent.start"
    event: Literal["agent.start"] = field(default="agent.start", init=False)
    model_provider: str | None = None
    model: str | None = None
    instructions: JSON = None
    input: JSON = None


@dataclass(slots=True, kw_only=True)
class AgentEnd(Event):
    """An agent run is over. Totals are the producer's own, for comparison; they are never added to the calls'."""

    kind: ClassVar[str] = "agent.end"
    event: Literal["agent.end"] = field(default="agent.end", init=False)
    model_provider: str | None = None
    model: str | None = None
    duration: float | None = None
    tokens_used: int | dict[str, int] | None = None
    cost_usd: float | None = None
    outcome: Outcome | None = None
    error_type: str | None = None
    error_message: str | None = None
    output: JSON = None

    def __post_init__(self) -> None:
        if self.duration.__class__ is not float:
            self.duration = _seconds(self.duration)
        if self.outcome is None:
            self.outcome = "ok" if self.error_type is None and self.error_message is None else "error"


@dataclass(slots=True, kw_only=True)
class LlmRequest(Event):
    """A request is about to be sent to a model. Without a `call_id` it pairs with the next response of its run."""

    kind: ClassVar[str] = "llm.request"
    event: Literal["llm.request"] = field(default="llm.request", init=False)
    model_provider: str
    model: str
    messages_count: int
    call_id: str | None = None
    operation: str = "chat"
    stream: bool | None = None
    messages: JSON = None
    parameters: dict[str, JSON] | None = None


@dataclass(slots=True, kw_only=True)
class LlmResponse(Event):
    """A model call is over. Input tokens are totals that include cached ones; `usage` has any further counts."""

    kind: ClassVar[str] = "llm.response"
    event: Literal["llm.response"] = field(default="llm.response", init=False)
    model_provider: str
    model: str
    duration: float
    success: bool
    outcome: Outcome | None = None
    error_type: str | None = None
    error_message: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    reasoning_output_tokens: int | None = None
    usage: dict[str, int] | None = None
    response_model: str | None = None
    response_id: str | None = None
    finish_reasons: list[str] | None = None
    time_to_first_chunk: float | None = None
    service_tier: str | None = None
    cost_usd: float | None = None
    call_id: str | None = None
    messages: JSON = None

    def __post_init__(self) -> None:
        if self.duration.__class__ is not float:
            self.duration = _seconds(self.duration)  # type: ignore[assignment]  # a duration that is given stays given
        if self.outcome is None:
            self.outcome = "ok" if self.success else "error"


@dataclass(slots=True, kw_only=True)
class ToolCallStart(Event):
    """A tool call is about to be executed. Without an id it pairs, first in first out, by the tool's name."""

    kind: ClassVar[str] = "tool.start"
    event: Literal["tool.start"] = field(default="tool.start", init=False)
    tool: str
    tool_call_id: str | None = None
    arguments: JSON = None


@dataclass(slots=True, kw_only=True)
class ToolCall(Event):
    """A tool call is over, with its result or its error."""

    kind: ClassVar[str] = "tool.end"
    event: Literal["tool.end"] = field(default="tool.end", init=False)
    tool: str
    tool_call_id: str | None = None
    duration: float
    success: bool
    outcome: Outcome | None = None
    error_type: str | None = None
    error_message: str | None = None
    arguments: JSON = None
    result: JSON = None

    def __post_init__(self) -> None:
        if self.duration.__class__ is not float:
            self.duration = _seconds(self.duration)  # type: ignore[assignment]  # a duration that is given stays given
        if self.outcome is None:
            self.outcome = "ok" if self.success else "error"


@dataclass(slots=True, kw_only=True)
class TurnComplete(Event):
    """The agent produced its final answer for the current user message."""

    kind: ClassVar[str] = "turn.complete"
    event: Literal["turn.complete"] = field(default="turn.complete", init=False)


@dataclass(slots=True, kw_only=True)
class ChannelMessage(Event):
    """A message was received or sent through a channel (here `channel` is the message's own)."""

    kind: ClassVar[str] = "channel.message"
    event: Literal["channel.message"] = field(default="channel.message", init=False)
    channel: str
    direction: str


@dataclass(slots=True, kw_only=True)
class HeartbeatTick(Event):
    """The runtime's keep-alive loop ticked."""

    kind: ClassVar[str] = "heartbeat.tick"
    event: Literal["heartbeat.tick"] = field(default="heartbeat.tick", init=False)


@dataclass(slots=True, kw_only=True)
class CacheHit(Event):
    """A response came from the application's own cache: a model call was avoided."""

    kind: ClassVar[str] = "cache.hit"
    event: Literal["cache.hit"] = field(default="cache.hit", init=False)
    cache_type: str
    tokens_saved: int


@dataclass(slots=True, kw_only=True)
class CacheMiss(Event):
    """The prompt was not found in the application's own cache."""

    kind: ClassVar[str] = "cache.miss"
    event: Literal["cache.miss"] = field(default="cache.miss", init=False)
    cache_type: str


@dataclass(slots=True, kw_only=True)
class Error(Event):
    """Something went wrong in a named component."""

    kind: ClassVar[str] = "error"
    event: Literal["error"] = field(default="error", init=False)
    component: str
    message: str
    error_type: str | None = None


@dataclass(slots=True, kw_only=True)
class DeploymentStarted(Event):
    """A deployment has started."""

    kind: ClassVar[str] = "deployment.started"
    event: Literal["deployment.started"] = field(default="deployment.started", init=False)
    deploy_id: str


@dataclass(slots=True, kw_only=True)
class DeploymentCompleted(Event):
    """A deployment has completed."""

    kind: ClassVar[str] = "deployment.completed"
    event: Literal["deployment.completed"] = field(default="deployment.completed", init=False)
    deploy_id: str
    commit_sha: str


@dataclass(slots=True, kw_only=True)
class DeploymentFailed(Event):
    """A deployment has failed."""

    kind: ClassVar[str] = "deployment.failed"
    event: Literal["deployment.failed"] = field(default="deployment.failed", init=False)
    deploy_id: str
    reason: str


@dataclass(slots=True, kw_only=True)
class RecoveryCompleted(Event):
    """The service has recovered from a failed deployment."""

    kind: ClassVar[str] = "recovery.completed"
    event: Literal["recovery.completed"] = field(default="recovery.completed", init=False)
    deploy_id: str


@dataclass(slots=True, kw_only=True)
class DomainEvent(Event):
    """Something that matters to the application itself ("lead_qualified"), under the application's own name."""

    kind: ClassVar[str] = "domain"
    name: str
    data: dict[str, JSON] = field(default_factory=dict)

    @property
    def event(self) -> str:
        """The tag on the wire: the event's own name."""
        return self.name


@dataclass(slots=True, kw_only=True)
class UnknownEvent(Event):
    """An event of a kind that this version does not know, with its fields kept."""

    kind: ClassVar[str] = "unknown"
    name: str
    fields: dict[str, JSON] = field(default_factory=dict)

    @property
    def event(self) -> str:
        """The tag on the wire: the kind as it was read."""
        return self.name


#: The sixteen kinds, by their tags.
KINDS: Mapping[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        AgentStart,
        AgentEnd,
        LlmRequest,
        LlmResponse,
        ToolCallStart,
        ToolCall,
        TurnComplete,
        ChannelMessage,
        HeartbeatTick,
        CacheHit,
        CacheMiss,
        Error,
        DeploymentStarted,
        DeploymentCompleted,
        DeploymentFailed,
        RecoveryCompleted,
    )
}


def name_of(event: Event) -> str:
    """The name by which subscriptions with a glob match this event: its tag, or a domain event's own name."""
    return event.name if isinstance(event, (DomainEvent, UnknownEvent)) else event.kind


__all__ = [
    "JSON",
    "KINDS",
    "REPLAYED",
    "AgentEnd",
    "AgentStart",
    "CacheHit",
    "CacheMiss",
    "ChannelMessage",
    "DeploymentCompleted",
    "DeploymentFailed",
    "DeploymentStarted",
    "DomainEvent",
    "Error",
    "Event",
    "HeartbeatTick",
    "LlmRequest",
    "LlmResponse",
    "Outcome",
    "RecoveryCompleted",
    "ToolCall",
    "ToolCallStart",
    "TurnComplete",
    "UnknownEvent",
    "name_of",
]
