"""From what has been read of a span to our events: the start, told when it begins, and the end with all it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from ...events import AgentEnd, AgentStart, Event, LlmRequest, LlmResponse, ToolCall, ToolCallStart
from ...invocation import Invocation
from . import content
from .kinds import without_ending
from .lineage import Known
from .model_calls import (
    Said,
    answer_of,
    cost_of,
    first,
    model_of,
    operation_of,
    parameters_of,
    provider_of,
    streamed,
    text,
    tokens_used,
    usage_of,
)

#: What an event says of where it comes from.
SCOPE: Final = "otel.scope.name"
_AGENT_NAMES: Final = ("gen_ai.agent.name", "agent.name", "gen_ai.workflow.name", "agent_name")
_TOOL_NAMES: Final = ("gen_ai.tool.name", "tool.name", "traceloop.entity.name")
_CONVERSATION: Final = ("gen_ai.conversation.id", "session.id", "traceloop.association.properties.session_id")
_TOOL_CALL_ID: Final = ("gen_ai.tool.call.id", "tool.id", "tool_call.id")
_AGENT_CALL_ID: Final = ("gen_ai.agent.call.id", "gen_ai.agent.invocation.id")
_CANCELLED: Final = frozenset(("CancelledError", "GeneratorExit", "KeyboardInterrupt", "Cancelled"))
#: Strands says so of a call that was cancelled.
_CANCELLATION: Final = "strands.cancellation.type"
_WORKFLOWS: Final = frozenset(("invoke_workflow", "invoke_swarm", "invoke_graph"))
_RETRIEVALS: Final = frozenset(("RETRIEVER", "RERANKER"))


def agent_name(said: Said, name: str) -> str:
    """The name of an agent: said, or behind the operation in the span's name, or that name itself."""
    word, _, rest = name.partition(" ")
    behind = rest if word.startswith("invoke_") else ""
    found = text(first(said, _AGENT_NAMES)) or behind or text(said.get("traceloop.entity.name"))
    return found or without_ending(name) or "agent"


def tool_name(said: Said, name: str) -> str:
    """The name of a tool: said, or behind the operation in the span's name, or that name itself."""
    word, _, rest = name.partition(" ")
    return (
        text(first(said, _TOOL_NAMES))
        or (rest if word in ("execute_tool", "tools/call") else without_ending(name))
        or "tool"
    )


def is_workflow(said: Said, name: str) -> bool:
    """Whether a run is that of a workflow, in which its agents run."""
    operation = text(said.get("gen_ai.operation.name")) or name.partition(" ")[0]
    return operation in _WORKFLOWS or said.get("traceloop.span.kind") == "workflow"


def agent_call_id(said: Said) -> str | None:
    """The framework's own id of a run."""
    return text(first(said, _AGENT_CALL_ID))


def tool_call_id(said: Said) -> str | None:
    """The model's own id of a tool call."""
    return text(first(said, _TOOL_CALL_ID))


def conversation(said: Said) -> str | None:
    """The conversation, where the application has named one."""
    return text(first(said, _CONVERSATION))


# -- starts ------------------------------------------------------------------------------------------------------------


def start_of(known: Known, span: ReadableSpan, said: Said) -> Event:
    """The event that its beginning is, as far as it says anything by then."""
    if known.kind == "agent":
        event: Event = AgentStart(
            model_provider=provider_of(said) or None,
            model=model_of(said) or None,
            instructions=content.instructions(said),
            input=content.run_input(said),
        )
    elif known.kind == "llm":
        messages = content.asked(said, span)
        event = LlmRequest(
            model_provider=provider_of(said),
            model=model_of(said, span.name),
            messages_count=len(messages) if isinstance(messages, list) else int(messages is not None),
            call_id=known.call_id,
            operation=operation_of(said, span.name),
            stream=streamed(said),
            messages=messages,
            parameters=parameters_of(said),
        )
    else:
        event = ToolCallStart(
            tool=tool_name(said, span.name), tool_call_id=known.call_id, arguments=content.arguments(said)
        )
    known.start_ns = event.time_ns = span.start_time or 0
    if isinstance(event, (AgentStart, LlmRequest)):
        known.provider, known.model = event.model_provider or "", event.model or ""
    elif isinstance(event, ToolCallStart):
        known.name = event.tool
    if isinstance(event, AgentStart):
        run = known.invocation
        event.attributes = {"agentbus.invocation.path": "/".join(run.path) if run is not None else ""}
    return _stamped(event, known, said)


# -- ends --------------------------------------------------------------------------------------------------------------


def end_of(known: Known, span: ReadableSpan, said: Said) -> Event:
    """The event that its end is, with all that it says."""
    start_ns, end_ns = span.start_time or 0, span.end_time or 0
    duration = max(end_ns - start_ns, 0) / 1e9
    ended = outcome_of(span, said)
    success = ended["outcome"] == "ok"
    if known.kind == "agent":
        event: Event = AgentEnd(
            model_provider=provider_of(said) or None,
            model=model_of(said) or None,
            duration=duration,
            tokens_used=tokens_used(said),
            cost_usd=cost_of(said),
            output=content.run_output(said),
            **ended,
        )
    elif known.kind == "llm":
        fields = usage_of(said) | answer_of(said, span)
        event = LlmResponse(
            model_provider=provider_of(said),
            model=model_of(said, span.name),
            duration=duration,
            success=success,
            call_id=known.call_id,
            messages=content.answered(said, span),
            **fields,
            **ended,
        )
    else:
        event = ToolCall(
            tool=tool_name(said, span.name),
            tool_call_id=known.call_id,
            duration=duration,
            success=success,
            arguments=content.arguments(said),
            result=content.result(said),
            **ended,
        )
    event.time_ns = end_ns
    _stamped(event, known, said)
    if isinstance(event, AgentEnd):
        event.agent = agent_name(said, span.name)
    return event


def lost_end_of(known: Known, now_ns: int) -> Event:
    """The end of what was forgotten before its span has ended: a stream that was left, a task that was cancelled."""
    duration = max(now_ns - known.start_ns, 0) / 1e9
    if known.kind == "agent":
        event: Event = AgentEnd(
            model_provider=known.provider or None, model=known.model or None, duration=duration, outcome="cancelled"
        )
    elif known.kind == "llm":
        event = LlmResponse(
            model_provider=known.provider,
            model=known.model,
            duration=duration,
            success=False,
            outcome="cancelled",
            call_id=known.call_id,
        )
    else:
        event = ToolCall(
            tool=known.name, tool_call_id=known.call_id, duration=duration, success=False, outcome="cancelled"
        )
    event.time_ns = known.start_ns + round(duration * 1e9)
    return _stamped(event, known, {})


def outcome_of(span: ReadableSpan, said: Said) -> dict[str, Any]:
    """How it ended. Who was cancelled has not failed, whatever his span's status says."""
    if said.get(_CANCELLATION) is not None:
        return {"outcome": "cancelled"}
    thrown = _thrown(span)
    kind = text(said.get("error.type")) or text(thrown.get("exception.type"))
    failed = span.status.status_code is StatusCode.ERROR
    if not failed and said.get("error.type") is None:
        return {"outcome": "ok"}
    description = span.status.description or ""
    names = (kind, text(thrown.get("exception.type")), description.partition(":")[0])
    if any(name is not None and name.rpartition(".")[2] in _CANCELLED for name in names):
        return {"outcome": "cancelled"}
    message = text(thrown.get("exception.message")) or description or None
    return {"outcome": "error", "error_type": kind or "_OTHER", "error_message": message}


def _thrown(span: ReadableSpan) -> Mapping[str, Any]:
    """The last exception that was recorded."""
    return next((event.attributes or {} for event in reversed(span.events) if event.name == "exception"), {})


def _stamped(event: Event, known: Known, said: Said) -> Event:
    """Give it its envelope and say whose span it is."""
    run = known.invocation or Invocation("")
    event.invocation_id = run.id or None
    event.parent_invocation_id = run.parent_id
    event.root_invocation_id = run.root_id
    event.parent_call_id = run.parent_call_id if known.kind == "agent" else known.within
    event.attempt = run.attempt
    event.agent = run.agent
    event.channel = run.channel
    event.conversation_id = conversation(said) or run.conversation_id
    event.trace = run.trace
    event.tracestate = run.tracestate
    if known.scope:
        event.attributes[SCOPE] = known.scope
    if known.kind == "tool":
        given = tool_call_id(said)
        if given is not None:
            event.attributes["gen_ai.tool.call.id"] = given
        if said.get("openinference.span.kind") in _RETRIEVALS or said.get("gen_ai.operation.name") == "retrieval":
            event.attributes["gen_ai.tool.type"] = "datastore"
    return event
