"""docs/events.md, made from the events themselves: `python -m tests.events_reference` renews it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from otel_agentbus import contract, events
from otel_agentbus.events import Event

PAGE = Path(__file__).parent.parent / "docs" / "events.md"

#: The events in the order of the design, with what becomes of each as a span.
CLASSES: Mapping[type[Event], str] = {
    events.AgentStart: "begins `invoke_agent {agent}` (INTERNAL)",
    events.AgentEnd: "ends it",
    events.LlmRequest: "begins `{operation} {model}` (CLIENT)",
    events.LlmResponse: "ends it",
    events.ToolCallStart: "begins `execute_tool {tool}` (INTERNAL)",
    events.ToolCall: "ends it",
    events.TurnComplete: "span event",
    events.ChannelMessage: "span event",
    events.HeartbeatTick: "none: metrics only",
    events.CacheHit: "span event",
    events.CacheMiss: "span event",
    events.Error: "span event, or a span without length where no run is",
    events.DeploymentStarted: "begins `deployment` (INTERNAL)",
    events.DeploymentCompleted: "ends it",
    events.DeploymentFailed: "ends it, and begins `recovery`",
    events.RecoveryCompleted: "ends that",
    events.DomainEvent: "span event, or a span without length where no run is",
    events.UnknownEvent: "none: counted",
}

#: What each field says.
MEANINGS: Mapping[str, str] = {
    "time_ns": "When it happened: nanoseconds of the wall clock since 1970.",
    "source": "Which bus in which process it comes from; the child of a fork has its own.",
    "seq": "Its number in that source, without a gap.",
    "invocation_id": "The run that it belongs to.",
    "parent_invocation_id": "The run that called that one; none for a root.",
    "root_invocation_id": "The run at the top of the tree.",
    "parent_call_id": "The call that directly encloses it: a tool call's id, or `llm:` and a model call's.",
    "attempt": "Which attempt of the run it is, from 1.",
    "agent": "The agent's name.",
    "channel": "Where the run's input comes from, or a message goes: the application's name for it.",
    "conversation_id": "The application's id of the conversation; never invented.",
    "trace": "The outer trace and the sampling decision, as a W3C traceparent.",
    "tracestate": "The W3C tracestate with it.",
    "attributes": "Anything else, by name; it stands on the span as it is.",
    "event": "The tag on the wire.",
    "model_provider": "Who serves the model: `openai`, `anthropic`, `aws.bedrock` ...",
    "model": "The model that was asked for.",
    "instructions": "What the agent was told to be. Content.",
    "input": "What the run was asked. Content.",
    "output": "What the run answered. Content.",
    "duration": "Seconds; a `timedelta` is taken, too.",
    "tokens_used": "The producer's own total, for comparison: never added to the calls'.",
    "cost_usd": "What the provider says it cost, in US dollars.",
    "outcome": "`ok`, `error`, `cancelled` or `interrupted`; unset, it follows from the rest.",
    "error_type": "The exception's class, or the provider's code.",
    "error_message": "What the error says; scrubbed before it leaves.",
    "messages_count": "How many messages were sent.",
    "call_id": "The call's id, which pairs request and response.",
    "operation": "The conventions' word for it: `chat`, `embeddings`, `text_completion` ...",
    "stream": "Whether the answer is streamed.",
    "messages": "The messages, in the parts schema of the conventions or as the provider has them. Content.",
    "parameters": "The request's parameters: `temperature`, `max_tokens` ...",
    "success": "Whether it went well.",
    "input_tokens": "All input tokens, those of the cache included.",
    "output_tokens": "All output tokens, those of reasoning included.",
    "cache_read_input_tokens": "Of the input, what was read from the provider's cache.",
    "cache_write_input_tokens": "Of the input, what was written to it.",
    "reasoning_output_tokens": "Of the output, what was thought.",
    "usage": "Further counts under the provider's own names.",
    "response_model": "The model that answered.",
    "response_id": "The provider's id of the answer; one id is one call, whoever tells of it.",
    "finish_reasons": "Why the model stopped, one for each choice.",
    "time_to_first_chunk": "Seconds until the first chunk of a streamed answer.",
    "service_tier": "The tier that served it: `standard`, `flex`, `batch` ...",
    "tool": "The tool's name.",
    "tool_call_id": "The model's id of the call, which pairs start and end.",
    "arguments": "What the tool was called with. Content.",
    "result": "What it returned. Content.",
    "direction": "`inbound`, `outbound`, or any other word.",
    "cache_type": "Which cache of the application: `semantic`, `exact` ...",
    "tokens_saved": "The tokens that were not used because of it.",
    "component": "Where in the application.",
    "message": "What went wrong.",
    "deploy_id": "The deployment's id.",
    "commit_sha": "The commit that was deployed.",
    "reason": "Why it failed.",
    "name": "The event's own name.",
    "data": "What it says.",
    "fields": "What stood there, as it was read.",
}

EXAMPLE = events.LlmResponse(
    time_ns=1_790_000_000_000_000_000,
    source="3f1c9a7be2d04586",
    seq=17,
    invocation_id="0c2f6c1e6a4d4a3e9a4fd4a1b0c7e2d1",
    root_invocation_id="0c2f6c1e6a4d4a3e9a4fd4a1b0c7e2d1",
    agent="planner",
    model_provider="openai",
    model="gpt-5-mini",
    duration=0.82,
    success=True,
    input_tokens=120,
    output_tokens=40,
    finish_reasons=["stop"],
    call_id="9b1d6e0f2c33-4",
)


def own_fields(cls: type[Event]) -> list[Field[Any]]:
    """The fields that a class adds to the envelope; its tag apart."""
    envelope = {field.name: field for field in fields(Event)}
    return [
        field
        for field in fields(cls)
        if field.name != "event" and (field.name not in envelope or field.default is not envelope[field.name].default)
    ]


def type_of(cls: type, name: str) -> str:
    """How the annotation of a field reads."""
    for owner in cls.__mro__:
        if name in inspect.get_annotations(owner):
            found = inspect.get_annotations(owner)[name]
            return str(found if isinstance(found, str) else typing.get_type_hints(owner)[name])
    raise LookupError(name)


def _default(field: Field[Any]) -> str:
    if field.default is MISSING:
        return "required" if field.default_factory is MISSING else "empty"
    return "" if field.default is None else f"`{field.default!r}`".replace("'", '"')


def _rows(cls: type, chosen: list[Field[Any]]) -> Iterator[str]:
    yield "| field | type | default | |"
    yield "|---|---|---|---|"
    for field in chosen:
        kind = type_of(cls, field.name).replace("|", "\\|")
        yield f"| `{field.name}` | `{kind}` | {_default(field)} | {MEANINGS[field.name]} |"


def page() -> str:
    """The page."""
    lines = [
        "# Events: what can happen, field by field",
        "",
        "Made from `otel_agentbus/events.py` by `python -m tests.events_reference`: edit that. A handler hears",
        'events by their class or by their tag, globs included: `bus.on(events.ToolCall)`, `bus.on("deployment.*")`.',
        "Fields marked *Content* leave the process only where content is captured.",
        "`otel_agentbus.contract.json_schema()` gives the JSON Schema of all of them.",
        "",
        "| event | tag | span |",
        "|---|---|---|",
        *(f"| [{cls.__name__}](#{cls.__name__.lower()}) | {_tag(cls)} | {what} |" for cls, what in CLASSES.items()),
        "",
        "## The envelope",
        "",
        _said(Event),
        "What an author leaves unset is filled in when the event is emitted.",
        "",
        *_rows(Event, list(fields(Event))),
        "",
    ]
    for cls in CLASSES:
        lines += [f"## {cls.__name__}", "", _said(cls), ""]
        if chosen := own_fields(cls):
            lines += [*_rows(cls, chosen), ""]
    lines += ["## On the wire", "", "One line of JSON for each event; what is unset is left out.", "", "```json"]
    return "\n".join([*lines, contract.write(EXAMPLE).decode(), "```", ""])


def _tag(cls: type[Event]) -> str:
    return "the event's own name" if cls in (events.DomainEvent, events.UnknownEvent) else f"`{cls.kind}`"


def _said(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__ or "")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
