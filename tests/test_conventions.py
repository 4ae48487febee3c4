"""What spans are called and what stands on them, in each flavour, for every kind of event."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    CacheMiss,
    ChannelMessage,
    DeploymentCompleted,
    DeploymentFailed,
    DeploymentStarted,
    DomainEvent,
    Error,
    Event,
    HeartbeatTick,
    LlmRequest,
    LlmResponse,
    RecoveryCompleted,
    ToolCall,
    ToolCallStart,
    TurnComplete,
)
from otel_agentbus.telemetry import names
from otel_agentbus.telemetry.accounts import account_of, used_by
from otel_agentbus.telemetry.conventions import Conventions, Flavour, error_of, provider_name, usage_totals

CONFORMANCE = Path(__file__).resolve().parents[1].parent / "shared" / "conformance"
FLAVOURS: tuple[Flavour, ...] = ("1.41", "2026-10", "both")

LINEAGE: dict[str, Any] = {
    "invocation_id": "i2",
    "parent_invocation_id": "i1",
    "root_invocation_id": "i0",
    "agent": "planner",
    "conversation_id": "c7",
}
IDENTITY = {
    "agentbus.invocation.root_id": "i0",
    "agentbus.invocation.parent_id": "i1",
    "agentbus.invocation.id": "i2",
    "gen_ai.conversation.id": "c7",
    "gen_ai.agent.name": "planner",
}


def request(**fields: Any) -> LlmRequest:
    given: dict[str, Any] = {"model_provider": "openai", "model": "gpt-5-mini", "messages_count": 2}
    return LlmRequest(**(given | fields))


def response(**fields: Any) -> LlmResponse:
    given: dict[str, Any] = {"model_provider": "openai", "model": "gpt-5-mini", "duration": 1.5, "success": True}
    return LlmResponse(**(given | fields))


# -- agents -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flavour", "provider"),
    [("1.41", {"gen_ai.provider.name": "openai"}), ("2026-10", {}), ("both", {"gen_ai.provider.name": "openai"})],
)
def test_an_agent_span_says_who_ran_and_where_in_the_tree(flavour: Flavour, provider: dict[str, str]) -> None:
    event = AgentStart(
        **LINEAGE,
        model_provider="openai",
        model="gpt-5-mini",
        channel="telegram",
        attempt=2,
        attributes={"team": "sales", "agentbus.invocation.path": ["root", "planner"]},
    )
    assert Conventions(flavour).agent_start(event) == (
        "invoke_agent planner",
        {
            "team": "sales",
            "agentbus.channel": "telegram",
            "agentbus.attempt": 2,
            "agentbus.invocation.path": "root/planner",
            **IDENTITY,
            "gen_ai.request.model": "gpt-5-mini",
            **provider,
            "gen_ai.operation.name": "invoke_agent",
        },
    )


def test_what_identifies_a_span_comes_last_because_span_limits_take_the_oldest_attributes() -> None:
    event = request(**LINEAGE, attributes={"z": 1}, parameters={"seed": 7})
    _, attributes = Conventions().llm_start(event)
    assert list(attributes) == [
        *("z", "gen_ai.request.seed", "agentbus.request.messages_count", *IDENTITY),
        *("gen_ai.request.model", "gen_ai.provider.name", "gen_ai.operation.name"),
    ]


def test_an_agent_without_a_name_is_just_invoked() -> None:
    assert Conventions().agent_start(AgentStart()) == ("invoke_agent", {"gen_ai.operation.name": "invoke_agent"})


def test_the_end_of_an_agent_tells_outcome_totals_and_what_its_producer_reported() -> None:
    totals: dict[str, float] = {}
    for call in (
        response(input_tokens=100, output_tokens=10, cost_usd=0.25),
        response(input_tokens=5, output_tokens=3, reasoning_output_tokens=2, cost_usd=0.5),
        response(success=False),
    ):
        for key, value in used_by(account_of(call)).items():
            totals[key] = totals.get(key, 0) + value
    event = AgentEnd(**LINEAGE, tokens_used={"input_tokens": 90, "output_tokens": 9}, cost_usd=0.7)
    assert Conventions().agent_end(event, totals) == {
        "agentbus.usage.reasoning_output_tokens": 2,
        "agentbus.usage.input_tokens": 105,
        "agentbus.usage.output_tokens": 13,
        "agentbus.usage.cost_usd": 0.75,
        "agentbus.usage.llm_calls": 3,
        "agentbus.reported.input_tokens": 90,
        "agentbus.reported.output_tokens": 9,
        "agentbus.reported.cost_usd": 0.7,
        "agentbus.usage.mismatch": ("input_tokens", "output_tokens", "cost_usd"),
        "agentbus.outcome": "ok",
    }
    assert Conventions().agent_end(AgentEnd(tokens_used=12)) == {
        "agentbus.reported.tokens": 12,
        "agentbus.outcome": "ok",
    }


def test_totals_that_no_call_has_told_of_are_not_there() -> None:
    assert usage_totals({}) == {}
    assert usage_totals(used_by(account_of(response(cost_usd=-1.0)))) == {"agentbus.usage.llm_calls": 1}


# -- model calls ------------------------------------------------------------------------------------------------------


def test_a_model_call_span_says_what_was_asked_of_which_model() -> None:
    event = request(
        **LINEAGE,
        stream=True,
        parameters={
            "temperature": 0,
            "top_p": 0.9,
            "top_k": 40,
            "max_completion_tokens": 500,
            "frequency_penalty": 0.1,
            "presence_penalty": 0.2,
            "stop": "END",
            "seed": 7,
            "n": 2,
            "response_format": {"type": "json_schema", "schema": {"title": "a secret form"}},
            "service_tier": "flex",
            "reasoning_effort": "high",
            "previous_response_id": "resp_1",
            "user": "alice@example.org",
            "tools": [{"name": "search"}],
            "prompt": "my secret prompt",
        },
    )
    asked = {
        "gen_ai.request.frequency_penalty": 0.1,
        "gen_ai.request.max_tokens": 500,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.presence_penalty": 0.2,
        "gen_ai.output.type": "json",
        "gen_ai.request.seed": 7,
        "openai.request.service_tier": "flex",
        "gen_ai.request.stop_sequences": ["END"],
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_k": 40.0,
        "gen_ai.request.top_p": 0.9,
        "agentbus.request.messages_count": 2,
        "gen_ai.request.stream": True,
        **IDENTITY,
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.provider.name": "openai",
        "gen_ai.operation.name": "chat",
    }
    newer = {"gen_ai.request.reasoning.level": "high", "gen_ai.request.previous_response.id": "resp_1"}
    assert Conventions("1.41").llm_start(event) == ("chat gpt-5-mini", asked)
    assert Conventions("2026-10").llm_start(event) == ("chat gpt-5-mini", asked | newer)
    assert Conventions("both").llm_start(event) == ("chat gpt-5-mini", asked | newer)
    types = {flavour: type(Conventions(flavour).llm_start(event)[1]["gen_ai.request.top_k"]) for flavour in FLAVOURS}
    assert types == {"1.41": float, "2026-10": int, "both": float}


@pytest.mark.parametrize(
    ("parameters", "attributes"),
    [
        ({"choice_count": 1}, {}),
        ({"service_tier": "auto"}, {}),
        ({"temperature": "hot", "seed": 1.5, "max_tokens": True, "top_p": float("nan")}, {}),
        ({"stop_sequences": ["a", "", "b", 3, None]}, {"gen_ai.request.stop_sequences": ["a", "b", "3"]}),
        ({"output_type": "speech"}, {"gen_ai.output.type": "speech"}),
        ({"output_type": "hologram"}, {}),
        ({"response_format": {"type": "text"}}, {"gen_ai.output.type": "text"}),
        ({"dimensions": 256}, {"gen_ai.embeddings.dimension.count": 256}),
        ({"encoding_format": "float"}, {"gen_ai.request.encoding_formats": ["float"]}),
        ({"seed": 2**64}, {}),
    ],
)
def test_only_parameters_that_are_understood_and_of_the_right_type_are_told(
    parameters: dict[str, Any], attributes: dict[str, Any]
) -> None:
    _, told = Conventions().llm_start(request(parameters=parameters))
    plain = {"agentbus.request.messages_count", "gen_ai.request.model", "gen_ai.provider.name", "gen_ai.operation.name"}
    assert {key: value for key, value in told.items() if key not in plain} == attributes


def test_the_service_tier_has_a_name_of_openai_only_for_openai() -> None:
    tiers = {}
    for provider in ("openai", "azure_openai", "anthropic"):
        _, asked = Conventions().llm_start(request(model_provider=provider, parameters={"service_tier": "priority"}))
        answered = Conventions().llm_end(response(model_provider=provider, service_tier="standard"))
        tiers[provider] = sorted(key for key in {**asked, **answered} if key.endswith("service_tier"))
    assert tiers == {
        "openai": ["openai.request.service_tier", "openai.response.service_tier"],
        "azure_openai": ["openai.request.service_tier", "openai.response.service_tier"],
        "anthropic": ["agentbus.response.service_tier"],
    }


ANSWER = {
    "input_tokens": 120,
    "output_tokens": 40,
    "cache_read_input_tokens": 30,
    "cache_write_input_tokens": 20,
    "reasoning_output_tokens": 8,
    "usage": {"cache_write_5m": 20, "input_audio_tokens": 4},
    "response_model": "gpt-5-mini-2026",
    "response_id": "resp_2",
    "finish_reasons": ["stop"],
    "time_to_first_chunk": 0.2,
    "cost_usd": 0.01,
}


@pytest.mark.parametrize(
    ("flavour", "differing"),
    [
        (
            "1.41",
            {
                "gen_ai.usage.cache_creation.input_tokens": 20,
                "agentbus.llm.usage.input_audio_tokens": 4,
            },
        ),
        (
            "2026-10",
            {
                "gen_ai.usage.cache_write.input_tokens": 20,
                "gen_ai.usage.audio.input_tokens": 4,
            },
        ),
        (
            "both",
            {
                "gen_ai.usage.cache_creation.input_tokens": 20,
                "gen_ai.usage.cache_write.input_tokens": 20,
                "gen_ai.usage.audio.input_tokens": 4,
                "agentbus.llm.usage.input_audio_tokens": 4,
            },
        ),
    ],
)
def test_the_end_of_a_model_call_tells_usage_cost_and_answer(flavour: Flavour, differing: dict[str, int]) -> None:
    assert Conventions(flavour).llm_end(response(**ANSWER)) == {
        "agentbus.llm.usage.cache_write_5m": 20,
        "agentbus.cost.usd": 0.01,
        "agentbus.cost.status": "reported",
        "gen_ai.usage.reasoning.output_tokens": 8,
        "gen_ai.usage.cache_read.input_tokens": 30,
        "gen_ai.usage.input_tokens": 120,
        "gen_ai.usage.output_tokens": 40,
        "gen_ai.response.time_to_first_chunk": 0.2,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.id": "resp_2",
        "gen_ai.response.model": "gpt-5-mini-2026",
        "agentbus.outcome": "ok",
        **differing,
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        # Anthropic's own numbers: what was cached is not in input_tokens
        (
            {"input_tokens": 5, "cache_read_input_tokens": 100, "cache_write_input_tokens": 20},
            {"input_tokens": 125, "cache_read.input_tokens": 100, "cache_creation.input_tokens": 20},
        ),
        # totals that are what they should be
        (
            {"input_tokens": 120, "cache_read_input_tokens": 100, "cache_write_input_tokens": 20},
            {"input_tokens": 120, "cache_read.input_tokens": 100, "cache_creation.input_tokens": 20},
        ),
        (
            {"output_tokens": 10, "reasoning_output_tokens": 30},
            {"output_tokens": 40, "reasoning.output_tokens": 30},
        ),
        ({"cache_read_input_tokens": 3}, {"cache_read.input_tokens": 3}),
        ({"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 0, "output_tokens": 0}),
        ({"input_tokens": -1, "output_tokens": True}, {}),
        ({"input_tokens": 10**12, "output_tokens": 1.5}, {}),
    ],
)
def test_token_counts_are_totals_and_only_what_can_be_a_count(given: dict[str, Any], told: dict[str, int]) -> None:
    attributes = Conventions().llm_end(response(**given))
    prefix = "gen_ai.usage."
    assert {key.removeprefix(prefix): value for key, value in attributes.items() if key.startswith(prefix)} == told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"cost_usd": 0.0}, {"agentbus.cost.usd": 0.0, "agentbus.cost.status": "reported"}),
        ({"input_tokens": 1}, {"agentbus.cost.status": "no_price_source"}),
        ({}, {"agentbus.cost.status": "no_usage"}),
        ({"input_tokens": -1, "output_tokens": 3}, {"agentbus.cost.status": "invalid_usage"}),
        ({"cost_usd": -0.1, "input_tokens": 1}, {"agentbus.cost.status": "invalid_usage"}),
        ({"cost_usd": float("inf")}, {"agentbus.cost.status": "invalid_usage"}),
    ],
)
def test_a_cost_that_is_not_known_is_never_zero(fields: dict[str, Any], told: dict[str, Any]) -> None:
    attributes = Conventions().llm_end(response(**fields))
    assert {key: value for key, value in attributes.items() if key.startswith("agentbus.cost.")} == told


def test_a_model_call_whose_request_is_lost_is_named_by_its_response() -> None:
    assert Conventions().llm_start_from_end(response(**LINEAGE, attributes={"later": 1})) == (
        "chat gpt-5-mini",
        {
            **IDENTITY,
            "gen_ai.request.model": "gpt-5-mini",
            "gen_ai.provider.name": "openai",
            "gen_ai.operation.name": "chat",
        },
    )


def test_other_operations_have_their_own_names() -> None:
    assert Conventions().llm_start(request(operation="embeddings", model=""))[0] == "embeddings"
    assert Conventions().llm_start(request(operation="embeddings"))[0] == "embeddings gpt-5-mini"


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("OpenAI", "openai"),
        ("vertex_ai", "gcp.vertex_ai"),
        ("google-gla", "gcp.gemini"),
        ("google", "gcp.gen_ai"),
        ("xai", "x_ai"),
        ("bedrock", "aws.bedrock"),
        ("azure", "azure"),
        ("Acme Models", "Acme Models"),
        ("", None),
        (None, None),
    ],
)
def test_providers_have_the_names_of_the_conventions_where_they_are_unambiguous(
    given: str | None, known: str | None
) -> None:
    assert provider_name(given) == known


# -- tools ------------------------------------------------------------------------------------------------------------


def test_a_tool_span_says_which_tool_was_executed_by_whom() -> None:
    start = ToolCallStart(**LINEAGE, tool="search", tool_call_id="call_1", arguments='{"q":"x"}')
    end = ToolCall(**LINEAGE, tool="search", tool_call_id="call_1", duration=0.1, success=True, result="3 hits")
    named = (
        "execute_tool search",
        {
            **IDENTITY,
            "gen_ai.tool.call.id": "call_1",
            "gen_ai.tool.name": "search",
            "gen_ai.operation.name": "execute_tool",
        },
    )
    assert Conventions().tool_start(start) == named
    assert Conventions().tool_start_from_end(end) == named
    assert Conventions().tool_end(end) == {"agentbus.outcome": "ok"}


# -- deployments ------------------------------------------------------------------------------------------------------


def test_a_deployment_and_its_recovery_are_spans_of_their_own() -> None:
    says = Conventions()
    named = ("deployment", {"deployment.id": "d1"})
    failed = DeploymentFailed(deploy_id="d1", reason="no quota")
    completed = DeploymentCompleted(deploy_id="d1", commit_sha="abc123")
    assert says.deployment_start(DeploymentStarted(deploy_id="d1")) == named
    assert says.deployment_start_from_end(completed) == named
    assert says.deployment_end(completed) == {
        "vcs.ref.head.revision": "abc123",
        "deployment.status": "succeeded",
        "agentbus.outcome": "ok",
    }
    assert says.deployment_end(failed) == {
        "deployment.status": "failed",
        "error.type": "_OTHER",
        "agentbus.outcome": "error",
    }
    assert says.error_of(failed) == ("_OTHER", "no quota")
    assert says.recovery_start(failed) == ("recovery", {"deployment.id": "d1"})
    assert says.recovery_start_from_end(RecoveryCompleted(deploy_id="d1")) == ("recovery", {"deployment.id": "d1"})
    assert says.recovery_end(RecoveryCompleted(deploy_id="d1")) == {"agentbus.outcome": "ok"}


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "error", "exception"),
    [
        (
            response(success=False, error_type="openai.RateLimitError", error_message="slow down"),
            ("openai.RateLimitError", "slow down"),
            ("exception", {"exception.type": "openai.RateLimitError", "exception.message": "slow down"}),
        ),
        (response(success=False, error_type="429"), ("429", None), ("exception", {"exception.type": "429"})),
        (response(success=False), ("_OTHER", None), None),
        (response(success=False, outcome="cancelled", error_type="CancelledError"), None, None),
        (response(error_type="ValueError"), None, None),
        (
            ToolCall(tool="t", duration=0.1, success=False, error_type="you gave a bad prompt: hi"),
            ("_OTHER", None),
            ("exception", {"exception.type": "you gave a bad prompt: hi"}),
        ),
        (AgentEnd(error_message="boom"), ("_OTHER", "boom"), ("exception", {"exception.message": "boom"})),
        (AgentEnd(outcome="interrupted"), None, None),
        (
            Error(component="gateway", message="refused", error_type="ConnectionError"),
            ("ConnectionError", "refused"),
            ("exception", {"exception.type": "ConnectionError", "exception.message": "refused"}),
        ),
        (TurnComplete(), None, None),
    ],
)
def test_error_type_and_exception_stand_where_the_outcome_is_an_error_and_nowhere_else(
    event: Event, error: tuple[str, str | None] | None, exception: tuple[str, dict[str, str]] | None
) -> None:
    assert error_of(event) == error
    assert Conventions.exception(event) == exception


@pytest.mark.parametrize("outcome", ["ok", "error", "cancelled", "interrupted"])
def test_every_end_tells_its_outcome_and_error_type_exactly_with_the_error(outcome: Any) -> None:
    says = Conventions()
    ends = (
        says.agent_end(AgentEnd(outcome=outcome)),
        says.llm_end(response(outcome=outcome)),
        says.tool_end(ToolCall(tool="t", duration=0.1, success=True, outcome=outcome)),
    )
    error = {"error.type": "_OTHER"} if outcome == "error" else {}
    for end in ends:
        assert {key: end[key] for key in end if key in ("error.type", "agentbus.outcome")} == {
            **error,
            "agentbus.outcome": outcome,
        }
    assert says.outcome_attributes(outcome) == {"agentbus.outcome": outcome}


# -- content ----------------------------------------------------------------------------------------------------------


def test_content_is_apart_so_that_only_the_place_that_may_show_it_asks_for_it() -> None:
    content = Conventions.content_attributes
    messages = '[{"role":"user","parts":[]}]'
    assert content(AgentStart(instructions="[]", input=messages)) == {
        "gen_ai.system_instructions": "[]",
        "gen_ai.input.messages": messages,
    }
    assert content(AgentEnd(output=messages)) == {"gen_ai.output.messages": messages}
    assert content(request(messages=messages)) == {"gen_ai.input.messages": messages}
    assert content(response(messages=messages)) == {"gen_ai.output.messages": messages}
    assert content(ToolCallStart(tool="t", arguments="{}")) == {"gen_ai.tool.call.arguments": "{}"}
    assert content(ToolCall(tool="t", duration=0.1, success=True, arguments="{}", result='"3"')) == {
        "gen_ai.tool.call.arguments": "{}",
        "gen_ai.tool.call.result": '"3"',
    }
    assert content(DomainEvent(name="n", data={"a": 1})) == {}
    assert Conventions.details(request(messages=messages), None, response(messages="[]")) == (
        "gen_ai.client.inference.operation.details",
        {"gen_ai.input.messages": messages, "gen_ai.output.messages": "[]"},
    )
    assert Conventions.details(request()) is None


def test_content_that_nobody_has_rendered_stays_home() -> None:
    secret: Any = [{"role": "user", "content": "secret"}]
    events = (
        AgentStart(instructions=secret, input=secret),
        AgentEnd(output=secret),
        request(messages=secret, parameters={"prompt": "secret"}),
        response(messages=secret),
        ToolCallStart(tool="t", arguments={"q": "secret"}),
        ToolCall(tool="t", duration=0.1, success=True, result=secret),
    )
    told = [said(Conventions("both"), event) for event in events]
    assert "secret" not in json.dumps(told)


# -- moments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (TurnComplete(), ("agentbus.turn.complete", {})),
        (
            ChannelMessage(channel="slack", direction="inbound", attributes={"len": 3}),
            (
                "agentbus.channel.message",
                {"len": 3, "agentbus.channel": "slack", "agentbus.channel.direction": "inbound"},
            ),
        ),
        (
            CacheHit(cache_type="response", tokens_saved=12),
            ("agentbus.cache.hit", {"agentbus.cache.type": "response", "agentbus.cache.tokens_saved": 12}),
        ),
        (CacheMiss(cache_type="response"), ("agentbus.cache.miss", {"agentbus.cache.type": "response"})),
        (
            Error(component="gateway", message="refused"),
            ("exception", {"agentbus.component": "gateway", "exception.message": "refused"}),
        ),
        (
            DomainEvent(name="lead_qualified", data={"score": 87, "who": {"id": 1}, "none": None}),
            ("lead_qualified", {"agentbus.data.score": 87, "agentbus.data.who": '{"id":1}'}),
        ),
        (HeartbeatTick(), None),
        (AgentStart(), None),
    ],
)
def test_what_happens_at_one_moment_is_an_event_of_its_span(
    event: Event, told: tuple[str, dict[str, Any]] | None
) -> None:
    assert Conventions.moment(event) == told


def test_errors_and_domain_events_outside_of_any_run_are_spans_without_length() -> None:
    says = Conventions()
    assert says.moment_span(DomainEvent(name="lead_lost", data={"score": 3}, agent="planner")) == (
        "lead_lost",
        {"agentbus.data.score": 3, "gen_ai.agent.name": "planner"},
    )
    assert says.moment_span(Error(component="gateway", message="refused", error_type="OSError")) == (
        "error gateway",
        {"agentbus.component": "gateway", "error.type": "OSError"},
    )
    assert says.moment_span(CacheMiss(cache_type="x")) is None


# -- attributes of the user's own -------------------------------------------------------------------------------------


def test_attributes_of_the_event_become_attributes_of_the_span_as_opentelemetry_can_carry_them() -> None:
    given: dict[str, Any] = {
        "b": True,
        "f": 1.5,
        "i": 3,
        "s": "text",
        "list": ["a", "", "b"],
        "ints": [1, 2],
        "mixed": [1, "a", None],
        "deep": {"a": [1, {"b": "ü"}]},
        "none": None,
        "empty": "",
        "no list": [],
        "huge": 2**70,
        "nan": float("nan"),
        "surrogate": "a\ud800b",
        "": "nameless",
        "agentbus.span": {"events": []},
        "gen_ai.operation.name": "mine",
        "error.type": "mine",
    }
    told = Conventions().tool_end(ToolCall(tool="t", duration=0.1, success=True, attributes=given))
    assert told == {
        "b": True,
        "deep": '{"a":[1,{"b":"ü"}]}',
        "f": 1.5,
        "i": 3,
        "ints": [1, 2],
        "list": ["a", "", "b"],
        "mixed": '[1,"a",null]',
        "s": "text",
        "surrogate": "a?b",
        "agentbus.dropped_attributes.end": 2,
        "agentbus.outcome": "ok",
    }


def test_attributes_beyond_the_room_of_a_span_are_dropped_by_name_and_counted() -> None:
    many: Any = {f"k{number:03}": number for number in range(100)}
    _, attributes = Conventions().agent_start(AgentStart(attributes=many))
    assert attributes == {
        **{f"k{number:03}": number for number in range(32)},
        "agentbus.dropped_attributes.start": 68,
        "gen_ai.operation.name": "invoke_agent",
    }


def test_the_fullest_span_stays_under_a_hundred_attributes() -> None:
    own: Any = {f"k{number:03}": number for number in range(100)} | {"agentbus.invocation.path": "a/b"}
    later: Any = {f"z{number:03}": number for number in range(100)}
    parameters: Any = dict.fromkeys(names.PARAMETERS, 2) | {
        "output_type": "json",
        "stop": "x",
        "encoding_format": "float",
        "reasoning_effort": "low",
        "previous_response_id": "r",
    }
    usage = dict.fromkeys(names.MODALITY_TOKENS, 1) | {f"u{number:03}": number for number in range(100)}
    says = Conventions("both")
    lineage: Any = {**LINEAGE, "channel": "c", "attempt": 2}
    call = says.llm_start(request(**lineage, attributes=own, parameters=parameters, stream=True, messages="[]"))[1]
    call |= says.llm_end(
        response(
            **(ANSWER | {"usage": usage}),
            service_tier="flex",
            attributes=later,
            outcome="error",
        )
    )
    call |= says.content_attributes(request(messages="[]")) | says.content_attributes(response(messages="[]"))
    run = says.agent_start(AgentStart(**lineage, attributes=own, model="m", model_provider="p"))[1]
    totals = dict.fromkeys(("input_tokens", "output_tokens", "cost_usd", "calls", "cache_read_input_tokens"), 1)
    tokens: Any = {"input_tokens": 1, "output_tokens": 1}
    run |= says.agent_end(AgentEnd(attributes=later, outcome="error", tokens_used=tokens, cost_usd=1.0), totals)
    run |= says.content_attributes(AgentStart(instructions="[]", input="[]"))
    run |= says.content_attributes(AgentEnd(output="[]"))
    assert {"call": len(call) <= 100, "run": len(run) <= 100} == {"call": True, "run": True}
    assert len(call) > 90, "the test has lost its teeth"


# -- hostile input ----------------------------------------------------------------------------------------------------


def test_names_are_cut_and_ids_that_are_no_texts_are_written_as_texts() -> None:
    hostile: Any = {
        "agent": "a" * 10_000,
        "invocation_id": UUID(int=5),
        "conversation_id": 7,
        "channel": ["no", "name"],
    }
    name, attributes = Conventions().agent_start(AgentStart(**hostile))
    assert name == "invoke_agent " + "a" * 256
    assert attributes == {
        "agentbus.invocation.id": "00000000-0000-0000-0000-000000000005",
        "gen_ai.conversation.id": "7",
        "gen_ai.agent.name": "a" * 256,
        "gen_ai.operation.name": "invoke_agent",
    }


EVERY_KIND: tuple[Event, ...] = (
    AgentStart(),
    AgentEnd(),
    request(),
    response(),
    ToolCallStart(tool="t"),
    ToolCall(tool="t", duration=0.1, success=True),
    TurnComplete(),
    ChannelMessage(channel="c", direction="d"),
    HeartbeatTick(),
    CacheHit(cache_type="c", tokens_saved=1),
    CacheMiss(cache_type="c"),
    Error(component="c", message="m"),
    DeploymentStarted(deploy_id="d"),
    DeploymentCompleted(deploy_id="d", commit_sha="s"),
    DeploymentFailed(deploy_id="d", reason="r"),
    RecoveryCompleted(deploy_id="d"),
    DomainEvent(name="n"),
)

SAYINGS: dict[type[Event], tuple[str, ...]] = {
    AgentStart: ("agent_start",),
    AgentEnd: ("agent_start_from_end", "agent_end"),
    LlmRequest: ("llm_start",),
    LlmResponse: ("llm_start_from_end", "llm_end"),
    ToolCallStart: ("tool_start",),
    ToolCall: ("tool_start_from_end", "tool_end"),
    DeploymentStarted: ("deployment_start",),
    DeploymentCompleted: ("deployment_start_from_end", "deployment_end"),
    DeploymentFailed: ("deployment_start_from_end", "deployment_end", "recovery_start"),
    RecoveryCompleted: ("recovery_start_from_end", "recovery_end"),
}


def said(says: Conventions, event: Event) -> dict[str, Any]:
    """Everything that the conventions say of an event, by the function that says it."""
    functions: list[tuple[str, Callable[[Any], Any]]] = [
        (name, getattr(says, name))
        for name in (*SAYINGS.get(type(event), ()), "moment", "moment_span", "error_of", "exception", "details")
    ]
    return {name: function(event) for name, function in functions}


SURROGATES = st.text(st.characters(), max_size=8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SURROGATES | st.binary(max_size=4) | st.just(2**80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SURROGATES | st.integers(), inner, max_size=3),
    max_leaves=6,
)
_TRACER = TracerProvider(span_limits=SpanLimits(max_attributes=200)).get_tracer("test")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(EVERY_KIND), st.sampled_from(FLAVOURS), st.data())
def test_whatever_stands_in_an_event_its_span_can_be_encoded_and_is_the_same_again(
    event: Event, flavour: Flavour, data: st.DataObject
) -> None:
    event = copy.copy(event)
    for field in dataclasses.fields(event):
        if field.init and data.draw(st.booleans()):
            setattr(event, field.name, data.draw(ANYTHING, label=field.name))
    told = said(Conventions(flavour), event)
    assert told == said(Conventions(flavour), copy.deepcopy(event))
    with _TRACER.start_as_current_span("x") as span:
        for function, answer in told.items():
            if answer is None or function == "error_of":
                continue
            name, attributes = answer if isinstance(answer, tuple) else ("x", answer)
            assert isinstance(name, str)
            assert name
            span.update_name(name)
            span.set_attributes(attributes)
            span.add_event(name, attributes)
            assert all(value not in (None, "", []) for value in attributes.values())
    encode_spans([span]).SerializeToString()  # type: ignore[list-item]  # the SDK's span can be read


def test_a_flavour_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigurationError, match=r"no flavour '1\.42' .* 1\.41, 2026-10, both"):
        Conventions("1.42")  # type: ignore[arg-type]


# -- conformance ------------------------------------------------------------------------------------------------------


def _spans() -> list[Any]:
    """One span for every kind that there is, ended well and badly, made by the SDK from what the conventions say."""
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("conformance")
    says = Conventions("1.41")

    def span(named: tuple[str, Any], end: Any, event: Event, kind: SpanKind = SpanKind.INTERNAL) -> None:
        made = tracer.start_span(named[0], attributes=named[1], kind=kind)
        made.set_attributes(end | says.content_attributes(event))
        error = says.error_of(event)
        if error is not None:
            made.set_status(Status(StatusCode.ERROR, error[1]))
        made.end()

    parameters: Any = {
        "temperature": 1,
        "top_p": 1,
        "top_k": 1,
        "max_tokens": 1,
        "frequency_penalty": 1,
        "presence_penalty": 1,
        "stop_sequences": ["x"],
        "seed": 1,
        "n": 3,
        "output_type": "json",
        "encoding_formats": ["float"],
        "service_tier": "default",
        "reasoning_effort": "low",
        "previous_response_id": "r",
        "dimensions": 3,
    }
    inbound = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "hi"}]}])
    outbound = json.dumps([{"role": "assistant", "parts": [], "finish_reason": "stop"}])
    instructions = json.dumps([{"type": "text", "content": "be kind"}])
    lineage: Any = {**LINEAGE, "channel": "c", "attempt": 2, "attributes": {"agentbus.invocation.path": "a/b"}}
    for outcome in ("ok", "error", "cancelled", "interrupted"):
        start = AgentStart(**lineage, model="m", model_provider="openai", instructions=instructions, input=inbound)
        run = AgentEnd(outcome=outcome, output=outbound, tokens_used=3, cost_usd=0.1)
        span(says.agent_start(start), says.content_attributes(start) | says.agent_end(run, {"calls": 1}), run)
        span(says.agent_start_from_end(run), says.agent_end(run), run)
        for operation in ("chat", "embeddings", "text_completion", "generate_content"):
            ask = request(**lineage, operation=operation, parameters=parameters, stream=True, messages=inbound)
            answer = response(**ANSWER, service_tier="default", outcome=outcome, messages=outbound)
            end = says.content_attributes(ask) | says.llm_end(answer)
            span(says.llm_start(ask), end, answer, SpanKind.CLIENT)
        span(says.llm_start_from_end(answer), says.llm_end(answer), answer, SpanKind.CLIENT)
        use = ToolCallStart(**lineage, tool="search", tool_call_id="1", arguments='{"q":1}')
        used = ToolCall(tool="search", duration=0.1, success=True, outcome=outcome, result='"x"')
        span(says.tool_start(use), says.content_attributes(use) | says.tool_end(used), used)
        span(says.tool_start_from_end(used), says.tool_end(used), used)
    failed, completed = DeploymentFailed(deploy_id="d", reason="r"), DeploymentCompleted(deploy_id="d", commit_sha="s")
    for deployed in (failed, completed):
        span(says.deployment_start(DeploymentStarted(deploy_id="d")), says.deployment_end(deployed), deployed)
        span(says.deployment_start_from_end(deployed), says.deployment_end(deployed), deployed)
    recovered = RecoveryCompleted(deploy_id="d")
    span(says.recovery_start(failed), says.recovery_end(recovered), recovered)
    span(says.recovery_start_from_end(recovered), says.recovery_end(recovered), recovered)
    for lone in (Error(component="c", message="m"), DomainEvent(name="n", data={"a": {"b": 1}}, **LINEAGE)):
        alone = says.moment_span(lone)
        assert alone is not None
        span(alone, {}, lone)
    return list(memory.get_finished_spans())


def test_every_kind_of_span_conforms_to_the_official_registry_of_1_41(tmp_path: Path) -> None:
    if not CONFORMANCE.is_dir():
        pytest.skip("the official registry is not here: it lies in ../shared/conformance of a full checkout")
    lines = tmp_path / "spans.otlp.jsonl"
    to_dict = importlib.import_module("google.protobuf.json_format").MessageToDict  # has no types
    spans = to_dict(encode_spans(_spans()), use_integers_for_enums=True)
    lines.write_text(json.dumps(spans) + "\n")
    checker = [sys.executable, str(CONFORMANCE / "semconv_check.py"), str(CONFORMANCE / "data"), str(lines)]
    done = subprocess.run(checker, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert " 0 violations" in done.stdout.splitlines()[-1]
