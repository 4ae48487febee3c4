"""What the tests of blocks share: what was told, as plain rows, and the checks that hold after every scenario."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from opentelemetry import context

from otel_agentbus.events import AgentEnd, AgentStart, Event, LlmRequest, LlmResponse, ToolCall, ToolCallStart
from otel_agentbus.testing import Captured

_STARTS = (AgentStart, LlmRequest, ToolCallStart)
_ENDS = (AgentEnd, LlmResponse, ToolCall)


def label(event: Event) -> str:
    """The name by which a test knows this block: the agent's, the model's or the tool's."""
    if isinstance(event, (LlmRequest, LlmResponse)):
        return event.model
    return event.tool if isinstance(event, (ToolCallStart, ToolCall)) else str(event.agent)


def call_name(event: Event) -> str | None:
    """How things inside this call name it as their `parent_call_id`; None for runs."""
    if isinstance(event, LlmRequest):
        return f"llm:{event.call_id}"
    if isinstance(event, ToolCallStart):
        found = event.tool_call_id or ""
        return f"tool:{found}" if found.startswith(("llm:", "tool:")) else found
    return None


def key(event: Event) -> tuple[object, ...]:
    """What a start and its end have in common."""
    kind = event.kind.partition(".")[0]
    call = getattr(event, "call_id", None) or getattr(event, "tool_call_id", None)
    return kind, event.root_invocation_id, event.invocation_id, call, event.attempt


def starts(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, _STARTS)]


def ends(events: Iterable[Event]) -> list[AgentEnd | LlmResponse | ToolCall]:
    return [event for event in events if isinstance(event, _ENDS)]


def outcomes(seen: Captured) -> dict[str, str | None]:
    """How every block ended, by its label; each exactly once."""
    assert_balanced(seen)
    return {label(event): event.outcome for event in ends(seen.events)}


def parents(seen: Captured) -> dict[str, str | None]:
    """Every block's parent, by labels, as the events' own ids tell it."""
    runs = {event.invocation_id: label(event) for event in seen.events if isinstance(event, AgentStart)}
    calls = {(event.invocation_id, call_name(event)): label(event) for event in starts(seen.events)}
    found: dict[str, str | None] = {}
    for event in starts(seen.events):
        home = event.parent_invocation_id if isinstance(event, AgentStart) else event.invocation_id
        if event.parent_call_id is not None:
            found[label(event)] = calls[home, event.parent_call_id]
        else:
            found[label(event)] = runs[home] if home is not None else None
    return found


@contextmanager
def restored() -> Iterator[None]:
    """For what must leave an OpenTelemetry context behind: a block that ends elsewhere cannot restore it here."""
    before = context.get_current()
    yield
    context.attach(before)


def assert_balanced(seen: Captured) -> None:
    """Every start has exactly one end, and no end stands alone."""
    assert Counter(map(key, starts(seen.events))) == Counter(map(key, ends(seen.events)))
    assert max(Counter(map(key, ends(seen.events))).values(), default=1) == 1
