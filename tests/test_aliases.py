"""The names of other backends beside ours: one table, nothing taken away, nothing without being asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from otel_agentbus import agent, llm, testing, tool
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.events import AgentEnd, AgentStart, Event, LlmRequest, LlmResponse, ToolCall, ToolCallStart
from otel_agentbus.settings import Settings
from otel_agentbus.telemetry.accounts import Account
from otel_agentbus.telemetry.aliases import FAMILIES, TABLE, conventions_of
from otel_agentbus.telemetry.conventions import Conventions
from otel_agentbus.telemetry.usage import Usage
from otel_agentbus.values import ALIASES

AGENT_STARTS = AgentStart(agent="planner", model_provider="openai", model="gpt-5-mini", conversation_id="talk-1")
AGENT_ENDS = AgentEnd(agent="planner", outcome="ok")
ASKED = LlmRequest(model_provider="azure.ai.openai", model="gpt-5-mini", messages_count=1, conversation_id="talk-1")
ANSWERED = LlmResponse(
    model_provider="azure.ai.openai",
    model="gpt-5-mini",
    duration=1.0,
    success=True,
    outcome="ok",
    response_model="gpt-5-mini-2026",
)
ANSWERED.account = Account(Usage(100, 10, 40, 5, 4), 0.25, "priced")
EMBEDDED = LlmRequest(model_provider="openai", model="embed-3", messages_count=1, operation="embeddings")
TOOL_STARTS = ToolCallStart(tool="search", tool_call_id="c1", conversation_id="talk-1")
TOOL_ENDS = ToolCall(tool="search", tool_call_id="c1", duration=1.0, success=True, outcome="ok")


def said(conventions: Conventions, event: Event) -> dict[str, Any]:
    """All that it says of this event, but for content."""
    match event:
        case AgentStart():
            return dict(conventions.agent_start(event)[1])
        case AgentEnd():
            return dict(conventions.agent_end(event))
        case LlmRequest():
            return dict(conventions.llm_start(event)[1])
        case LlmResponse():
            return dict(conventions.llm_end(event))
        case ToolCallStart():
            return dict(conventions.tool_start(event)[1])
        case ToolCall():
            return dict(conventions.tool_end(event))
    raise AssertionError(event)


def added(family: str, *events: Event) -> dict[str, Any]:
    """What this family's aliases add to the spans of these events."""
    more: dict[str, Any] = {}
    for event in events:
        plain, aliased = said(Conventions(), event), said(conventions_of("1.41", [family]), event)
        assert {key: aliased[key] for key in plain} == plain
        assert list(aliased)[-len(plain) :] == list(plain)  # what is cut by a span's limits is the alias
        more |= {key: value for key, value in aliased.items() if key not in plain}
    return more


EXPECTED: dict[str, list[dict[str, Any]]] = {
    "langfuse": [
        {"langfuse.observation.type": "agent", "langfuse.session.id": "talk-1"},
        {
            "langfuse.observation.type": "generation",
            "langfuse.session.id": "talk-1",
            "langfuse.observation.cost_details": '{"total": 0.25}',
        },
        {"langfuse.observation.type": "tool", "langfuse.session.id": "talk-1"},
    ],
    "langsmith": [
        {"langsmith.span.kind": "chain", "langsmith.metadata.session_id": "talk-1"},
        {"langsmith.span.kind": "llm", "langsmith.metadata.session_id": "talk-1"},
        {"langsmith.span.kind": "tool", "langsmith.metadata.session_id": "talk-1"},
    ],
    "logfire": [{}, {"operation.cost": 0.25}, {}],
    "openinference": [
        {"openinference.span.kind": "AGENT", "session.id": "talk-1", "agent.name": "planner"},
        {
            "openinference.span.kind": "LLM",
            "session.id": "talk-1",
            "llm.model_name": "gpt-5-mini",
            "llm.response.model_name": "gpt-5-mini-2026",
            "llm.provider": "azure",
            "llm.system": "openai",
            "llm.token_count.prompt": 100,
            "llm.token_count.completion": 10,
            "llm.token_count.total": 110,
            "llm.token_count.prompt_details.cache_read": 40,
            "llm.token_count.prompt_details.cache_write": 5,
            "llm.token_count.completion_details.reasoning": 4,
            "llm.cost.total": 0.25,
        },
        {"openinference.span.kind": "TOOL", "session.id": "talk-1", "tool.name": "search", "tool.id": "c1"},
    ],
    "openlit": [{}, {"gen_ai.usage.cost": 0.25}, {}],
    "proposal": [
        {},
        {
            "gen_ai.usage.cost.amount": 0.25,
            "gen_ai.usage.cost.currency": "USD",
            "gen_ai.usage.cost.source": "local",
        },
        {},
    ],
    "sentry": [
        {"gen_ai.operation.type": "agent"},
        {"gen_ai.operation.type": "ai_client", "gen_ai.cost.total_tokens": 0.25},
        {"gen_ai.operation.type": "tool"},
    ],
}


@pytest.mark.parametrize("family", ALIASES)
def test_each_backend_has_its_own_names(family: str) -> None:
    assert [
        added(family, AGENT_STARTS, AGENT_ENDS),
        added(family, ASKED, ANSWERED),
        added(family, TOOL_STARTS, TOOL_ENDS),
    ] == EXPECTED[family]


def test_embeddings_are_of_a_kind_of_their_own() -> None:
    assert added("openinference", EMBEDDED) == {
        "openinference.span.kind": "EMBEDDING",
        "embedding.model_name": "embed-3",
        "llm.provider": "openai",
        "llm.system": "openai",
    }
    assert added("langfuse", EMBEDDED) == {"langfuse.observation.type": "embedding"}


def test_the_settings_know_every_family_and_no_other() -> None:
    assert FAMILIES == ALIASES == tuple(sorted(EXPECTED))
    assert len({(alias.family, kind, alias.name) for alias in TABLE for kind in alias.kinds}) == sum(
        len(alias.kinds) for alias in TABLE
    )


def test_an_unknown_cost_has_no_alias() -> None:
    for family in FAMILIES:
        assert not {key for key in added(family, ASKED, _unpriced()) if "cost" in key}


def _unpriced() -> LlmResponse:
    event = LlmResponse(model_provider="x", model="y", duration=1.0, success=True)
    event.account = Account(Usage(1, 1, None, None, None), None, "unknown_model")
    return event


@pytest.mark.parametrize(
    ("given", "families"),
    [("", ()), ("none", ()), ("langfuse", ("langfuse",)), (" Logfire, openinference,", ("logfire", "openinference"))],
)
def test_the_variable_names_the_backends(
    monkeypatch: pytest.MonkeyPatch, given: str, families: tuple[str, ...]
) -> None:
    monkeypatch.setenv("AGENTBUS_ALIASES", given)
    assert Settings().aliases == families


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            "phoenix",
            f"there are no aliases for phoenix; name some of {', '.join(ALIASES)}.",
        ),
        (
            "proposal,langfuse",
            "langfuse counts proposal's gen_ai.usage.cost.amount as tokens; leave out one of the two.",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch, given: str, sentence: str) -> None:
    monkeypatch.setenv("AGENTBUS_ALIASES", given)
    with pytest.raises(ConfigurationError) as refused:
        Settings()
    assert str(refused.value) == f"AGENTBUS_ALIASES is {given!r}: {sentence}"


def run() -> None:
    with agent("planner", conversation_id="talk-1"):
        with llm("m", provider="openai", messages=[{"role": "user", "content": "go"}]) as call:
            call.record(input_tokens=3, output_tokens=2, cost_usd=0.5, messages="done")
        with tool("search", arguments={"q": "tea"}) as search:
            search.record(result=["a"])


def test_spans_have_them_and_content_only_where_it_is_captured() -> None:
    everything = tuple(name for name in ALIASES if name != "proposal")
    with testing.capture(aliases=everything) as seen:
        run()
        attributes = dict(seen.span("chat m").attributes or {})
    assert attributes["openinference.span.kind"] == "LLM"
    assert attributes["llm.cost.total"] == attributes["operation.cost"] == attributes["agentbus.cost.usd"] == 0.5
    assert not {key for key in attributes if key.startswith(("input.", "output."))}

    with testing.capture(aliases=everything, capture_content="SPAN_ONLY") as seen:
        run()
        call, search = (dict(seen.span(name).attributes or {}) for name in ("chat m", "execute_tool search"))
    assert call["input.value"] == call["gen_ai.input.messages"]
    assert call["output.value"] == call["gen_ai.output.messages"]
    assert call["input.mime_type"] == call["output.mime_type"] == "application/json"
    assert json.loads(str(search["tool.parameters"])) == json.loads(str(search["input.value"])) == {"q": "tea"}
    assert json.loads(str(search["output.value"])) == ["a"]


def test_without_being_asked_for_there_is_none() -> None:
    with testing.capture() as seen:
        run()
        keys = {key for span in seen.spans for key in span.attributes or {}}
    own = {alias.name for alias in TABLE}
    assert keys & own == set()


def test_with_every_alias_a_span_stays_below_the_limit_of_the_sdk() -> None:
    usage = {f"count_{number}": number for number in range(40)}
    parameters = dict.fromkeys(("temperature", "top_p", "top_k", "max_tokens", "seed", "frequency_penalty"), 1)
    with testing.capture(aliases=[name for name in ALIASES if name != "proposal"], conventions="both") as seen:
        more: dict[str, Any] = {f"own.{number}": number for number in range(40)}
        with llm("m", provider="openai", parameters=parameters, stream=True, **more) as call:
            call.record(**ANSWER, usage=usage, attributes={f"late.{number}": number for number in range(40)})
        [span] = seen.spans
    assert len(span.attributes or {}) < 128
    assert span.dropped_attributes == 0
    assert (span.attributes or {})["gen_ai.operation.name"] == "chat"


ANSWER: dict[str, Any] = {
    "input_tokens": 100,
    "output_tokens": 10,
    "cache_read_input_tokens": 40,
    "cache_write_input_tokens": 5,
    "reasoning_output_tokens": 4,
    "cost_usd": 0.5,
    "response_id": "r1",
    "response_model": "m-1",
    "service_tier": "standard",
    "finish_reasons": ["stop"],
    "time_to_first_chunk": 0.1,
}
