"""The OpenAI Agents SDK: its runs as they are seen, with the models of its own and with a program's own."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime as dt
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import agents
import openai
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    RunHooks,
    Runner,
    ShellTool,
    SQLiteSession,
    ToolOutputImage,
    function_tool,
    handoff,
    input_guardrail,
    set_trace_processors,
    set_tracing_disabled,
    trace,
)
from agents.tracing import ResponseSpanData, TracingProcessor, get_trace_provider, set_trace_provider
from openai.types.responses import Response, ResponseFunctionShellToolCall, ResponseUsage
from openai.types.responses.response_function_shell_tool_call import Action as ShellAction
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import TracerProvider

import otel_agentbus as agentbus
from otel_agentbus import Budget, BudgetExceeded, adapters, testing
from otel_agentbus.adapters import openai_agents
from otel_agentbus.adapters.losses import losses
from otel_agentbus.adapters.openai_agents import mapping, messages
from otel_agentbus.adapters.openai_agents import spans as observing
from otel_agentbus.adapters.openai_agents.runs import Run, current_run
from otel_agentbus.events import AgentEnd, AgentStart, DomainEvent, LlmRequest, LlmResponse, ToolCall, ToolCallStart

from . import fake_openai
from .shape import assert_outline, outline, program

TREE = (Path(__file__).parent / "trees" / "openai_agents.txt").read_text("utf-8")
PLANNED = TREE.partition("invoke_agent teller")[0]


@pytest.fixture(autouse=True)
def nothing_is_uploaded_or_lost() -> Iterator[None]:
    set_trace_processors([])
    losses.counts.clear()
    yield
    assert not losses.counts
    assert len(openai_agents._observer.blocks) == 0
    assert not any(vars(openai_agents._observer)[kept] for kept in ("_traces", "_calls", "_answering", "_tools"))
    assert not any(vars(openai_agents._observer)[kept] for kept in ("_handled", "_raised"))


@pytest.fixture(params=["own", "chat", "responses"])
def example(request: pytest.FixtureRequest) -> ModuleType:
    """The example, with its own model, and with each of the SDK's over a transport without a network."""
    module = program("openai-agents")
    make = {"own": None, "chat": fake_openai.chat_model, "responses": fake_openai.responses_model}[request.param]
    if make is not None:
        for agent in (module.planner, module.researcher, module.teller):
            fake = agent.model
            agent.model = make(fake.model, fake.usage, fake.script)
    return module


@pytest.fixture
def fakes() -> ModuleType:
    """The example, for its fake model."""
    return program("openai-agents")


def model(fakes: ModuleType, name: str, script: dict[int, list[Any]], usage: tuple[int, int, int] = (10, 2, 0)) -> Any:
    return fakes.FakeModel(name, usage, script)


def of(seen: testing.Captured, *kinds: type) -> list[Any]:
    return [event for event in seen.events if isinstance(event, kinds)]


def total(seen: testing.Captured) -> tuple[int, int, int]:
    row = seen.bus.summary().total
    return row.input, row.output, row.calls


async def told(example: ModuleType) -> str:
    first: str = await example.tell()
    await over()
    return first


async def over() -> None:
    """What was cancelled has ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=5)


# -- the program -------------------------------------------------------------------------------------------------------


async def test_the_program_is_one_tree_for_each_run_whatever_its_models(
    seen: testing.Captured, example: ModuleType
) -> None:
    assert await example.run() == "Tea goes with rain."
    assert await told(example) == "Tea"

    assert_outline(seen.spans, TREE)


async def test_each_model_call_is_counted_once(seen: testing.Captured, example: ModuleType) -> None:
    await example.run()

    assert total(seen) == (340, 40, 5)
    used = {(dict(key)["gen_ai.request.model"], dict(key)["gen_ai.token.type"]): value
            for key, value in seen.metric("agentbus.tokens.used").items()}  # fmt: skip
    assert used[("fake-planner", "input")] == 300
    assert used[("fake-planner", "output")] == 30
    assert used[("fake-researcher", "input")] == 40
    assert used[("fake-researcher", "output")] == 10
    assert seen.bus.summary().total.cached == 120


async def test_what_is_seen_of_a_call_of_the_responses_api(seen: testing.Captured, fakes: ModuleType) -> None:
    agent = Agent(
        name="asker",
        instructions="Be brief.",
        model=fake_openai.responses_model("gpt-x", (100, 10, 40), {0: [fakes.says("Tea.")]}),
        model_settings=ModelSettings(temperature=0.5, max_tokens=99, top_p=0.9),
    )
    await Runner.run(agent, "What?")

    request, response = of(seen, LlmRequest)[0], of(seen, LlmResponse)[0]
    assert (request.model_provider, request.model, request.messages_count, request.stream) == (
        "openai",
        "gpt-x",
        1,
        None,
    )
    assert request.parameters == {"temperature": 0.5, "max_tokens": 99, "top_p": 0.9}
    assert request.messages == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "What?"}]},
    ]
    said = {key: getattr(response, key) for key in (
        "success", "outcome", "input_tokens", "output_tokens", "cache_read_input_tokens", "reasoning_output_tokens",
        "response_model", "response_id", "finish_reasons", "service_tier", "messages")}  # fmt: skip
    assert said == {
        "success": True,
        "outcome": "ok",
        "input_tokens": 100,
        "output_tokens": 10,
        "cache_read_input_tokens": 40,
        "reasoning_output_tokens": 1,
        "response_model": "gpt-x-2026",
        "response_id": "resp-1",
        "finish_reasons": ["stop"],
        "service_tier": "default",
        "messages": [
            {"role": "assistant", "parts": [{"type": "text", "content": "Tea."}], "finish_reason": "stop"},
        ],
    }


async def test_what_is_seen_of_a_chat_completion(seen: testing.Captured, fakes: ModuleType) -> None:
    asks = {0: [fakes.calls("call-1", "look", where="here")], 1: [fakes.says("Tea.")]}
    looker = Agent(
        name="looker",
        model=fake_openai.chat_model("m", (100, 10, 40), asks, base_url="https://api.deepseek.com/v1"),
        tools=[function_tool(lambda where: where, name_override="look", description_override="Look.")],
    )
    await Runner.run(looker, "What?")

    first = of(seen, LlmResponse)[0]
    assert {request.model_provider for request in of(seen, LlmRequest)} == {"deepseek"}
    assert (first.input_tokens, first.output_tokens, first.cache_read_input_tokens) == (100, 10, 40)
    assert first.reasoning_output_tokens == 1
    assert first.finish_reasons == ["tool_calls"]
    call = {"type": "tool_call", "id": "call-1", "name": "look", "arguments": {"where": "here"}}
    assert first.messages == [{"role": "assistant", "parts": [call]}]


async def test_an_agent_and_its_tool_calls_bring_what_they_were_given(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    await fakes.run()

    began, ended = of(seen, AgentStart)[0], of(seen, AgentEnd)[-1]
    assert (began.agent, began.model, began.instructions) == ("planner", "fake-planner", "Plan, research, publish.")
    assert began.input == "What goes with tea?"
    assert ended.output == "Tea goes with rain."
    starts = {(e.tool, e.tool_call_id): e.arguments for e in of(seen, ToolCallStart)}
    assert starts == {
        ("research", "call-1"): {"topic": "tea"},
        ("research", "call-2"): {"topic": "rain"},
        ("publish", "call-3"): {"text": "Tea goes with rain."},
    }
    failed = next(e for e in of(seen, ToolCall) if e.tool == "publish")
    assert (failed.success, failed.error_type, failed.error_message) == (False, "ConnectionError", "no such channel")


async def test_a_streamed_call_measures_its_first_chunk(seen: testing.Captured, example: ModuleType) -> None:
    result = Runner.run_streamed(example.teller, "Tell me.")
    async for _ in result.stream_events():
        assert agentbus.current() is None
        assert not otel_trace.get_current_span().get_span_context().is_valid

    request, response = of(seen, LlmRequest)[0], of(seen, LlmResponse)[0]
    assert request.stream is True
    assert 0 < response.time_to_first_chunk <= response.duration
    assert (response.outcome, response.input_tokens, response.output_tokens) == ("ok", 30, 6)
    assert_outline(seen.spans, "invoke_agent teller\n└─ chat fake-teller · 30+6")


# -- the same without us -----------------------------------------------------------------------------------------------

LABEL: contextvars.ContextVar[str] = contextvars.ContextVar("label", default="none")


class Hooks(RunHooks[Any]):
    """A program's own hooks, which note when they are called."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.task = asyncio.current_task()

    async def on_llm_start(self, *args: Any) -> None:
        self.log.append(("llm starts", LABEL.get(), asyncio.current_task() is self.task))

    async def on_llm_end(self, *args: Any) -> None:
        self.log.append("llm ends")

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        self.log.append(f"{agent.name} starts")

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        self.log.append(f"{agent.name} ends: {output}")

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self.log.append(f"{tool.name} starts")

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        self.log.append(f"{tool.name} ends: {result}")

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        self.log.append(f"{from_agent.name} to {to_agent.name}")


async def behaviour(fakes: ModuleType) -> list[Any]:
    """All that a program can tell of itself: results, exceptions, the order of side effects, contexts and tasks."""
    log: list[Any] = []

    @function_tool
    async def slow(topic: str) -> str:
        """Slow."""
        log.append(("slow", topic, LABEL.get()))
        LABEL.set(topic)
        await asyncio.sleep(0)
        return topic

    @function_tool
    def fails() -> str:
        """Fails."""
        log.append(("fails", LABEL.get(), threading.current_thread() is threading.main_thread()))
        raise ValueError("no")

    script = {0: [fakes.calls("a", "slow", topic="x"), fakes.calls("b", "slow", topic="y")],
              2: [fakes.calls("c", "fails")], 3: [fakes.says("done")]}  # fmt: skip
    worker = Agent(name="worker", model=model(fakes, "m", script), tools=[slow, fails])
    LABEL.set("outer")
    log.append((await Runner.run(worker, "Go", hooks=Hooks(log))).final_output)
    log.append(LABEL.get())
    streamed = Runner.run_streamed(worker, "Go", hooks=Hooks(log))
    log.extend([event.type async for event in streamed.stream_events() if event.type == "run_item_stream_event"])
    log.append(streamed.final_output)
    for failing in (Agent(name="broken", model=model(fakes, "m", {})), "no agent"):
        try:
            await Runner.run(failing, "Go", hooks=Hooks(log))
        except BaseException as error:
            log.append((type(error).__name__, str(error)))
    log.append(LABEL.get())
    return log


async def test_a_program_behaves_as_it_does_without_us(fakes: ModuleType) -> None:
    async def apart() -> list[Any]:
        return await asyncio.create_task(behaviour(fakes), context=contextvars.Context())

    without = await apart()
    with adapters.instrument("openai-agents"), testing.capture():
        observed = await apart()
    with adapters.instrument("openai-agents"):  # and no bus
        unheard = await apart()

    assert observed == without
    assert unheard == without
    assert await apart() == without


def test_synchronous_runs_and_runs_in_threads_are_trees_of_their_own(seen: testing.Captured, fakes: ModuleType) -> None:
    def ask(number: int) -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        agent = Agent(name=f"asker {number}", model=model(fakes, "m", {0: [fakes.says("yes")]}))
        assert Runner.run_sync(agent, "Yes?").final_output == "yes"
        assert agentbus.current() is None

    ask(0)
    threads = [threading.Thread(target=ask, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert_outline(seen.spans, "".join(f"invoke_agent asker {n}\n└─ chat m · 10+2\n" for n in range(4)))


async def test_parallel_runs_stay_apart(seen: testing.Captured, example: ModuleType) -> None:
    await asyncio.gather(*(example.run() for _ in range(5)))

    assert_outline(seen.spans, PLANNED * 5)
    assert total(seen) == (1700, 200, 25)


# -- nesting -----------------------------------------------------------------------------------------------------------


async def test_what_is_around_a_run_and_what_its_tools_do_nest_with_it(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    provider = TracerProvider()
    spans: dict[str, Any] = {}

    @function_tool
    async def work() -> str:
        """Work."""
        with agentbus.agent("inner"), provider.get_tracer("test").start_as_current_span("GET") as span:
            spans["inside"] = span
        with provider.get_tracer("test").start_as_current_span("POST") as span:
            spans["beside"] = span
        await asyncio.to_thread(in_a_thread)
        return "done"

    def in_a_thread() -> None:
        with agentbus.agent("threaded"):
            pass

    agent = Agent(
        name="worker",
        model=model(fakes, "m", {0: [fakes.calls("c", "work")], 1: [fakes.says("ok")]}),
        tools=[work],
    )
    with agentbus.agent("outer"):
        await Runner.run(agent, "Go")
        assert (run := agentbus.current()) is not None
        assert run.agent == "outer"
        assert current_run.get() is None

    assert_outline(
        seen.spans,
        """
        invoke_agent outer
        └─ invoke_agent worker
           ├─ chat m · 10+2
           ├─ chat m · 10+2
           └─ execute_tool work
              ├─ invoke_agent inner
              └─ invoke_agent threaded
        """,
    )
    assert spans["inside"].parent.span_id == seen.span("invoke_agent inner").context.span_id
    assert spans["beside"].parent.span_id == seen.span("execute_tool work").context.span_id
    assert spans["beside"].context.trace_id == seen.span("invoke_agent outer").context.trace_id


@pytest.mark.parametrize("make", [fake_openai.chat_model, fake_openai.responses_model])
async def test_the_request_of_a_model_of_the_sdk_nests_under_its_call(
    seen: testing.Captured, fakes: ModuleType, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    current: list[Any] = []
    sends = fake_openai.http.AsyncClient.send

    async def send(*args: Any, **named: Any) -> Any:
        current.append(otel_trace.get_current_span().get_span_context().span_id)
        return await sends(*args, **named)

    monkeypatch.setattr(fake_openai.http.AsyncClient, "send", send)
    agent = Agent(name="asker", model=make("m", (10, 2, 0), {0: [fakes.says("yes")]}))
    await Runner.run(agent, "Go")
    async for _ in Runner.run_streamed(agent, "Go").stream_events():
        pass

    assert current == [span.context.span_id for span in seen.spans if span.name == "chat m"]


async def test_an_agent_as_a_tool_is_below_its_tool(seen: testing.Captured, fakes: ModuleType) -> None:
    inner = Agent(name="inner", model=model(fakes, "small", {0: [fakes.says("so")]}))
    outer = Agent(
        name="outer",
        model=model(fakes, "large", {0: [fakes.calls("c", "ask_inner", input="?")], 1: [fakes.says("ok")]}),
        tools=[inner.as_tool(tool_name="ask_inner", tool_description="Ask.")],
    )
    await Runner.run(outer, "Go")

    assert_outline(
        seen.spans,
        """
        invoke_agent outer
        ├─ chat large · 10+2
        ├─ chat large · 10+2
        └─ execute_tool ask_inner
           └─ invoke_agent inner
              └─ chat small · 10+2
        """,
    )
    assert total(seen) == (30, 6, 3)


async def test_an_agent_that_is_handed_over_to_is_below_the_first_and_beside_the_others(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    last = Agent(name="last", model=model(fakes, "m3", {2: [fakes.says("done")]}))
    middle = Agent(
        name="middle", model=model(fakes, "m2", {1: [fakes.calls("b", "transfer_to_last")]}), handoffs=[last]
    )
    first = Agent(name="first", model=model(fakes, "m1", {0: [fakes.calls("a", "transfer_to_middle")]}),
                  handoffs=[handoff(middle)])  # fmt: skip
    result = await Runner.run(first, "Go")

    assert result.final_output == "done"
    assert_outline(
        seen.spans,
        """
        invoke_agent first
        ├─ chat m1 · 10+2
        ├─ invoke_agent last
        │  └─ chat m3 · 10+2
        └─ invoke_agent middle
           └─ chat m2 · 10+2
        """,
    )
    told = [(e.agent, e.name, e.data) for e in of(seen, DomainEvent)]
    assert told == [
        ("first", "agent.handoff", {"from": "first", "to": "middle"}),
        ("middle", "agent.handoff", {"from": "middle", "to": "last"}),
    ]
    assert {e.agent: e.model for e in of(seen, AgentStart)} == {"first": "m1", "middle": "m2", "last": "m3"}
    assert of(seen, AgentEnd)[-1].agent == "first"


async def test_an_agent_that_is_handed_back_to_works_a_second_time_below_its_first(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    script = {0: [fakes.calls("a", "transfer_to_second")], 2: [fakes.says("done")]}
    first = Agent(name="first", model=model(fakes, "m1", script))
    second = Agent(
        name="second", model=model(fakes, "m2", {1: [fakes.calls("b", "transfer_to_first")]}), handoffs=[first]
    )
    first.handoffs.append(second)
    await Runner.run(first, "Go")

    assert_outline(
        seen.spans,
        """
        invoke_agent first
        ├─ chat m1 · 10+2
        ├─ invoke_agent first
        │  └─ chat m1 · 10+2
        └─ invoke_agent second
           └─ chat m2 · 10+2
        """,
    )


def test_an_id_of_a_tool_call_that_a_model_gives_again_is_numbered() -> None:
    run = Run({}, streamed=False)
    assert [run.tool_call_id(id) for id in ("a", "b", "a", "", None, "a")] == ["a", "b", "a#2", None, None, "a#3"]


async def test_a_run_without_spans_of_its_own_and_of_its_turns_is_seen_agent_by_agent(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    if "include_task_and_turn_spans" not in agents.tracing.TracingConfig.__annotations__:
        pytest.skip("this version always makes them")
    last = Agent(name="last", model=model(fakes, "m2", {1: [fakes.says("done")]}))
    first = Agent(name="first", model=model(fakes, "m1", {0: [fakes.calls("a", "transfer_to_last")]}), handoffs=[last])
    await Runner.run(first, "Go", run_config=RunConfig(tracing={"include_task_and_turn_spans": False}))

    assert_outline(seen.spans, "invoke_agent first\n└─ chat m1 · 10+2\ninvoke_agent last\n└─ chat m2 · 10+2")


async def test_a_tool_that_is_no_function_is_a_tool_call_as_well(seen: testing.Captured, fakes: ModuleType) -> None:
    call = ResponseFunctionShellToolCall.model_construct(
        id="s", call_id="call-1", type="shell_call", status="completed", action=ShellAction(commands=["ls"])
    )

    def output(self: Any, input: Any) -> list[Any]:
        seen_results = [item for item in input if isinstance(item, dict) and item.get("type") == "shell_call_output"]
        return [fakes.says("ok")] if seen_results else [call]

    shell_model = type("ShellModel", (fakes.FakeModel,), {"output": output})("m", (10, 2, 0), {})
    agent = Agent(name="worker", model=shell_model, tools=[ShellTool(executor=lambda request: "a file")])
    await Runner.run(agent, "Go")

    assert_outline(seen.spans, "invoke_agent worker\n├─ chat m · 10+2\n├─ chat m · 10+2\n└─ execute_tool shell")
    assert of(seen, ToolCall)[0].result == "a file"


async def test_runs_in_a_trace_of_the_program_have_its_group_as_their_conversation(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    agent = Agent(name="asker", model=model(fakes, "m", {0: [fakes.says("yes")]}))
    with trace("support", group_id="ticket 7") as grouped:
        await Runner.run(agent, "Go")
        await Runner.run(agent, "Go on")
    await Runner.run(agent, "Go", session=SQLiteSession("session 8"))
    await Runner.run(agent, "Go", run_config=RunConfig(group_id="group 9"))
    await Runner.run(agent, "Go")

    starts = of(seen, AgentStart)
    assert [e.conversation_id for e in starts] == ["ticket 7", "ticket 7", "session 8", "group 9", None]
    assert [e.attributes.get("gen_ai.workflow.name") for e in starts] == ["support", "support", None, None, None]
    assert {e.attributes["openai_agents.trace_id"] for e in starts[:2]} == {grouped.trace_id}


async def test_a_guardrail_is_told_and_its_agent_is_below_the_guarded_one(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    judge = Agent(name="judge", model=model(fakes, "judging", {0: [fakes.says("no")]}))

    @input_guardrail
    async def polite(context: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        said = (await Runner.run(judge, input)).final_output
        return GuardrailFunctionOutput(output_info=said, tripwire_triggered=said == "no")

    polite.run_in_parallel = False
    guarded = Agent(name="guarded", model=model(fakes, "m", {0: [fakes.says("yes")]}), input_guardrails=[polite])
    with pytest.raises(InputGuardrailTripwireTriggered):
        await Runner.run(guarded, "Go")
    with pytest.raises(InputGuardrailTripwireTriggered):
        async for _ in Runner.run_streamed(guarded, "Go").stream_events():
            pass
    await over()

    tree = """invoke_agent guarded · !agents.exceptions.InputGuardrailTripwireTriggered
└─ invoke_agent judge
   └─ chat judging · 10+2
"""
    assert_outline(seen.spans, tree * 2)
    assert [(e.name, e.agent, e.data) for e in of(seen, DomainEvent)] == [
        ("agent.guardrail", "guarded", {"name": "polite", "triggered": True})
    ] * 2


# -- how runs end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("make", [OpenAIChatCompletionsModel, OpenAIResponsesModel])
async def test_a_model_that_fails_is_an_error_of_its_call_and_of_its_agent(
    seen: testing.Captured, make: Callable[..., Any], streamed: bool
) -> None:
    api = fake_openai.client(lambda request: 500)
    agent = Agent(name="asker", model=make("m", api))
    with pytest.raises(openai.InternalServerError):
        if streamed:
            async for _ in Runner.run_streamed(agent, "Go").stream_events():
                pass
        else:
            await Runner.run(agent, "Go")
    await over()

    assert_outline(
        seen.spans,
        "invoke_agent asker · !openai.InternalServerError\n└─ chat m · !openai.InternalServerError",
    )


async def test_a_stream_that_tells_of_its_failure_is_an_error_with_the_models_words(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    response = fake_openai.response_of("m", (10, 2, 0), [fakes.says("Half an")], status="failed")
    events = fake_openai.response_events(response | {"error": {"code": "server_error", "message": "boom"}})
    events[-1]["type"] = "response.failed"
    agent = Agent(name="asker", model=OpenAIResponsesModel("m", fake_openai.client(lambda request: events)))
    with pytest.raises(agents.ModelBehaviorError):
        async for _ in Runner.run_streamed(agent, "Go").stream_events():
            pass
    await over()

    failed = "!agents.exceptions.ModelBehaviorError"
    assert_outline(seen.spans, f"invoke_agent asker · {failed}\n└─ chat m · {failed}")
    assert "boom" in of(seen, LlmResponse)[0].error_message


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_model_that_takes_too_long_is_an_error_and_not_cancelled(
    seen: testing.Captured, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(ModelSettings(), "timeout"):
        pytest.skip("this version has no time-outs of models")

    async def hang(*args: Any, **named: Any) -> Any:
        await asyncio.Event().wait()

    api = fake_openai.client(lambda request: 500)
    monkeypatch.setattr(api._client, "send", hang)
    settings = ModelSettings(timeout=0.01)
    agent = Agent(name="asker", model=OpenAIResponsesModel("m", api), model_settings=settings)
    with pytest.raises(agents.ModelTimeoutError):
        if streamed:
            async for _ in Runner.run_streamed(agent, "Go").stream_events():
                pass
        else:
            await Runner.run(agent, "Go")
    await over()

    late = "!agents.exceptions.ModelTimeoutError"
    assert_outline(seen.spans, f"invoke_agent asker · {late}\n└─ chat m · {late}")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_model_of_the_programs_own_that_fails_is_an_error_as_well(
    seen: testing.Captured, fakes: ModuleType, streamed: bool
) -> None:
    agent = Agent(name="asker", model=model(fakes, "m", {}))
    with pytest.raises(KeyError):
        if streamed:
            async for _ in Runner.run_streamed(agent, "Go").stream_events():
                pass
        else:
            await Runner.run(agent, "Go")
    await over()

    assert_outline(seen.spans, "invoke_agent asker · !KeyError\n└─ chat m · !KeyError")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_run_with_too_many_turns_is_an_error(seen: testing.Captured, fakes: ModuleType, streamed: bool) -> None:
    agent = Agent(
        name="loops",
        model=model(fakes, "m", {n: [fakes.calls(f"c{n}", "more")] for n in range(9)}),
        tools=[function_tool(lambda: "more", name_override="more", description_override="More.")],
    )
    with pytest.raises(MaxTurnsExceeded):
        if streamed:
            async for _ in Runner.run_streamed(agent, "Go", max_turns=2).stream_events():
                pass
        else:
            await Runner.run(agent, "Go", max_turns=2)
    await over()

    assert outline(seen.spans).splitlines()[0] == "invoke_agent loops · !agents.exceptions.MaxTurnsExceeded"
    assert total(seen) == (20, 4, 2)


@pytest.mark.parametrize("streamed", [False, True])
async def test_too_many_turns_that_the_program_handles_are_no_error(
    seen: testing.Captured, fakes: ModuleType, streamed: bool
) -> None:
    agent = Agent(
        name="loops",
        model=model(fakes, "m", {n: [fakes.calls(f"c{n}", "more")] for n in range(9)}),
        tools=[function_tool(lambda: "more", name_override="more", description_override="More.")],
    )
    handlers: Any = {"max_turns": lambda data: "enough"}
    if streamed:
        result: Any = Runner.run_streamed(agent, "Go", max_turns=2, error_handlers=handlers)
        async for _ in result.stream_events():
            pass
    else:
        result = await Runner.run(agent, "Go", max_turns=2, error_handlers=handlers)

    assert result.final_output == "enough"
    assert outline(seen.spans).splitlines()[0] == "invoke_agent loops"


async def test_a_tool_whose_error_stops_the_run_is_an_error_of_both(seen: testing.Captured, fakes: ModuleType) -> None:
    @function_tool(failure_error_function=None)
    def breaks() -> str:
        """Breaks."""
        raise ConnectionError("gone")

    agent = Agent(name="worker", model=model(fakes, "m", {0: [fakes.calls("c", "breaks")]}), tools=[breaks])
    with pytest.raises(agents.UserError):
        await Runner.run(agent, "Go")

    assert_outline(
        seen.spans,
        """
        invoke_agent worker · !agents.exceptions.UserError
        ├─ chat m · 10+2
        └─ execute_tool breaks · !ConnectionError
        """,
    )


async def test_a_cancelled_run_is_cancelled_and_no_error(seen: testing.Captured, fakes: ModuleType) -> None:
    started = asyncio.Event()

    @function_tool
    async def waits() -> str:
        """Waits."""
        started.set()
        await asyncio.Event().wait()
        return ""

    agent = Agent(name="worker", model=model(fakes, "m", {0: [fakes.calls("c", "waits")]}), tools=[waits])
    task = asyncio.create_task(Runner.run(agent, "Go"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await over()

    assert_outline(
        seen.spans,
        """
        invoke_agent worker · ~cancelled
        ├─ chat m · 10+2
        └─ execute_tool waits · ~cancelled
        """,
    )


async def test_a_stream_that_nobody_hears_to_its_end_goes_on_and_is_whole(
    seen: testing.Captured, example: ModuleType
) -> None:
    result = Runner.run_streamed(example.teller, "Tell me.")
    async for _ in result.stream_events():
        break
    await over()

    assert_outline(seen.spans, "invoke_agent teller\n└─ chat fake-teller · 30+6")


async def test_a_stream_whose_task_is_cancelled_is_cancelled(seen: testing.Captured, fakes: ModuleType) -> None:
    async def hanging(self: Any, *args: Any, **named: Any) -> AsyncIterator[Any]:
        async for chunk in fakes.FakeModel.stream_response(self, *args, **named):
            yield chunk
            await asyncio.Event().wait()

    hangs = type("Hangs", (fakes.FakeModel,), {"stream_response": hanging})
    agent = Agent(name="teller", model=hangs("m", (1, 1, 0), {0: [fakes.says("Tea comes.")]}))
    heard = asyncio.Event()

    async def hear() -> None:
        async for event in Runner.run_streamed(agent, "Go").stream_events():
            if event.type == "raw_response_event":
                heard.set()

    task = asyncio.create_task(hear())
    await heard.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await over()

    assert_outline(seen.spans, "invoke_agent teller · ~cancelled\n└─ chat m · ~cancelled")
    assert of(seen, LlmResponse)[0].time_to_first_chunk > 0


async def test_each_try_of_a_model_call_is_a_call(seen: testing.Captured, fakes: ModuleType) -> None:
    from agents import ModelRetrySettings, retry_policies

    answers: list[Any] = [503, fake_openai.response_of("m", (10, 2, 0), [fakes.says("yes")])]
    agent = Agent(
        name="asker",
        model=OpenAIResponsesModel("m", fake_openai.client(lambda request: answers.pop(0))),
        model_settings=ModelSettings(
            retry=ModelRetrySettings(
                max_retries=1, backoff={"initial_delay": 0.001}, policy=retry_policies.http_status([503])
            )
        ),
    )
    assert (await Runner.run(agent, "Go")).final_output == "yes"

    assert_outline(
        seen.spans,
        "invoke_agent asker\n├─ chat m · !openai.InternalServerError\n└─ chat m · 10+2",
    )
    assert total(seen) == (10, 2, 2)


async def test_a_call_that_waits_for_an_approval_is_no_error_and_goes_on_later(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    @function_tool(needs_approval=True)
    def pay() -> str:
        """Pay."""
        return "paid"

    agent = Agent(
        name="payer",
        model=model(fakes, "m", {0: [fakes.calls("c", "pay")], 1: [fakes.says("ok")]}),
        tools=[pay],
    )
    result = await Runner.run(agent, "Go")
    state = result.to_state()
    state.approve(result.interruptions[0])
    assert (await Runner.run(agent, state)).final_output == "ok"

    assert_outline(
        seen.spans,
        """
        invoke_agent payer
        ├─ chat m · 10+2
        └─ execute_tool pay
        invoke_agent payer
        ├─ chat m · 10+2
        └─ execute_tool pay · ~cancelled
        """,
    )


async def test_a_run_that_is_begun_while_an_exception_is_handled_is_well(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    try:
        raise ValueError("before")
    except ValueError:
        await fakes.run()

    assert_outline(seen.spans, PLANNED)


async def test_results_and_outputs_that_are_no_text_are_told_as_json_says_them(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    @dataclasses.dataclass
    class Place:
        name: str
        seen: dt.date

    @function_tool
    def look() -> Any:
        """Look."""
        return Place("tower", dt.date(2026, 1, 2))

    @function_tool
    def photograph() -> Any:
        """Photograph."""
        return [ToolOutputImage(image_url="data:image/png;base64,AAAA"), ToolOutputImage(image_url="https://a.test/b")]

    script = {0: [fakes.calls("a", "look"), fakes.calls("b", "photograph")], 2: [fakes.says('{"name": "x"}')]}
    agent = Agent(name="looker", model=model(fakes, "m", script), tools=[look, photograph], output_type=dict[str, str])
    agent.output_type = agents.AgentOutputSchema(dict[str, str], strict_json_schema=False)
    content: Any = [
        {"type": "input_text", "text": "Look"},
        {"type": "input_image", "image_url": "data:image/png;base64,A"},
    ]
    await Runner.run(agent, [{"role": "user", "content": content}])

    parts = [{"type": "text", "content": "Look"}, {"type": "blob", "modality": "image"}]
    assert of(seen, AgentStart)[0].input == [{"role": "user", "parts": parts}]
    assert {e.tool: e.result for e in of(seen, ToolCall)} == {
        "look": {"name": "tower", "seen": "2026-01-02"},
        "photograph": [
            {"type": "blob", "modality": "image"},
            {"type": "uri", "modality": "image", "uri": "https://a.test/b"},
        ],
    }
    assert of(seen, AgentEnd)[0].output == {"name": "x"}


async def test_results_that_json_cannot_say_end_their_calls_all_the_same(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    circle: list[Any] = []
    circle.append(circle)
    results = iter([circle, float("nan"), {"a": [float("inf")]}])

    @function_tool
    def strange() -> Any:
        """Give something strange."""
        return next(results)

    script = {n: [fakes.calls(f"c{n}", "strange")] for n in range(3)} | {3: [fakes.says("ok")]}
    result = await Runner.run(Agent(name="a", model=model(fakes, "m", script), tools=[strange]), "Go")
    assert result.final_output == "ok"
    first, second, third = (call.result for call in of(seen, ToolCall))
    assert (str(first).strip("[]"), second, third) == ("'list'", "nan", {"a": ["inf"]})


# -- budgets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_budget_stops_the_run_at_the_next_model_call(instrumented: Any, streamed: bool) -> None:
    fakes = program("openai-agents")
    with testing.capture(budgets=[Budget("small", tokens=100, on_exceeded="raise")]) as seen:
        with pytest.raises(BudgetExceeded):
            if streamed:
                async for _ in Runner.run_streamed(fakes.planner, "Go").stream_events():
                    pass
            else:
                await fakes.run()
        await over()
        assert outline(seen.spans).splitlines()[:2] == [
            "invoke_agent planner · !otel_agentbus.errors.BudgetExceeded",
            "└─ chat fake-planner · 100+10",
        ]


async def test_a_budget_that_a_sub_agent_uses_up_stops_the_one_that_called_it(instrumented: Any) -> None:
    fakes = program("openai-agents")
    with testing.capture(budgets=[Budget("small", tokens=130, on_exceeded="raise")]) as seen:
        with pytest.raises(BudgetExceeded):
            await fakes.run()

        assert seen.bus.summary().total.input == 140
        assert len(of(seen, AgentStart)) == len(of(seen, AgentEnd)) == 3


# -- switching on and off ----------------------------------------------------------------------------------------------


class Heard(TracingProcessor):
    def __init__(self) -> None:
        self.said: list[str] = []

    def on_trace_start(self, trace: Any) -> None:
        self.said.append(f"+ {trace.name}")

    def on_trace_end(self, trace: Any) -> None:
        self.said.append(f"- {trace.name}")

    def on_span_start(self, span: Any) -> None:
        self.said.append(f"+ {span.span_data.type}")

    def on_span_end(self, span: Any) -> None:
        self.said.append(f"- {span.span_data.type}")

    def shutdown(self) -> None:
        pass

    def force_flush(self) -> None:
        pass


async def test_the_sdks_own_processors_hear_what_they_heard_before(fakes: ModuleType) -> None:
    without, observed = Heard(), Heard()
    agent = Agent(name="asker", model=model(fakes, "m", {0: [fakes.says("yes")]}))
    set_trace_processors([without])
    await Runner.run(agent, "Go")
    set_trace_processors([observed])
    with adapters.instrument("openai-agents"), testing.capture():
        await Runner.run(agent, "Go")

    assert observed.said == without.said


def test_off_leaves_the_sdk_as_it_was_found_and_on_again_observes_again(fakes: ModuleType) -> None:
    found = {name: vars(Runner)[name] for name in ("run", "run_sync", "run_streamed")}
    agent = Agent(name="asker", model=model(fakes, "m", {0: [fakes.says("yes")]}))
    with testing.capture() as seen:
        with adapters.instrument("openai-agents"):
            assert vars(Runner)["run"] is not found["run"]
        assert {name: vars(Runner)[name] for name in found} == found
        asyncio.run(Runner.run(agent, "Go"))
        assert seen.events == []
        with adapters.instrument("openai-agents"):
            asyncio.run(Runner.run(agent, "Go"))
        assert_outline(seen.spans, "invoke_agent asker\n└─ chat m · 10+2")
    processors: Any = get_trace_provider()
    assert sum(p is openai_agents._observer for p in processors._multi_processor._processors) == 1


async def test_a_run_that_has_begun_is_observed_to_its_end_after_off(fakes: ModuleType) -> None:
    with testing.capture() as seen:
        switched_on = adapters.instrument("openai-agents")

        @function_tool
        def off() -> str:
            """Off."""
            switched_on.off()
            return "off"

        agent = Agent(
            name="worker", model=model(fakes, "m", {0: [fakes.calls("c", "off")], 1: [fakes.says("ok")]}), tools=[off]
        )
        await Runner.run(agent, "Go")
        await Runner.run(agent, "Go")

        assert_outline(seen.spans, "invoke_agent worker\n├─ chat m · 10+2\n├─ chat m · 10+2\n└─ execute_tool off")


async def test_a_run_that_had_begun_before_is_left_alone(fakes: ModuleType) -> None:
    @function_tool
    def on() -> str:
        """On."""
        switches.append(adapters.instrument("openai-agents"))
        return "on"

    switches: list[Any] = []
    script = {0: [fakes.calls("c", "on")], 1: [fakes.says("ok")]}
    agent = Agent(name="worker", model=model(fakes, "m", script), tools=[on])
    chat = Agent(name="worker", model=fake_openai.responses_model("m", (1, 1, 0), script), tools=[on])
    with testing.capture() as seen:
        for each in (agent, chat):
            await Runner.run(each, "Go")
            switches.pop().off()
        assert seen.events == []


async def test_a_program_that_sets_its_own_processors_later_goes_on_being_observed(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    set_trace_processors([Heard()])
    await fakes.run()

    assert_outline(seen.spans, PLANNED)


async def test_with_tracing_switched_off_nothing_is_seen_and_one_warning_says_so(
    seen: testing.Captured, fakes: ModuleType, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_agents._observer, "_warned", False)
    agent = Agent(name="asker", model=model(fakes, "m", {0: [fakes.says("yes")]}))
    await Runner.run(agent, "Go", run_config=RunConfig(tracing_disabled=True))
    set_tracing_disabled(True)
    try:
        await Runner.run(agent, "Go")
        async for _ in Runner.run_streamed(agent, "Go").stream_events():
            pass
    finally:
        set_tracing_disabled(False)

    assert seen.events == []
    assert [record.message.partition(",")[0] for record in caplog.records if "otel_agentbus" in record.name] == [
        "Tracing of the Agents SDK is switched off"
    ]


# -- content and faults ------------------------------------------------------------------------------------------------


async def test_no_content_leaves_by_default(instrumented: Any, example: ModuleType) -> None:
    with testing.capture() as seen:
        await example.run()
        said = repr([(span.attributes, span.events, span.status.description) for span in seen.spans])
    for secret in ("Tea goes", "Plan, research", "It is wet", "What goes", "rain"):
        assert secret not in said


async def test_what_the_program_keeps_out_of_its_traces_is_kept_out_of_ours(
    seen: testing.Captured, example: ModuleType
) -> None:
    await Runner.run(example.planner, "What goes with tea?", run_config=RunConfig(trace_include_sensitive_data=False))

    planners = [event for event in seen.events if event.agent == "planner"]
    for secret in ("Tea goes", "Plan, research", "What goes", "It is wet", "no such channel"):
        assert secret not in repr(planners)
    assert {e.error_type for e in of(seen, ToolCall) if e.tool == "publish"} == {"ConnectionError"}
    assert {e.input_tokens for e in of(seen, LlmResponse) if e.agent == "planner"} == {100}


async def test_our_own_faults_never_reach_the_run(
    seen: testing.Captured, example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **named: Any) -> Any:
        raise RuntimeError("ours")

    for name in ("asked", "of_response_span", "of_generation_span", "of_model_response"):
        monkeypatch.setattr(mapping, name, broken)
    for name in ("conversation", "structured"):
        monkeypatch.setattr(messages, name, broken)
    monkeypatch.setattr(observing, "_publish", broken)

    assert await example.run() == "Tea goes with rain."
    assert await told(example) == "Tea"
    await over()
    assert seen.bus.flush()
    assert seen.bus.health()["spans"]["open"] == 0
    assert losses.counts
    losses.counts.clear()


@pytest.mark.parametrize("name", ["answer", "chat_answer", "usage", "calls_tools"])
async def test_what_cannot_be_read_of_an_answer_leaves_nothing_open(
    name: str, seen: testing.Captured, example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("ours")

    monkeypatch.setattr(mapping, name, broken)
    assert await example.run() == "Tea goes with rain."
    assert len(openai_agents._observer.blocks) == 0
    if name in ("answer", "chat_answer"):  # only what was said is lost, not what it has cost
        assert total(seen) == (340, 40, 5)
    losses.counts.clear()


async def test_a_fake_of_a_response_may_lack_anything(seen: testing.Captured, fakes: ModuleType) -> None:
    output = [fakes.says("ok")]
    usage = ResponseUsage.model_construct(input_tokens=10, output_tokens=2, total_tokens=12)
    usage.input_tokens_details = usage.output_tokens_details = None  # type: ignore[assignment]
    bare = Response.model_construct(output=output, usage=usage)
    strange = Response.model_construct(id=7, model=object(), status=object(), output=output, usage=usage)
    for response in (bare, strange):
        data = ResponseSpanData(response)
        assert mapping.of_response_span(data, content=False) == {
            "input_tokens": 10, "output_tokens": 2, "cache_read_input_tokens": None,
            "cache_write_input_tokens": None, "reasoning_output_tokens": None, "response_id": None,
            "response_model": None, "service_tier": None, "finish_reasons": None, "messages": None,
        }  # fmt: skip


ASKED: dict[str, Any] = {
    "system_instructions": None, "input": [{"role": "user", "content": "Go"}], "model_settings": ModelSettings(),
    "tools": [], "output_schema": None, "handoffs": [], "tracing": agents.ModelTracing.ENABLED,
    "previous_response_id": None, "conversation_id": None, "prompt": None,
}  # fmt: skip


async def test_a_model_that_the_program_asks_itself_is_a_call_of_its_own(
    seen: testing.Captured, fakes: ModuleType
) -> None:
    with trace("by hand"):
        for make in (fake_openai.chat_model, fake_openai.responses_model):
            asking = make("m", (10, 2, 0), {0: [fakes.says("yes")]})
            await asking.get_response(**ASKED)
            async for _ in asking.stream_response(**ASKED):
                assert agentbus.current() is None

    assert total(seen) == (40, 8, 4)


@pytest.mark.parametrize("make", [fake_openai.chat_model, fake_openai.responses_model])
async def test_a_stream_that_is_left_after_its_last_chunk_is_whole(
    seen: testing.Captured, fakes: ModuleType, make: Callable[..., Any]
) -> None:
    if version("openai-agents") < "0.24":
        pytest.skip("before, the usage was told when the stream had been read to its end")
    with trace("by hand"):
        stream = make("m", (10, 2, 0), {0: [fakes.says("yes")]}).stream_response(**ASKED)
        async for chunk in stream:
            if chunk.type == "response.completed":
                break
        await stream.aclose()

    assert [(e.outcome, e.input_tokens, e.output_tokens) for e in of(seen, LlmResponse)] == [("ok", 10, 2)]


async def test_another_instrumentation_beside_ours_changes_nothing(seen: testing.Captured, fakes: ModuleType) -> None:
    openinference = pytest.importorskip("openinference.instrumentation.openai_agents")
    foreign = openinference.OpenAIAgentsInstrumentor()
    foreign.instrument(tracer_provider=TracerProvider())
    try:
        assert await fakes.run() == "Tea goes with rain."
    finally:
        foreign.uninstrument()

    assert_outline(seen.spans, PLANNED)
    assert total(seen) == (340, 40, 5)


async def test_logfires_instrumentation_beside_ours_changes_nothing(
    seen: testing.Captured, example: ModuleType
) -> None:
    logfire = pytest.importorskip("logfire")
    found = get_trace_provider()
    foreign = logfire.configure(local=True, send_to_logfire=False, console=False)
    foreign.instrument_openai_agents()
    try:
        assert await example.run() == "Tea goes with rain."
        assert await told(example) == "Tea"
    finally:
        set_trace_provider(found)
        foreign.shutdown()

    assert_outline(seen.spans, TREE)
    assert total(seen)[:2] == (340, 40)
