"""Spans of other instrumentations as events: what each flavour of the conventions says, whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Status, StatusCode

from otel_agentbus import testing
from otel_agentbus.adapters import scopes
from otel_agentbus.adapters.otel.kinds import kind_by_attributes, kind_by_name
from otel_agentbus.adapters.otel.reading import reading
from otel_agentbus.testing import Captured

from .foreign import START_NS, Application, said


@pytest.fixture
def app() -> Application:
    return Application()


@pytest.fixture
def seen() -> Iterator[Captured]:
    with testing.capture(capture_content="SPAN_ONLY") as captured:
        yield captured


def both(seen: Captured) -> list[dict[str, Any]]:
    """What the start and the end of the one span say."""
    return [said(event) for event in seen.events]


# -- model calls -------------------------------------------------------------------------------------------------------


def test_a_call_of_the_conventions_of_1_41_is_read_whole(app: Application, seen: Captured) -> None:
    app.told(
        "chat gpt-5-mini",
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-5-mini",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.stop_sequences": ["a", "b"],
            "gen_ai.request.stream": True,
            "gen_ai.conversation.id": "talk",
            "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"hi"}]}]',
        },
        {
            "gen_ai.response.model": "gpt-5-mini-2026-05-01",
            "gen_ai.response.id": "r-1",
            "gen_ai.response.finish_reasons": ["stop"],
            "gen_ai.response.time_to_first_chunk": 0.25,
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 20,
            "gen_ai.usage.cache_read.input_tokens": 40,
            "gen_ai.usage.cache_creation.input_tokens": 10,
            "gen_ai.usage.reasoning.output_tokens": 5,
            "openai.response.service_tier": "default",
            "gen_ai.output.messages": '[{"role":"assistant","parts":[{"type":"text","content":"ho"}]}]',
        },
        scope="opentelemetry.instrumentation.genai.openai",
    )
    assert both(seen) == [
        {
            "event": "llm.request",
            "conversation_id": "talk",
            "model_provider": "openai",
            "model": "gpt-5-mini",
            "messages_count": 1,
            "operation": "chat",
            "stream": True,
            "messages": [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}],
            "parameters": {"temperature": 0.5, "stop_sequences": ["a", "b"]},
        },
        {
            "event": "llm.response",
            "conversation_id": "talk",
            "model_provider": "openai",
            "model": "gpt-5-mini",
            "duration": 2.0,
            "success": True,
            "outcome": "ok",
            "input_tokens": 100,
            "output_tokens": 20,
            "cache_read_input_tokens": 40,
            "cache_write_input_tokens": 10,
            "reasoning_output_tokens": 5,
            "response_model": "gpt-5-mini-2026-05-01",
            "response_id": "r-1",
            "finish_reasons": ["stop"],
            "time_to_first_chunk": 0.25,
            "service_tier": "default",
            "messages": [{"role": "assistant", "parts": [{"type": "text", "content": "ho"}]}],
        },
    ]
    assert [event.time_ns for event in seen.events] == [START_NS, START_NS + 2_000_000_000]
    assert {event.attributes["otel.scope.name"] for event in seen.events} == {
        "opentelemetry.instrumentation.genai.openai"
    }
    assert seen.spans == ()  # they are others' to export


def test_a_call_of_october_2026_has_its_cache_and_its_modalities(app: Application, seen: Captured) -> None:
    app.told(
        "generate_content gemini-3",
        {"gen_ai.operation.name": "generate_content", "gen_ai.provider.name": "gcp.gemini"},
        {
            "gen_ai.request.model": "gemini-3",
            "gen_ai.usage.input_tokens": 9,
            "gen_ai.usage.output_tokens": 3,
            "gen_ai.usage.cache_write.input_tokens": 4,
            "gen_ai.usage.audio.input_tokens": 2,
        },
    )
    assert both(seen) == [
        {
            "event": "llm.request",
            "model_provider": "gcp.gemini",
            "model": "gemini-3",
            "messages_count": 0,
            "operation": "generate_content",
        },
        {
            "event": "llm.response",
            "model_provider": "gcp.gemini",
            "model": "gemini-3",
            "duration": 2.0,
            "success": True,
            "outcome": "ok",
            "input_tokens": 9,
            "output_tokens": 3,
            "cache_write_input_tokens": 4,
            "usage": {"audio.input_tokens": 2},
        },
    ]


def test_a_call_until_1_36_has_its_messages_in_events_and_older_names(app: Application, seen: Captured) -> None:
    app.told(
        "chat gpt-4o",
        {"gen_ai.system": "az.ai.openai", "gen_ai.request.model": "gpt-4o"},
        {"gen_ai.usage.prompt_tokens": 7, "gen_ai.usage.completion_tokens": 2},
        events=[
            ("gen_ai.user.message", {"content": "hi"}, 0.0),
            ("gen_ai.choice", {"index": 0, "finish_reason": "stop", "message": '{"content":"ho"}'}, 1.5),
        ],
    )
    assert both(seen) == [
        {
            "event": "llm.request",
            "model_provider": "azure.ai.openai",
            "model": "gpt-4o",
            "messages_count": 0,
            "operation": "chat",
        },
        {
            "event": "llm.response",
            "model_provider": "azure.ai.openai",
            "model": "gpt-4o",
            "duration": 2.0,
            "success": True,
            "outcome": "ok",
            "input_tokens": 7,
            "output_tokens": 2,
            "finish_reasons": ["stop"],
            "messages": [{"role": "assistant", "parts": [{"type": "text", "content": "ho"}]}],
        },
    ]


def test_a_call_of_openinference_is_read_whole(app: Application, seen: Captured) -> None:
    app.told(
        "ChatCompletion",
        {
            "openinference.span.kind": "LLM",
            "llm.system": "openai",
            "llm.provider": "azure",
            "llm.model_name": "gpt-5",
            "llm.invocation_parameters": '{"temperature": 1, "model": "gpt-5", "stream": true}',
            "session.id": "s1",
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": "hi",
            "llm.input_messages.1.message.role": "assistant",
            "llm.input_messages.1.message.tool_calls.0.tool_call.id": "t1",
            "llm.input_messages.1.message.tool_calls.0.tool_call.function.name": "search",
            "llm.input_messages.1.message.tool_calls.0.tool_call.function.arguments": '{"q": 1}',
            "llm.input_messages.2.message.role": "tool",
            "llm.input_messages.2.message.tool_call_id": "t1",
            "llm.input_messages.2.message.content": "found",
        },
        {
            "llm.token_count.prompt": 50,
            "llm.token_count.completion": 8,
            "llm.token_count.total": 58,
            "llm.token_count.prompt_details.cache_read": 20,
            "llm.token_count.completion_details.reasoning": 3,
            "llm.token_count.prompt_details.audio": 1,
            "llm.cost.total": 0.125,
            "llm.finish_reason": "stop",
            "output.value": '{"id":"chatcmpl-9","choices":[]}',
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.contents.0.message_content.type": "text",
            "llm.output_messages.0.message.contents.0.message_content.text": "ho",
        },
        events=[("First Token Stream Event", {}, 0.5)],
        scope="openinference.instrumentation.openai",
    )
    asked = [
        {"role": "user", "parts": [{"type": "text", "content": "hi"}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "t1", "name": "search", "arguments": {"q": 1}}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "t1", "response": "found"}]},
    ]
    assert both(seen) == [
        {
            "event": "llm.request",
            "conversation_id": "s1",
            "model_provider": "azure.ai.openai",
            "model": "gpt-5",
            "messages_count": 3,
            "operation": "chat",
            "stream": True,
            "messages": asked,
            "parameters": {"temperature": 1, "stream": True},
        },
        {
            "event": "llm.response",
            "conversation_id": "s1",
            "model_provider": "azure.ai.openai",
            "model": "gpt-5",
            "duration": 2.0,
            "success": True,
            "outcome": "ok",
            "input_tokens": 50,
            "output_tokens": 8,
            "cache_read_input_tokens": 20,
            "reasoning_output_tokens": 3,
            "usage": {"audio.input_tokens": 1},
            "response_id": "chatcmpl-9",
            "finish_reasons": ["stop"],
            "time_to_first_chunk": 0.5,
            "cost_usd": 0.125,
            "messages": [{"role": "assistant", "parts": [{"type": "text", "content": "ho"}]}],
        },
    ]


def test_a_call_of_openllmetry_is_read_whole(app: Application, seen: Captured) -> None:
    app.told(
        "openai.chat",
        {"llm.request.type": "chat"},
        {
            "gen_ai.system": "OpenAI",
            "gen_ai.request.model": "gpt-4o",
            "llm.is_streaming": False,
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": "hi",
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": "ho",
            "gen_ai.completion.0.finish_reason": "stop",
            "gen_ai.completion.0.tool_calls.0.id": "t2",
            "gen_ai.completion.0.tool_calls.0.name": "search",
            "gen_ai.completion.0.tool_calls.0.arguments": "{}",
            "gen_ai.usage.prompt_tokens": 11,
            "gen_ai.usage.completion_tokens": 4,
            "llm.usage.total_tokens": 15,
        },
        scope="opentelemetry.instrumentation.openai.v1",
    )
    assert both(seen) == [
        {"event": "llm.request", "model_provider": "", "model": "", "messages_count": 0, "operation": "chat"},
        {
            "event": "llm.response",
            "model_provider": "openai",
            "model": "gpt-4o",
            "duration": 2.0,
            "success": True,
            "outcome": "ok",
            "input_tokens": 11,
            "output_tokens": 4,
            "finish_reasons": ["stop"],
            "messages": [
                {
                    "role": "assistant",
                    "parts": [
                        {"type": "text", "content": "ho"},
                        {"type": "tool_call", "id": "t2", "name": "search", "arguments": {}},
                    ],
                }
            ],
        },
    ]


@pytest.mark.parametrize(
    ("attributes", "operation"),
    [
        ({"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "e"}, "embeddings"),
        ({"openinference.span.kind": "EMBEDDING", "embedding.model_name": "e"}, "embeddings"),
        ({"llm.request.type": "embedding", "gen_ai.request.model": "e"}, "embeddings"),
        ({"llm.request.type": "completion", "gen_ai.request.model": "e"}, "text_completion"),
        ({"gen_ai.operation.name": "text_completion", "gen_ai.request.model": "e"}, "text_completion"),
    ],
)
def test_embeddings_and_completions_are_calls_of_their_operation(
    app: Application, seen: Captured, attributes: dict[str, Any], operation: str
) -> None:
    app.told("a call", attributes, {"gen_ai.usage.input_tokens": 6})
    assert both(seen) == [
        {"event": "llm.request", "model_provider": "", "model": "e", "messages_count": 0, "operation": operation},
        {
            "event": "llm.response",
            "model_provider": "",
            "model": "e",
            "duration": 2.0,
            "success": True,
            "outcome": "ok",
            "input_tokens": 6,
        },
    ]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # A grand total shows that what was cached stands beside the input, as Anthropic says it ...
        ({"gen_ai.usage.input_tokens": 50, "gen_ai.usage.output_tokens": 5, "gen_ai.usage.total_tokens": 85,
          "gen_ai.usage.cache_read_input_tokens": 20, "gen_ai.usage.cache_creation_input_tokens": 10}, 80),
        ({"llm.token_count.prompt": 50, "llm.token_count.completion": 5, "llm.token_count.total": 75,
          "llm.token_count.prompt_details.cache_read": 20}, 70),
        # ... or in it, as the conventions want it, which is what is believed without one.
        ({"gen_ai.usage.input_tokens": 50, "gen_ai.usage.output_tokens": 5, "gen_ai.usage.total_tokens": 55,
          "gen_ai.usage.cache_read.input_tokens": 20}, 50),
        ({"gen_ai.usage.input_tokens": 50, "gen_ai.usage.cache_read.input_tokens": 20}, 50),
        # More was cached than there was input at all.
        ({"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 1,
          "gen_ai.usage.cache_read.input_tokens": 20}, 25),
        # The provider's own counts, where there is nothing else.
        ({"gen_ai.usage.raw": '{"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}'}, 9),
    ],
)  # fmt: skip
def test_input_tokens_include_what_was_cached_however_they_are_told(
    app: Application, seen: Captured, counts: dict[str, Any], expected: int
) -> None:
    app.told("chat m", {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}, counts)
    assert seen.bus.summary().total.input == expected


@pytest.mark.parametrize(
    ("attributes", "cost"),
    [
        ({"operation.cost": 0.5}, 0.5),
        ({"gen_ai.usage.cost": 0.25}, 0.25),
        ({"gen_ai.usage.cost.amount": 0.75, "gen_ai.usage.cost.currency": "usd"}, 0.75),
        ({"gen_ai.usage.cost.amount": 0.75, "gen_ai.usage.cost.currency": "EUR"}, None),
        ({"gen_ai.usage.cost": 0.0}, None),  # somebody who has found no price
        ({"gen_ai.usage.cost": "cheap"}, None),
    ],
)
def test_a_cost_that_the_span_carries_is_reported(
    app: Application, seen: Captured, attributes: dict[str, Any], cost: float | None
) -> None:
    counts = {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 1}
    app.told("chat m", {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}, {**counts, **attributes})
    assert both(seen)[1].get("cost_usd") == cost
    assert seen.bus.summary().total.cost == cost


# -- agents, tools and the rest ----------------------------------------------------------------------------------------


def test_a_run_of_an_agent_has_its_totals_and_they_are_no_call(app: Application, seen: Captured) -> None:
    app.told(
        "invoke_agent planner",
        {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": "planner",
            "gen_ai.agent.call.id": "run-1",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-5",
            "gen_ai.conversation.id": "talk",
            "gen_ai.system_instructions": '[{"type":"text","content":"be good"}]',
        },
        {"gen_ai.usage.input_tokens": 30, "gen_ai.usage.output_tokens": 6, "gen_ai.output.messages": "[]"},
    )
    assert both(seen) == [
        {
            "event": "agent.start",
            "agent": "planner",
            "conversation_id": "talk",
            "model_provider": "openai",
            "model": "gpt-5",
            "instructions": [{"type": "text", "content": "be good"}],
        },
        {
            "event": "agent.end",
            "agent": "planner",
            "conversation_id": "talk",
            "model_provider": "openai",
            "model": "gpt-5",
            "duration": 2.0,
            "tokens_used": {"input_tokens": 30, "output_tokens": 6},
            "outcome": "ok",
            "output": [],
        },
    ]
    span = app.spans[0]
    assert span.context is not None
    assert seen.events[0].invocation_id == f"run-1@span:{span.context.span_id:016x}"
    assert seen.events[0].attributes["agentbus.invocation.path"] == "planner"
    assert seen.bus.summary().total.calls == 0
    assert seen.metric("agentbus.tokens.used") == {}
    assert seen.metric("agentbus.agent.runs") == {
        (("agentbus.outcome", "ok"), ("gen_ai.agent.name", "planner")): 1,
    }


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        (
            "execute_tool search",
            {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search", "gen_ai.tool.call.id": "c1"},
            {"gen_ai.tool.call.arguments": '{"q": 1}', "gen_ai.tool.call.result": "found"},
        ),
        (
            "search",
            {"openinference.span.kind": "TOOL", "tool.name": "search", "tool.id": "c1", "input.value": '{"q": 1}'},
            {"output.value": "found"},
        ),
        (
            "search.tool",
            {"traceloop.span.kind": "tool", "traceloop.entity.name": "search", "gen_ai.tool.call.id": "c1"},
            {"traceloop.entity.input": '{"q": 1}', "traceloop.entity.output": "found"},
        ),
        (
            "tools/call search",
            {"mcp.method.name": "tools/call", "gen_ai.tool.name": "search", "gen_ai.tool.call.id": "c1"},
            {"gen_ai.tool.call.arguments": '{"q": 1}', "gen_ai.tool.call.result": "found"},
        ),
    ],
)
def test_a_tool_call_of_each_flavour_is_read_whole(
    app: Application, seen: Captured, name: str, start: dict[str, Any], end: dict[str, Any]
) -> None:
    app.told(name, start, end)
    request, response = both(seen)
    assert request.pop("arguments", {"q": 1}) == {"q": 1}
    assert request == {"event": "tool.start", "tool": "search"}
    assert response == {
        "event": "tool.end",
        "tool": "search",
        "duration": 2.0,
        "success": True,
        "outcome": "ok",
        "arguments": {"q": 1},
        "result": "found",
    }
    assert {event.attributes["gen_ai.tool.call.id"] for event in seen.events} == {"c1"}
    assert seen.metric("agentbus.tool.calls") == {
        (("agentbus.outcome", "ok"), ("gen_ai.tool.name", "search")): 1,
    }


@pytest.mark.parametrize(
    "attributes",
    [{"openinference.span.kind": "RETRIEVER"}, {"gen_ai.operation.name": "retrieval"}],
)
def test_a_retrieval_is_the_call_of_a_tool_that_is_a_datastore(
    app: Application, seen: Captured, attributes: dict[str, Any]
) -> None:
    app.told("shelves", attributes)
    assert [
        (event.kind, getattr(event, "tool", None), event.attributes["gen_ai.tool.type"]) for event in seen.events
    ] == [
        ("tool.start", "shelves", "datastore"),
        ("tool.end", "shelves", "datastore"),
    ]


def test_a_step_at_the_top_is_a_run_and_one_in_a_run_is_nothing_of_its_own(app: Application, seen: Captured) -> None:
    tracer = app.tracer("openinference.instrumentation.somebody")
    step, call = {"openinference.span.kind": "CHAIN"}, {"openinference.span.kind": "LLM"}
    with (
        tracer.start_as_current_span("outer", attributes=step),
        tracer.start_as_current_span("inner", attributes=step),
        tracer.start_as_current_span("call", attributes=call),
    ):
        pass
    assert [(event.kind, event.agent) for event in seen.events] == [
        ("agent.start", "outer"),
        ("llm.request", "outer"),
        ("llm.response", "outer"),
        ("agent.end", "outer"),
    ]


def test_a_workflow_named_after_its_agent_is_one_run_with_it(app: Application, seen: Captured) -> None:
    tracer = app.tracer("gcp.vertex.agent")
    with (
        tracer.start_as_current_span("invoke_workflow planner"),
        tracer.start_as_current_span("invoke_agent planner"),
        tracer.start_as_current_span("invoke_agent aide"),
    ):
        pass
    assert [(event.kind, event.agent) for event in seen.events] == [
        ("agent.start", "planner"),
        ("agent.start", "aide"),
        ("agent.end", "aide"),
        ("agent.end", "planner"),
    ]


def test_a_tool_call_inside_of_itself_is_one_call(app: Application, seen: Captured) -> None:
    with app.tracer("framework").start_as_current_span("execute_tool add"):
        start = {"mcp.method.name": "tools/call", "gen_ai.tool.name": "add"}
        with app.tracer("mcp-python-sdk").start_as_current_span("tools/call add", attributes=start):
            pass
    assert [event.kind for event in seen.events] == ["tool.start", "tool.end"]


# -- what shows only at the end ----------------------------------------------------------------------------------------


def test_a_framework_that_says_everything_after_the_start_is_known_by_its_names(
    app: Application, seen: Captured
) -> None:
    tracer = app.tracer("strands.telemetry.tracer")
    with tracer.start_as_current_span("invoke_agent planner") as run:
        with tracer.start_as_current_span("execute_event_loop_cycle") as cycle:
            cycle.set_attribute("gen_ai.operation.name", "execute_event_loop_cycle")
            with tracer.start_as_current_span("chat") as call:
                call.set_attributes(
                    {
                        "gen_ai.operation.name": "chat",
                        "gen_ai.system": "strands-agents",
                        "gen_ai.request.model": "us.claude",
                        "gen_ai.usage.input_tokens": 20,
                        "gen_ai.usage.output_tokens": 10,
                        "gen_ai.server.time_to_first_token": 250,
                    }
                )
        run.set_attributes({"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 20})
    assert [event.kind for event in seen.events] == ["agent.start", "llm.request", "llm.response", "agent.end"]
    response = said(seen.events[2])
    assert response.pop("duration") > 0
    assert response == {
        "event": "llm.response",
        "agent": "planner",
        "model_provider": "",
        "model": "us.claude",
        "success": True,
        "outcome": "ok",
        "input_tokens": 20,
        "output_tokens": 10,
        "time_to_first_chunk": 0.25,
    }


def test_what_is_known_at_the_end_only_is_told_then_with_the_times_that_it_had(
    app: Application, seen: Captured
) -> None:
    app.told("ChatOpenAI", None, {"openinference.span.kind": "LLM", "llm.model_name": "m"}, scope="whoever")
    assert [(event.kind, event.time_ns) for event in seen.events] == [
        ("llm.request", START_NS),
        ("llm.response", START_NS + 2_000_000_000),
    ]


def test_a_tree_of_which_nothing_is_known_until_its_end_is_one_run(app: Application, seen: Captured) -> None:
    tracer = app.tracer("openinference.instrumentation.langchain")
    with tracer.start_as_current_span("LangGraph") as graph:
        with tracer.start_as_current_span("model") as step:
            with tracer.start_as_current_span("ChatOpenAI") as call:
                call.set_attributes({"openinference.span.kind": "LLM", "llm.token_count.prompt": 4})
            step.set_attribute("openinference.span.kind", "CHAIN")
        with tracer.start_as_current_span("search") as tool:
            tool.set_attribute("openinference.span.kind", "TOOL")
        graph.set_attribute("openinference.span.kind", "CHAIN")
    told = sorted(seen.events, key=lambda event: event.time_ns or 0)
    assert [(event.kind, event.agent) for event in told] == [
        ("agent.start", "LangGraph"),
        ("llm.request", "LangGraph"),
        ("llm.response", "LangGraph"),
        ("tool.start", "LangGraph"),
        ("tool.end", "LangGraph"),
        ("agent.end", "LangGraph"),
    ]
    assert len({event.root_invocation_id for event in seen.events}) == 1


def test_a_tree_of_openllmetry_is_known_by_how_its_names_end(app: Application, seen: Captured) -> None:
    tracer = app.tracer("opentelemetry.instrumentation.langchain")
    with (
        tracer.start_as_current_span("LangGraph.workflow") as graph,
        tracer.start_as_current_span("model.task") as task,
        tracer.start_as_current_span("ChatOpenAI.chat") as call,
    ):
        graph.set_attributes({"traceloop.span.kind": "workflow", "traceloop.entity.name": "LangGraph"})
        task.set_attributes({"traceloop.span.kind": "task"})
        call.set_attributes({"llm.request.type": "chat", "gen_ai.usage.input_tokens": 3})
        with tracer.start_as_current_span("search.tool") as tool:
            tool.set_attributes({"traceloop.span.kind": "tool"})
    assert [(event.kind, event.agent) for event in seen.events] == [
        ("agent.start", "LangGraph"),
        ("llm.request", "LangGraph"),
        ("tool.start", "LangGraph"),
        ("tool.end", "LangGraph"),
        ("llm.response", "LangGraph"),
        ("agent.end", "LangGraph"),
    ]
    ((tool_name,),) = [
        [value for key, value in attributes if key == "gen_ai.tool.name"]
        for attributes in seen.metric("agentbus.tool.calls")
    ]
    assert tool_name == "search"


def test_the_name_of_somebody_elses_job_says_nothing(app: Application, seen: Captured) -> None:
    app.told("run/tasks.chat", scope="opentelemetry.instrumentation.celery")
    app.told("run/tasks.agent", scope="opentelemetry.instrumentation.celery")
    assert seen.events == []


def test_a_chat_among_people_is_no_model_call(app: Application, seen: Captured) -> None:
    app.told("chat room", {"room": 5})
    app.told("chat")
    assert seen.events == []


def test_a_wrapper_that_shows_only_at_its_end_does_not_count_the_call_inside_again(
    app: Application, seen: Captured
) -> None:
    tracer = app.tracer("whoever")
    usage = {"gen_ai.usage.input_tokens": 20, "gen_ai.usage.output_tokens": 10}
    with tracer.start_as_current_span("wrapper") as wrapper:
        with tracer.start_as_current_span("inner", attributes={"gen_ai.operation.name": "chat"}) as inner:
            inner.set_attributes(usage)
        wrapper.set_attributes({"gen_ai.request.model": "m", **usage})
    assert seen.bus.summary().total.calls == 1
    assert [event.kind for event in seen.events] == ["llm.request", "llm.response"]


def test_a_streamed_answer_that_logfire_tells_in_a_log_of_its_own_is_the_call_that_it_answers(
    app: Application, seen: Captured
) -> None:
    asked = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-5-mini"}
    app.told("Chat Completion", {**asked, "logfire.span_type": "span"}, scope="logfire.openai")
    used = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5, "logfire.span_type": "log"}
    app.told("streaming response took", {**asked, **used}, scope="logfire.openai")
    total = seen.bus.summary().total
    assert (total.calls, total.input, total.output) == (1, 10, 5)
    assert [event.kind for event in seen.events] == ["llm.request", "llm.response", "llm.response"]


# -- how it ended ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "events", "status", "expected"),
    [
        ({}, [], Status(StatusCode.OK), {"outcome": "ok"}),
        ({}, [("exception", {"exception.type": "KeyError"}, 1.0)], None, {"outcome": "ok"}),  # it was handled
        (
            {},
            [("exception", {"exception.type": "builtins.ValueError", "exception.message": "no"}, 1.0)],
            Status(StatusCode.ERROR, "ValueError: no"),
            {"outcome": "error", "error_type": "builtins.ValueError", "error_message": "no"},
        ),
        (
            {"error.type": "429"},
            [],
            Status(StatusCode.ERROR, "slow down"),
            {"outcome": "error", "error_type": "429", "error_message": "slow down"},
        ),
        ({}, [], Status(StatusCode.ERROR), {"outcome": "error", "error_type": "_OTHER"}),
        (
            {},
            [("exception", {"exception.type": "asyncio.exceptions.CancelledError"}, 1.0)],
            Status(StatusCode.ERROR, "CancelledError: "),
            {"outcome": "cancelled"},
        ),
        ({}, [], Status(StatusCode.ERROR, "GeneratorExit: "), {"outcome": "cancelled"}),
        ({"error.type": "CancelledError"}, [], Status(StatusCode.ERROR), {"outcome": "cancelled"}),
        ({"strands.cancellation.type": "CancelledError"}, [], None, {"outcome": "cancelled"}),
    ],
)
def test_how_a_span_ended_is_how_the_call_did(
    app: Application,
    seen: Captured,
    end: dict[str, Any],
    events: list[tuple[str, dict[str, Any], float]],
    status: Status | None,
    expected: dict[str, Any],
) -> None:
    app.told("chat m", {"gen_ai.operation.name": "chat"}, end, events=events, status=status)
    found = both(seen)[1]
    keys = ("outcome", "error_type", "error_message")
    assert {key: found[key] for key in keys if key in found} == expected
    assert found["success"] is (expected["outcome"] == "ok")


def test_a_call_that_is_forgotten_without_an_end_was_cancelled(app: Application, seen: Captured) -> None:
    app.tracer().start_span("chat m", attributes={"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"})
    app.tracer().start_span("execute_tool x")
    app.tracer().start_span("invoke_agent y")
    app.provider.force_flush()
    assert [(event.kind, getattr(event, "outcome", None)) for event in seen.events] == [
        ("llm.request", None),
        ("llm.response", "cancelled"),
        ("tool.start", None),
        ("tool.end", "cancelled"),
        ("agent.start", None),
        ("agent.end", "cancelled"),
    ]
    assert len(reading.table) == 0


# -- what is not read --------------------------------------------------------------------------------------------------


def test_content_reaches_no_sink_unless_asked() -> None:
    app = Application()
    with testing.capture() as seen:
        kept: list[str] = []
        seen.bus.subscribe(lambda event: kept.append(str(event)))
        app.told(
            "chat m",
            {"gen_ai.operation.name": "chat", "gen_ai.input.messages": '[{"role":"user","parts":[]}]'},
            {"gen_ai.output.messages": "my secret"},
        )
        assert "my secret" in kept[1]  # handlers are in the process, and see it
        assert [getattr(seen.bus.content_policy.apply(event), "messages", None) for event in seen.events] == [
            None,
            None,
        ]


def test_spans_that_are_not_recorded_are_not_seen() -> None:
    app = Application(ALWAYS_OFF)
    with testing.capture() as seen:
        app.told("invoke_agent x", {"gen_ai.operation.name": "invoke_agent"})
        assert seen.events == []


def test_without_a_bus_nothing_is_read(app: Application) -> None:
    app.told("invoke_agent x", {"gen_ai.operation.name": "invoke_agent"})
    assert len(reading.table) == 0


def test_attributes_that_nobody_expects_break_nothing(app: Application, seen: Captured) -> None:
    weird: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": 7,
        "gen_ai.provider.name": ["x"],
        "gen_ai.usage.input_tokens": "many",
        "gen_ai.usage.output_tokens": 2.0,
        "gen_ai.response.finish_reasons": "[1",
        "gen_ai.input.messages": "[{",
        "llm.invocation_parameters": "{",
        "llm.input_messages.99999999999.message.role": "x",
        "gen_ai.usage.raw": "[]",
        "operation.cost": float("nan"),
    }
    app.told("chat", weird, weird)
    assert both(seen)[1] == {
        "event": "llm.response",
        "model_provider": "",
        "model": "",
        "duration": 2.0,
        "success": True,
        "outcome": "ok",
        "output_tokens": 2,
        "finish_reasons": ["[1"],
    }


def test_a_mistake_of_ours_never_reaches_the_program(
    app: Application, seen: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(reading, "begin", broken)
    monkeypatch.setattr(reading, "end", broken)
    monkeypatch.setattr(reading, "settle_lost", broken)
    app.told("invoke_agent x", {"gen_ai.operation.name": "invoke_agent"})
    assert app.provider.force_flush()
    assert [span.name for span in app.spans] == ["invoke_agent x"]
    assert seen.events == []


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("invoke_agent planner", ("agent", True)),
        ("invoke_agent", ("agent", True)),
        ("execute_tool search", ("tool", True)),
        ("execute_tool", (None, False)),
        ("execute_tool (merged)", (None, False)),
        ("tools/call add", ("tool", True)),
        ("chat", ("llm", False)),
        ("generate_content gemini-3", ("llm", False)),
        ("GET /", (None, False)),
        ("", (None, False)),
    ],
)
def test_a_name_says_what_a_span_is_of(name: str, expected: tuple[str | None, bool]) -> None:
    assert kind_by_name(name) == expected


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"gen_ai.operation.name": "plan"}, "step"),
        ({"gen_ai.operation.name": "create_agent"}, "step"),
        ({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "(merged tools)"}, "step"),
        ({"gen_ai.operation.name": "chat", "openinference.span.kind": "CHAIN"}, "llm"),
        ({"openinference.span.kind": "GUARDRAIL"}, "step"),
        ({"traceloop.span.kind": "workflow"}, "agent"),
        ({"traceloop.span.kind": "task"}, "step"),
        ({"mcp.method.name": "initialize"}, "step"),
        ({"gen_ai.system": "x", "gen_ai.agent.name": "y"}, "agent"),
        ({"gen_ai.tool.name": "y"}, "tool"),
        ({"gen_ai.system": "x"}, None),
        ({"http.method": "GET"}, None),
    ],
)
def test_attributes_say_what_a_span_is_of(attributes: dict[str, Any], kind: str | None) -> None:
    assert kind_by_attributes(attributes) == kind


@pytest.mark.parametrize(
    ("scope", "adapter"),
    [
        ("pydantic-ai", "pydantic-ai"),
        ("gcp.vertex.agent", "google-adk"),
        ("strands.telemetry.tracer", "strands"),
        ("openinference.instrumentation.langchain", "langchain"),
        ("opentelemetry.instrumentation.langchain.v1", "langchain"),
        ("opentelemetry.instrumentation.genai.langchain", "langchain"),
        ("openinference.instrumentation.openai_agents", "openai-agents"),
        ("openinference.instrumentation.openai", None),
        ("opentelemetry.instrumentation.openai.v1", None),
        ("logfire.openai", None),
        ("logfire", None),
        ("com.anthropic.sdk.python", None),
        ("", None),
    ],
)
def test_a_scope_is_silent_while_the_adapter_of_its_framework_is_on(scope: str, adapter: str | None) -> None:
    assert scopes.adapter_of(scope) == adapter
    assert scopes.silent(scope, {"langchain", "strands"}) == (adapter if adapter in ("langchain", "strands") else None)


def test_each_framework_has_an_adapter_of_that_name() -> None:
    from otel_agentbus.adapters import ADAPTERS

    assert scopes.SCOPES.keys() <= ADAPTERS.keys()
    assert dict(scopes.silenced(("mcp", "celery"))) == {"mcp": scopes.SCOPES["mcp"]}
    assert json.dumps(scopes.SCOPES["strands"]) == json.dumps(
        [
            "strands.telemetry.tracer",
            "openinference.instrumentation.strands",
            "openinference.instrumentation.strands_agents",
            "opentelemetry.instrumentation.strands",
            "opentelemetry.instrumentation.strands_agents",
            "opentelemetry.instrumentation.genai.strands",
            "opentelemetry.instrumentation.genai.strands_agents",
            "logfire.strands",
            "logfire.strands_agents",
        ]
    )


@pytest.mark.parametrize("given", ["alice@example.com", "1", "chatcmpl-9 of alice", "msg_ü"])
def test_an_answer_that_is_an_object_with_an_id_is_not_the_providers(
    app: Application, seen: Captured, given: str
) -> None:
    """What a model has written is content, and no id."""
    answer = json.dumps({"id": given, "name": "Alice"}, ensure_ascii=False)
    app.told("LLM", {"openinference.span.kind": "LLM", "llm.model_name": "m"}, {"output.value": answer})
    assert "response_id" not in said(seen.events[-1])
