"""Events that a call builds field by field are those that the public constructors make, with no field forgotten."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus import testing
from otel_agentbus.events import Event, LlmRequest, LlmResponse, ToolCall, ToolCallStart


def fields_of(event: Event) -> dict[str, Any]:
    """Every field by its name; one that has never been set fails here."""
    return {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}


def made_again(event: Event) -> Event:
    """The same event by its public constructor."""
    fields = fields_of(event)
    fields.pop("event")  # the tag, which nobody passes
    return type(event)(**fields)


def assert_as_constructed(events: Sequence[Event], kinds: list[type[Event]]) -> None:
    assert [type(event) for event in events] == kinds
    for event in events:
        again = made_again(event)
        assert event == again
        assert fields_of(event) == fields_of(again)
        assert repr(event) == repr(again)


RECORDED: list[dict[str, Any]] = [
    {},
    {"response_model": "m-1", "input_tokens": 120, "output_tokens": 40},
    {"outcome": "cancelled"},
    {"success": False},
    {"error_type": "TimeoutError", "error_message": "too slow"},
    {
        "input_tokens": 1,
        "output_tokens": 2,
        "cache_read_input_tokens": 3,
        "cache_write_input_tokens": 4,
        "reasoning_output_tokens": 5,
        "usage": {"audio": 6},
        "response_model": "m-1",
        "response_id": "r",
        "finish_reasons": ["stop"],
        "time_to_first_chunk": 0.1,
        "service_tier": "flex",
        "cost_usd": 0.01,
        "messages": [{"role": "assistant", "content": "hi"}],
        "success": True,
        "channel": "web",
        "mine": 7,
    },
]


@pytest.mark.parametrize("recorded", RECORDED)
def test_the_events_of_a_model_call_are_those_of_the_constructors(recorded: dict[str, Any]) -> None:
    asked: dict[str, Any] = {
        "provider": "openai",
        "call_id": "c1",
        "operation": "text_completion",
        "stream": True,
        "messages": ["hi"],
        "parameters": {"temperature": 0.5},
        "colour": "red",
    }
    with (
        testing.capture() as seen,
        agentbus.agent("planner", conversation_id="c", channel="web") as run,
        run.tool("ask", tool_call_id="t1"),
        run.llm("m", **asked) as call,
    ):
        call.record(**recorded)
    events = [event for event in seen.events if isinstance(event, (LlmRequest, LlmResponse))]
    assert_as_constructed(events, [LlmRequest, LlmResponse])
    start, end = map(fields_of, events)
    shared = fields_of(Event()).keys() - {"time_ns", "seq", "attributes"}
    assert {name: start[name] for name in shared} == {name: end[name] for name in shared}
    assert start["parent_call_id"] == "t1"
    assert {name: end[name] for name in recorded if name != "mine"} == {
        name: value for name, value in recorded.items() if name != "mine"
    }


def test_a_model_call_of_which_nothing_is_said_is_whole_too() -> None:
    with testing.capture() as seen, agentbus.llm():
        pass
    assert_as_constructed(seen.events, [LlmRequest, LlmResponse])
    start, end = seen.events
    expected = LlmRequest(
        time_ns=start.time_ns,
        source=start.source,
        seq=0,
        root_invocation_id=getattr(start, "call_id", None),
        trace=start.trace,
        model_provider="",
        model="",
        messages_count=0,
        call_id=getattr(start, "call_id", None),
    )
    assert start == expected
    assert (end.seq, end.trace, end.root_invocation_id) == (1, start.trace, start.root_invocation_id)


def test_the_events_of_a_tool_call_are_whole() -> None:
    with testing.capture() as seen, agentbus.agent("planner") as run, run.tool("search", arguments={"q": 1}) as tool:
        tool.record(result="3 hits")
    assert_as_constructed(
        [event for event in seen.events if isinstance(event, (ToolCallStart, ToolCall))], [ToolCallStart, ToolCall]
    )
