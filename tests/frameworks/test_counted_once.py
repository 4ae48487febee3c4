"""Each model call counts once, however many tell of it: frameworks' own spans, foreign instrumentations, our adapters.

The same programs run under what people run them with, with our own adapter of the framework beside it and without: the
calls, the tokens and the cost are the same ones each time, and all spans are one tree in which no parent is missing.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from otel_agentbus import adapters, testing
from otel_agentbus.adapters.otel.reading import reading
from otel_agentbus.events import AgentStart, ToolCall
from otel_agentbus.testing import Captured

from ..foreign import Application
from ..observing import assert_balanced
from .shape import program

#: What our adapter of the framework is in a test: off, so that only the spans tell of it, or on beside them.
OFF_AND_ON = pytest.mark.parametrize("adapter", [False, True], ids=["spans alone", "with our adapter"])


class Totals(NamedTuple):
    """What a program comes to."""

    calls: int
    input: int
    output: int
    cached: int
    tools: int


#: The planner's three calls and its two researchers' (`examples/`).
PLANNED = Totals(5, 340, 40, 120, 3)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """An application whose global provider is read."""
    application = Application()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", application.provider)
    yield application
    application.processor.on = False  # tracers of frameworks that were made meanwhile stay with this provider


@pytest.fixture
def seen() -> Iterator[Captured]:
    with testing.capture(budgets=[]) as captured:  # so that the price list is loaded
        yield captured


def run(function: Callable[[], Any]) -> Any:
    found = function()
    return asyncio.run(found) if inspect.iscoroutine(found) else found


def totals(seen: Captured) -> Totals:
    """What the summary says, which must be what the metrics say."""
    seen.bus.flush()
    total = seen.bus.summary().total
    counted: dict[str, float] = {}
    for attributes, tokens in seen.metric("agentbus.tokens.used").items():
        kind = dict(attributes)["gen_ai.token.type"]
        counted[kind] = counted.get(kind, 0) + tokens
    assert sum(seen.metric("agentbus.llm.calls").values()) == total.calls
    assert (counted.get("input", 0), counted.get("output", 0)) == (total.input, total.output)
    tools = sum(isinstance(event, ToolCall) for event in seen.events)
    return Totals(total.calls, total.input, total.output, total.cached, tools)


def dangling(*spans: ReadableSpan) -> list[str]:
    """The spans whose parent nobody exports."""
    ids = {span.context.span_id for span in spans if span.context is not None}
    return [span.name for span in spans if span.parent is not None and span.parent.span_id not in ids]


def agents(seen: Captured) -> list[str]:
    return sorted(str(event.agent) for event in seen.events if isinstance(event, AgentStart))


def observed(name: str, *, adapter: bool) -> AbstractContextManager[Any]:
    return adapters.instrument(name) if adapter else nullcontext()


def assert_whole(app: Application, seen: Captured) -> None:
    """Everything has one end, and all spans are there."""
    assert_balanced(seen)
    assert dangling(*app.spans, *seen.spans) == []
    assert reading.table._open == {}


# -- the known offenders -----------------------------------------------------------------------------------------------


@OFF_AND_ON
def test_strands_own_spans_repeat_the_usage_on_each_run(
    app: Application, seen: Captured, monkeypatch: pytest.MonkeyPatch, adapter: bool
) -> None:
    """Who sums them up has 60 tokens for a true 30."""
    tracing = pytest.importorskip("strands.telemetry.tracer")
    monkeypatch.setattr(tracing, "_tracer_instance", None)
    with observed("strands", adapter=adapter):
        assert "Tea goes with rain." in run(program("strands").run)
    assert totals(seen) == PLANNED
    assert agents(seen) == ["planner", "researcher", "researcher"]
    assert_whole(app, seen)
    repeated = [dict(span.attributes or {}).get("gen_ai.usage.input_tokens", 0) for span in app.spans]
    assert sum(tokens for tokens in repeated if isinstance(tokens, int)) == 2 * PLANNED.input


@OFF_AND_ON
def test_strands_answer_that_is_left_early_has_an_end(
    app: Application, seen: Captured, monkeypatch: pytest.MonkeyPatch, adapter: bool
) -> None:
    tracing = pytest.importorskip("strands.telemetry.tracer")
    monkeypatch.setattr(tracing, "_tracer_instance", None)
    with observed("strands", adapter=adapter):
        run(program("strands").tell)
    assert agents(seen) == ["teller"]
    assert seen.bus.summary().agents[0].runs == {"cancelled": 1}
    reading.table.forget()  # Strands never ends the inner ones, and keeps them


@OFF_AND_ON
def test_openinference_of_the_openai_agents_sdk(app: Application, seen: Captured, adapter: bool) -> None:
    """Its task and turn spans carry what their calls do: who sums them up has 110 tokens for a true 30."""
    instrumentor = pytest.importorskip("openinference.instrumentation.openai_agents").OpenAIAgentsInstrumentor()
    program_ = program("openai-agents")
    instrumentor.instrument(tracer_provider=app.provider)
    try:
        with observed("openai-agents", adapter=adapter):
            assert run(program_.run) == "Tea goes with rain."
    finally:
        instrumentor.uninstrument()
    found = totals(seen)
    if adapter:
        assert found == PLANNED
        assert agents(seen) == ["planner", "researcher", "researcher"]
    else:
        # The example's own model makes no generation span, so that there is no call to be told of; but the task and
        # turn spans are there, and what they sum up must not be taken for calls.
        assert (found.calls, found.input, found.output) == (0, 0, 0)
    assert_whole(app, seen)


@OFF_AND_ON
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_openinference_of_the_openai_agents_sdk_with_the_sdks_own_models(
    app: Application, seen: Captured, adapter: bool, api: str
) -> None:
    instrumentation = pytest.importorskip("openinference.instrumentation.openai_agents")
    from . import fake_openai

    example = program("openai-agents")
    instrumentor = instrumentation.OpenAIAgentsInstrumentor()
    instrumentor.instrument(tracer_provider=app.provider)
    try:
        with observed("openai-agents", adapter=adapter):
            answered = asked_of(example, getattr(fake_openai, f"{api}_model"))
    finally:
        instrumentor.uninstrument()
    assert answered == "Hello."
    found = totals(seen)
    cached = 0 if api == "chat" and not adapter else 4  # of which the SDK's own spans say nothing there
    assert (found.calls, found.input, found.output, found.cached) == (1, 20, 10, cached)
    assert_whole(app, seen)


def asked_of(example: Any, model: Callable[..., Any]) -> str:
    """One question to an agent of the OpenAI SDK with this model."""
    from agents import Agent, Runner
    from openai.types.responses import ResponseOutputMessage, ResponseOutputText

    text = ResponseOutputText(text="Hello.", type="output_text", annotations=[])
    message = ResponseOutputMessage(id="m", content=[text], role="assistant", status="completed", type="message")
    agent = Agent(name="greeter", model=model("gpt-5-mini", (20, 10, 4), {0: [message]}))
    return str(asyncio.run(Runner.run(agent, "Hello?")).final_output)


@OFF_AND_ON
def test_openinference_of_langchain_says_everything_at_the_end(app: Application, seen: Captured, adapter: bool) -> None:
    instrumentor = pytest.importorskip("openinference.instrumentation.langchain").LangChainInstrumentor()
    instrumentor.instrument(tracer_provider=app.provider)
    try:
        with observed("langchain", adapter=adapter):
            assert run(program("langchain").run) == "Tea goes with rain."
    finally:
        instrumentor.uninstrument()
    assert totals(seen) == PLANNED
    assert agents(seen) == (["planner", "researcher", "researcher"] if adapter else ["planner"])
    assert len({event.root_invocation_id for event in seen.events}) == 1
    assert_whole(app, seen)


@OFF_AND_ON
def test_agent_frameworks_own_spans(app: Application, seen: Captured, adapter: bool) -> None:
    pytest.importorskip("agent_framework")
    with observed("agent-framework", adapter=adapter):
        assert run(program("agent-framework").run) == "Tea goes with rain."
    assert totals(seen) == PLANNED
    assert agents(seen) == ["planner", "researcher", "researcher"]
    assert_whole(app, seen)


def test_llama_index_tells_of_one_call_at_several_ends(app: Application, seen: Captured) -> None:
    pytest.importorskip("llama_index.core")
    with adapters.instrument("llama-index"):
        assert run(program("llama-index").run) == "Tea goes with rain."
    found = totals(seen)
    assert (found.calls, found.input, found.output) == (PLANNED.calls, PLANNED.input, PLANNED.output)


@OFF_AND_ON
def test_the_adks_own_spans(app: Application, seen: Captured, adapter: bool) -> None:
    """Its runs come as a workflow and an agent each, its parallel tool calls with a merged one beside them."""
    pytest.importorskip("google.adk")
    with observed("google-adk", adapter=adapter):
        assert run(program("google-adk").run) == "Tea goes with rain."
    assert totals(seen) == PLANNED
    assert agents(seen) == ["planner", "researcher", "researcher"]
    assert_whole(app, seen)


# -- frameworks and the clients of models at once ----------------------------------------------------------------------


class Logged(NamedTuple):
    """A program under Logfire."""

    logfire: Any
    app: Application


@pytest.fixture
def logged(app: Application, monkeypatch: pytest.MonkeyPatch) -> Logged:
    """Logfire, as an application sets it up, without its backend."""
    logfire = pytest.importorskip("logfire")
    pydantic_ai = pytest.importorskip("pydantic_ai")
    monkeypatch.setattr(pydantic_ai.Agent, "_instrument_default", pydantic_ai.Agent._instrument_default)
    processors = [SimpleSpanProcessor(app.exporter), app.processor]
    made = logfire.configure(
        local=True, send_to_logfire=False, console=False, metrics=False, additional_span_processors=processors
    )
    return Logged(made, app)


def planned(client: Any) -> str:
    """A planner of pydantic-ai with one tool, asking the OpenAI client."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    agent = Agent(OpenAIChatModel("gpt-5-mini", provider=OpenAIProvider(openai_client=client)), name="planner")

    @agent.tool_plain
    def research(topic: str) -> str:
        return f"All about {topic}."

    return str(asyncio.run(agent.run("Plan.")).output)


def client() -> Any:
    """OpenAI's client, with two answers of 10 and 5 tokens, and no network."""
    from . import fake_openai

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        again = any(message["role"] == "tool" for message in request["messages"])
        function = {"name": "research", "arguments": '{"topic": "tea"}'}
        asked = {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]}
        return {
            "id": f"chatcmpl-{'2' if again else '1'}",
            "object": "chat.completion",
            "created": 0,
            "model": "gpt-5-mini",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop" if again else "tool_calls",
                    "message": {"role": "assistant", **({"content": "Tea."} if again else asked)},
                }
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }

    return fake_openai.client(answer)


@pytest.mark.parametrize(
    ("adapter", "native", "provider"),
    [tellers for tellers in itertools.product([False, True], repeat=3) if any(tellers)],
    ids=lambda told: "told" if told else "not",
)
def test_pydantic_ai_under_logfire_and_the_openai_client_under_it_too(
    logged: Logged, seen: Captured, adapter: bool, native: bool, provider: bool
) -> None:
    openai = client()
    if native:
        logged.logfire.instrument_pydantic_ai()
    clients = logged.logfire.instrument_openai(openai) if provider else nullcontext()
    with clients, observed("pydantic-ai", adapter=adapter):
        assert planned(openai) == "Tea."
    found = totals(seen)
    assert (found.calls, found.input, found.output) == (2, 20, 10)
    assert found.tools == (1 if adapter or native else 0)
    assert agents(seen) == (["planner"] if adapter or native else [])
    assert seen.bus.summary().total.cost == pytest.approx(2.5e-5)
    assert_whole(logged.app, seen)


@OFF_AND_ON
def test_the_openai_agents_sdk_with_the_openai_client_under_logfire(
    logged: Logged, seen: Captured, adapter: bool
) -> None:
    pytest.importorskip("agents")
    from . import fake_openai

    made = fake_openai.client

    def instrumented(answer: Any, **options: Any) -> Any:
        found = made(answer, **options)
        logged.logfire.instrument_openai(found)
        return found

    fake_openai.client = instrumented  # type: ignore[assignment]  # a client like any other
    try:
        with observed("openai-agents", adapter=adapter):
            assert asked_of(program("openai-agents"), fake_openai.chat_model) == "Hello."
    finally:
        fake_openai.client = made
    found = totals(seen)
    assert (found.calls, found.input, found.output) == (1, 20, 10)
    assert seen.bus.summary().total.cost is not None
    assert_whole(logged.app, seen)


@pytest.mark.parametrize("leave", [False, True], ids=["to its end", "left early"])
def test_a_streamed_answer_that_logfire_tells_in_two_spans_is_one_call(
    logged: Logged, seen: Captured, leave: bool
) -> None:
    from . import fake_openai

    chunks = [
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "gpt-5-mini",
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}],
        }
        for word in ("Once ", "upon ")
    ]
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    openai = fake_openai.client(lambda _: [*chunks, {**chunks[0], "choices": [], "usage": usage}])

    async def ask() -> None:
        options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        stream = await openai.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": "Tell."}], **options
        )
        async for _ in stream:
            if leave:
                await stream.close()
                break

    with logged.logfire.instrument_openai(openai):
        asyncio.run(ask())
    found = totals(seen)
    assert (found.calls, found.input, found.output) == ((1, 0, 0) if leave else (1, 10, 5))
    assert dangling(*logged.app.spans) == []
