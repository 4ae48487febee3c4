"""What another bus is told of an event: a type, data in plain JSON, and the ids by which events belong together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from pydantic_core import from_json

from ..event_writing import ENVELOPE, write
from ..events import (
    AgentEnd,
    DomainEvent,
    Event,
    LlmRequest,
    LlmResponse,
    ToolCall,
    ToolCallStart,
    UnknownEvent,
    name_of,
)
from ..telemetry.ledger import Ledger
from ..telemetry.usage import Usage

#: The attribute with the names of the buses through which an event has come.
VIA = "agentbus.via"
#: Of how many runs that are going on the sums are kept.
RUNS = 10_000

#: Of the envelope: what tells which events belong together.
_IDS = (
    *("source", "seq", "invocation_id", "parent_invocation_id", "root_invocation_id", "parent_call_id"),
    *("attempt", "conversation_id", "channel"),
)
#: Captured content is JSON in a text; a bus gets it as it was.
_CONTENT = frozenset(("instructions", "input", "output", "messages", "arguments", "result"))


class Said(NamedTuple):
    """What is published of one event."""

    type: str
    data: dict[str, Any]


#: What makes it of an event; None of one that the other bus does not want. May keep state: it is called in order.
Telling: TypeAlias = Callable[[Event], "Said | None"]


def as_events(event: Event) -> Said:
    """The event under its own name: what is unset is left out, a domain event is its own data."""
    name = name_of(event)
    if isinstance(event, DomainEvent):
        return Said(name, plain(event).get("data", {}))
    fields = {key: value for key, value in plain(event).items() if key not in ENVELOPE and key != "event"}
    return Said(name, _with_place(event, fields))


class LlmEvents:
    """The events under the names that forwarded runs have, as `adapters.pydantic_ai.ForwardEvents` gives them.

    `llm_request`, `llm_response`, `llm_tool_call`, `llm_tool_result`, and at the end of each run `llm_complete` or
    `llm_error` with the tokens of its own model calls, each counted once. Domain events keep their names; there are no
    others.
    """

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._runs: OrderedDict[str | None, _Run] = OrderedDict()

    def __call__(self, event: Event) -> Said | None:
        """What the other bus is told."""
        if isinstance(event, DomainEvent | UnknownEvent):
            return as_events(event)
        account = self._ledger.judge(event)  # and the event stays as it is: it is the bus's, too
        if isinstance(event, LlmRequest):
            return self._request(event)
        if isinstance(event, LlmResponse):
            return self._response(event, account.usage)
        if isinstance(event, AgentEnd):
            return self._end(event)
        return self._tool(event) if isinstance(event, ToolCallStart | ToolCall) else None

    def _request(self, event: LlmRequest) -> Said:
        run = self._run(event)
        run.requests += 1
        about = {"request": run.requests, "provider": event.model_provider, "model": event.model}
        return _told("llm_request", event, about)

    def _response(self, event: LlmResponse, usage: Usage) -> Said:
        run = self._run(event)
        run.input += usage.input or 0
        run.output += usage.output or 0
        about: dict[str, Any] = {"request": run.requests, "provider": event.model_provider, "model": event.model}
        about |= {"success": event.success, "duration_s": event.duration}
        if not event.success:
            return _told("llm_response", event, about | _failure(event))
        reasons = event.finish_reasons
        about |= {"input_tokens": event.input_tokens, "output_tokens": event.output_tokens}
        return _told("llm_response", event, about | {"finish_reason": reasons[0] if reasons else None})

    def _end(self, event: AgentEnd) -> Said:
        run = self._runs.pop(event.invocation_id, None) or _Run()
        about: dict[str, Any] = {
            "tokens": run.input + run.output,
            "input_tokens": run.input,
            "output_tokens": run.output,
            "requests": run.requests,
            "duration_s": event.duration,
        }
        if event.outcome in (None, "ok"):
            return _told("llm_complete", event, about)
        return _told("llm_error", event, about | _failure(event))

    def _run(self, event: Event) -> _Run:
        run = self._runs.get(event.invocation_id)
        if run is None:
            run = self._runs[event.invocation_id] = _Run()
            if len(self._runs) > RUNS:
                self._runs.popitem(last=False)
        return run

    def _tool(self, event: ToolCallStart | ToolCall) -> Said:
        fields = plain(event)
        about: dict[str, Any] = {"tool": event.tool, "tool_call_id": event.tool_call_id}
        if isinstance(event, ToolCallStart):
            return _told("llm_tool_call", event, about | {"args": fields.get("arguments")})
        about["success"] = event.success
        ended = {"result": fields.get("result")} if event.success else _failure(event)
        return _told("llm_tool_result", event, about | ended)


class _Run:
    """What a run of which the end was not told has used so far."""

    __slots__ = ("input", "output", "requests")

    def __init__(self) -> None:
        self.requests = self.input = self.output = 0


def _told(kind: str, event: Event, about: Mapping[str, Any]) -> Said:
    return Said(kind, _with_place(event, {**about, "run_id": event.invocation_id}))


def _failure(event: LlmResponse | ToolCall | AgentEnd) -> dict[str, Any]:
    return {"outcome": event.outcome, "error_type": event.error_type, "error": event.error_message}


def _with_place(event: Event, data: dict[str, Any]) -> dict[str, Any]:
    """The data with the agent, and what the application says of its run."""
    if event.agent is not None:
        data["agent"] = event.agent
    said = plain(event).get("attributes")
    attributes = {name: value for name, value in said.items() if name != VIA} if isinstance(said, dict) else None
    return {**data, "attributes": attributes} if attributes else data


def plain(event: Event) -> dict[str, Any]:
    """The event's fields as JSON has them, without what is unset."""
    found: dict[str, Any] = from_json(write(event))
    return {name: _as_it_was(value) if name in _CONTENT else value for name, value in found.items()}


def _as_it_was(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return from_json(value)
    except ValueError:
        return value


def ids_of(event: Event) -> dict[str, Any]:
    """By what an event can be found again: its lineage, its trace where that is known, and when it happened."""
    said = plain(event)
    found = {name: said[name] for name in _IDS if name in said}
    if event.trace is not None and event.trace.count("-") >= 3:
        found["trace_id"] = event.trace.split("-")[1]
    if event.time_ns is not None:
        found["time_ns"] = event.time_ns
    return found
