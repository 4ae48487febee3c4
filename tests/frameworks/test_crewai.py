"""CrewAI observed: the program of the same shape, and what its users do beside it. Run where CrewAI is installed."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import os
import tempfile
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any

# CrewAI's telemetry is on by default, and would ask the network; these are its own documented ways to have it off.
os.environ |= {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_STORAGE_DIR": tempfile.mkdtemp(prefix="crewai-"),
    "CREWAI_TESTING": "true",
    "CREWAI_TRACING_ENABLED": "false",
}

with warnings.catch_warnings():  # importing it warns
    warnings.simplefilter("ignore")
    import crewai  # noqa: F401

import pytest
from crewai import LLM, Agent, BaseLLM, Crew, Task
from crewai.events import crewai_event_bus
from crewai.events.event_bus import CrewAIEventsBus
from crewai.events.types.llm_events import LLMCallCompletedEvent, LLMCallStartedEvent
from crewai.flow.flow import Flow, listen, start
from crewai.hooks import register_after_tool_call_hook, unregister_after_tool_call_hook
from crewai.tools import tool
from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otel_agentbus as agentbus
from otel_agentbus import Budget, BudgetExceeded, adapters, testing
from otel_agentbus.adapters.crewai import Listener, instrument, listening, mapping, messages
from otel_agentbus.adapters.losses import losses
from otel_agentbus.events import AgentEnd, AgentStart

from .shape import assert_outline, outline, program

FAKE = program("crewai")

TREE = """
    invoke_agent planners
    └─ invoke_agent planner
       ├─ chat fake-planner · 100+10
       ├─ chat fake-planner · 100+10
       ├─ chat fake-planner · 100+10
       ├─ execute_tool publish · !ConnectionError
       ├─ execute_tool research
       │  └─ invoke_agent researcher
       │     └─ chat fake-researcher · 20+5
       └─ execute_tool research
          └─ invoke_agent researcher
             └─ chat fake-researcher · 20+5
"""

PLACE: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="nowhere")


@pytest.fixture(autouse=True)
def _nothing_goes_wrong(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing is lost, nothing stays current, nothing stays open."""
    losses.counts.clear()
    before = get_current()
    yield
    assert agentbus.current() is None
    assert trace.get_current_span(get_current()) is trace.get_current_span(before)
    assert len(instrument_state().scopes) == 0
    if "broken" not in request.node.name:
        assert not losses.counts


def instrument_state() -> Listener:
    return listening._listener


def answering(text: str = "Fine.", **more: Any) -> Any:
    """A model that gives this answer."""
    return FAKE.scripted("fake", lambda results: text, 10, 2, **more)


def calling(*names: str, then: str = "Done.", **arguments: str) -> Any:
    """A model that calls these tools at once, each with these arguments, and then answers."""
    asked = [FAKE.calling(f"call_{number}", name, **arguments) for number, name in enumerate(names)]
    return FAKE.scripted("fake", lambda results: asked if not results else then, 10, 2)


def failing(error: Exception) -> Any:
    """A model that fails."""

    def script(results: int) -> str:
        raise error

    return FAKE.scripted("fake", script, 10, 2)


def agent(llm: Any, role: str = "helper", **more: Any) -> Agent:
    return Agent(role=role, goal="Help", backstory="Always.", llm=llm, **more)


def ends(seen: testing.Captured, kind: str) -> list[Any]:
    return [event for event in seen.events if event.kind == kind]


def happened(seen: testing.Captured) -> list[tuple[str, dict[str, Any]]]:
    return [(event.name, event.data) for event in ends(seen, "domain")]


# -- the program -------------------------------------------------------------------------------------------------------


def test_the_program_is_the_tree_that_every_framework_shows(seen: testing.Captured) -> None:
    assert FAKE.run() == "Tea goes with rain."
    assert_outline(seen.spans, TREE)


async def test_an_answer_that_is_left_early_is_a_cancelled_run_whose_model_ends_in_its_own_time(
    seen: testing.Captured,
) -> None:
    assert await FAKE.tell() == "Once"
    await asyncio.get_running_loop().shutdown_default_executor()  # the model runs in a thread, which nobody can cancel
    assert_outline(
        seen.spans,
        """
        invoke_agent tellers · ~cancelled
        └─ invoke_agent teller · ~cancelled
           └─ chat fake-teller · 30+6
        """,
    )


def test_tokens_are_counted_once(seen: testing.Captured) -> None:
    FAKE.run()
    used = {
        (dict(key)["gen_ai.request.model"], dict(key)["gen_ai.token.type"]): value
        for key, value in seen.metric("agentbus.tokens.used").items()
    }
    assert used == {
        ("fake-planner", "input"): 300,
        ("fake-planner", "output"): 30,
        ("fake-planner", "cache_read"): 120,
        ("fake-researcher", "input"): 40,
        ("fake-researcher", "output"): 10,
    }
    total = seen.bus.summary().total
    assert (total.calls, total.input, total.output, total.cached) == (5, 340, 40, 120)


def test_ids_arguments_and_results_are_those_of_the_framework(seen: testing.Captured) -> None:
    FAKE.run()
    found = sorted((e.tool_call_id, e.tool, e.outcome, e.result) for e in ends(seen, "tool.end"))
    assert found == [
        ("call_publish", "publish", "error", None),
        ("call_rain", "research", "ok", "Much is known of rain."),
        ("call_tea", "research", "ok", "Much is known of tea."),
    ]
    starts = sorted((e.tool_call_id, e.arguments) for e in ends(seen, "tool.start"))
    assert starts == [
        ("call_publish", {"text": "Tea goes with rain."}),
        ("call_rain", {"topic": "rain"}),
        ("call_tea", {"topic": "tea"}),
    ]
    failed = next(e for e in ends(seen, "tool.end") if e.tool == "publish")
    assert (failed.error_type, failed.error_message) == ("ConnectionError", "no such channel")
    answers = [(e.model_provider, e.model, e.finish_reasons) for e in ends(seen, "llm.response")]
    assert sorted(answers) == [
        ("fake", "fake-planner", ["stop"]),
        ("fake", "fake-planner", ["tool_calls"]),
        ("fake", "fake-planner", ["tool_calls"]),
        ("fake", "fake-researcher", ["stop"]),
        ("fake", "fake-researcher", ["stop"]),
    ]


# -- with and without us -----------------------------------------------------------------------------------------------


def journey() -> list[Any]:
    """A run with everything in it, as its program sees it."""
    steps: list[Any] = []

    @tool("look")
    def look() -> str:
        """Look around."""
        steps.append(("tool", PLACE.get(), tasks_here()))
        PLACE.set("in the tool")
        return "seen"

    @tool("fail")
    def fail() -> str:
        """Fail."""
        steps.append("fail")
        raise ValueError("no")

    def heard(source: Any, event: Any) -> None:
        steps.append(("told", event.model))

    script = [[FAKE.calling("a", "look")], [FAKE.calling("b", "fail")], "Over."]
    llm = FAKE.scripted("fake", lambda results: script[results], 10, 2)
    crew = FAKE.crew_of("walker", llm, "Walk.", [look, fail], task_callback=lambda output: steps.append(output.raw))
    token = PLACE.set("outside")
    try:
        with crewai_event_bus.scoped_handlers():
            crewai_event_bus.on(LLMCallCompletedEvent)(heard)
            result = crew.kickoff()
            crewai_event_bus.flush()
        told = steps.count(("told", "fake"))
        rest = [step for step in steps if step != ("told", "fake")]
        return [result.raw, result.token_usage.model_dump(), told, rest, PLACE.get(), type(result).__name__]
    finally:
        PLACE.reset(token)


def tasks_here() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def test_the_same_program_does_the_same_with_and_without_us() -> None:
    without = journey()
    with testing.capture(), adapters.instrument("crewai"):
        observed = journey()
    assert observed == without
    assert without[3] == [("tool", "outside", False), "fail", "Over."]


@pytest.mark.parametrize("way", ["crew", "agent", "model"])
def test_a_failing_model_fails_with_the_same_exception(way: str) -> None:
    def attempt() -> tuple[type[BaseException], str]:
        llm = failing(KeyError("lost"))
        ways: dict[str, Callable[[], Any]] = {
            "crew": lambda: FAKE.crew_of("walker", llm, "Walk.").kickoff(),
            "agent": lambda: agent(llm).kickoff("Walk."),
            "model": lambda: llm.call([]),
        }
        run = ways[way]
        with pytest.raises(Exception) as raised:  # which it is, is what is compared
            run()
        return type(raised.value), str(raised.value)

    without = attempt()
    with testing.capture(), adapters.instrument("crewai"):
        assert attempt() == without


async def test_the_kickoffs_stay_what_they_are() -> None:
    plain = [inspect.iscoroutinefunction(f) for f in (Crew.akickoff, Crew.kickoff, Agent.kickoff_async, Agent.kickoff)]
    with adapters.instrument("crewai"):
        ours = [
            inspect.iscoroutinefunction(f) for f in (Crew.akickoff, Crew.kickoff, Agent.kickoff_async, Agent.kickoff)
        ]
        assert str(inspect.signature(Crew.kickoff)).startswith("(self, inputs")
        before = asyncio.current_task()
        await agent(answering()).kickoff_async("Hello.")
        assert asyncio.current_task() is before
    assert ours == plain


def test_off_leaves_crewai_as_it_was_found() -> None:
    places = [(CrewAIEventsBus, "emit"), *listening.entrances()]
    before = [vars(owner)[name] for owner, name in places]
    with adapters.instrument("crewai"):
        assert not any(vars(owner)[name] is found for (owner, name), found in zip(places, before, strict=True))
    assert [vars(owner)[name] for owner, name in places] == before
    with testing.capture() as seen:
        agent(answering()).kickoff("Hello.")
    assert seen.events == []


def test_a_run_that_has_begun_is_observed_to_its_end() -> None:
    @tool("switch")
    def switch() -> str:
        """Switch it off."""
        switched.off()
        return "off"

    with testing.capture() as seen:
        switched = adapters.instrument("crewai")
        agent(calling("switch"), tools=[switch]).kickoff("Go.")
        assert_outline(
            seen.spans,
            """
            invoke_agent helper
            ├─ chat fake · 10+2
            ├─ chat fake · 10+2
            └─ execute_tool switch
            """,
        )
        assert not hasattr(CrewAIEventsBus.emit, "__wrapped__")
        agent(answering()).kickoff("And again.")
        assert len(seen.spans) == 4
        with adapters.instrument("crewai"):
            agent(answering()).kickoff("And again.")
        assert len(seen.spans) == 6


def test_switched_on_again_while_a_run_goes_on_nothing_is_seen_twice() -> None:
    @tool("switch")
    def switch() -> str:
        """Switch it off and on."""
        switched[0].off()
        switched.append(adapters.instrument("crewai"))
        return "on"

    with testing.capture() as seen:
        switched = [adapters.instrument("crewai")]
        agent(calling("switch"), tools=[switch]).kickoff("Go.")
        switched[1].off()
        assert len(seen.spans) == 4
    assert not hasattr(CrewAIEventsBus.emit, "__wrapped__")


def test_what_is_broken_in_us_never_reaches_the_run(seen: testing.Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("ours")

    for name in ("crew_block", "agent_block", "llm_block", "tool_block", "llm_end", "tool_end", "crew_end", "failure"):
        with monkeypatch.context() as patch:
            patch.setattr(mapping, name, broken)
            assert FAKE.run() == "Tea goes with rain."
    assert sum(losses.counts.values()) > 10


def test_events_that_are_told_again_are_not_counted_again(seen: testing.Captured) -> None:
    told: list[Any] = []
    kinds = (LLMCallStartedEvent, LLMCallCompletedEvent)
    with crewai_event_bus.scoped_handlers():
        for kind in kinds:
            crewai_event_bus.on(kind)(lambda source, event: told.append(event))
        agent(answering()).kickoff("Hello.")
        crewai_event_bus.flush()
        before = len(seen.events)
        for event in tuple(told):
            crewai_event_bus.replay(None, event)
        crewai_event_bus.flush()
    assert (len(told), len(seen.events)) == (4, before)


# -- nesting -----------------------------------------------------------------------------------------------------------


def test_runs_nest_in_blocks_and_blocks_and_spans_in_the_bodies_of_tools(seen: testing.Captured) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("the application's")

    @tool("ask")
    def ask() -> str:
        """Ask somebody."""
        with tracer.start_as_current_span("GET /"):
            pass
        with agentbus.agent("inner"):
            return str(agent(answering(), "friend").kickoff("Well?").raw)

    with agentbus.agent("outer") as run, run.tool("delegate"):
        agent(calling("ask", "ask"), tools=[ask]).kickoff("Go.")
        assert agentbus.current() is run.invocation
    assert_outline(
        (*seen.spans, *exporter.get_finished_spans()),
        """
        invoke_agent outer
        └─ execute_tool delegate
           └─ invoke_agent helper
              ├─ chat fake · 10+2
              ├─ chat fake · 10+2
              ├─ execute_tool ask
              │  ├─ GET /
              │  └─ invoke_agent inner
              │     └─ invoke_agent friend
              │        └─ chat fake · 10+2
              └─ execute_tool ask
                 ├─ GET /
                 └─ invoke_agent inner
                    └─ invoke_agent friend
                       └─ chat fake · 10+2
        """,
    )


def test_who_is_delegated_to_is_a_sub_agent_of_the_call(seen: testing.Captured) -> None:
    asked = FAKE.calling("c1", "ask_question_to_coworker", question="Well?", context="None.", coworker="expert")
    boss = agent(
        FAKE.scripted("boss", lambda results: "Over." if results else [asked], 10, 2), "boss", allow_delegation=True
    )
    expert = agent(answering("Yes."), "expert")
    task = Task(description="Find out.", expected_output="A word.", agent=boss)
    Crew(agents=[boss, expert], tasks=[task]).kickoff()
    assert_outline(
        seen.spans,
        """
        invoke_agent crew
        └─ invoke_agent boss
           ├─ chat boss · 10+2
           ├─ chat boss · 10+2
           └─ execute_tool ask_question_to_coworker
              └─ invoke_agent expert
                 └─ chat fake · 10+2
        """,
    )


class Two(Flow[dict[str, Any]]):
    """Two agents, one after the other, the second in an async method."""

    @start()
    def first(self) -> str:
        return str(agent(answering("One."), "one").kickoff("Go.").raw)

    @listen(first)
    async def second(self, said: str) -> str:
        result = await agent(answering("Two."), "two").kickoff_async(said)
        return str(result.raw)


def test_a_flow_is_a_run_with_its_agents_in_it_and_its_methods_are_moments(seen: testing.Captured) -> None:
    assert Two().kickoff() == "Two."
    assert_outline(
        seen.spans,
        """
        invoke_agent Two
        ├─ invoke_agent one
        │  └─ chat fake · 10+2
        └─ invoke_agent two
           └─ chat fake · 10+2
        """,
    )
    assert happened(seen) == [
        ("crewai.method_execution_finished", {"flow_name": "Two", "method_name": "first"}),
        ("crewai.method_execution_finished", {"flow_name": "Two", "method_name": "second"}),
    ]


def test_a_flow_that_fails_says_what_failed(seen: testing.Captured) -> None:
    class Broken(Flow[dict[str, Any]]):
        @start()
        def first(self) -> str:
            raise LookupError("nowhere")

    with pytest.raises(LookupError):
        Broken().kickoff()
    assert_outline(seen.spans, "invoke_agent Broken · !LookupError")


# -- ways to run -------------------------------------------------------------------------------------------------------

PAIR = """
invoke_agent walkers
└─ invoke_agent walker
   └─ chat fake · 10+2
"""


def walkers(**options: Any) -> Any:
    return FAKE.crew_of("walker", answering(**options.pop("model", {})), "Walk {how}.", **options)


async def test_every_way_to_kick_off_a_crew_is_the_same_tree(seen: testing.Captured) -> None:
    how = {"how": "slowly"}
    await walkers().akickoff(how)
    await walkers().kickoff_async(how)
    await walkers().akickoff_for_each([how, how])
    await asyncio.to_thread(walkers().kickoff_for_each, [how])
    assert outline(seen.spans) == "\n".join([PAIR.strip()] * 5)


def test_crews_run_in_threads_and_loops_of_their_own(seen: testing.Captured) -> None:
    def one(number: int) -> None:
        with agentbus.agent(f"outer{number}"):
            if number % 2:
                walkers().kickoff({"how": "slowly"})
            else:
                asyncio.run(walkers().akickoff({"how": "slowly"}))
        assert agentbus.current() is None

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(8)))
    indented = "\n".join(
        ("└─ " if not number else "   ") + line for number, line in enumerate(PAIR.strip().splitlines())
    )
    assert outline(seen.spans) == "\n".join(f"invoke_agent outer{number}\n{indented}" for number in range(8))


def test_async_tasks_of_a_crew_are_its_agents(seen: testing.Captured) -> None:
    helpers = [agent(answering(), f"helper{number}") for number in range(3)]
    tasks = [
        Task(description="Walk.", expected_output="A word.", agent=one, async_execution=number < 2)
        for number, one in enumerate(helpers)
    ]
    Crew(agents=helpers, tasks=tasks).kickoff()
    assert_outline(
        seen.spans,
        """
        invoke_agent crew
        ├─ invoke_agent helper0
        │  └─ chat fake · 10+2
        ├─ invoke_agent helper1
        │  └─ chat fake · 10+2
        └─ invoke_agent helper2
           └─ chat fake · 10+2
        """,
    )


def test_a_model_called_directly_is_a_trace_of_its_own(seen: testing.Captured) -> None:
    answering().call([{"role": "user", "content": "Hello."}])
    assert_outline(seen.spans, "chat fake · 10+2")


def test_each_attempt_of_an_agent_is_a_run(seen: testing.Captured) -> None:
    with pytest.raises(OSError, match="down"):
        FAKE.crew_of("walker", failing(OSError("down")), "Walk.").kickoff()
    failed = "invoke_agent walker · !OSError\n{}  └─ chat fake · !OSError"
    assert outline(seen.spans) == "\n".join(
        ["invoke_agent walkers · !OSError", *("├─ " + failed.format("│") for _ in range(2)), "└─ " + failed.format(" ")]
    )


def test_a_model_that_tells_nothing_still_leaves_its_agents_and_tools(seen: testing.Captured) -> None:
    class Silent(BaseLLM):
        asked: bool = False

        def supports_function_calling(self) -> bool:
            return True

        def call(self, messages: Any, *_: Any, **__: Any) -> Any:
            first, self.asked = not self.asked, True
            return [FAKE.calling("c1", "look")] if first else "Over."

    @tool("look")
    def look() -> str:
        """Look around."""
        with agentbus.agent("inner"):
            return "seen"

    agent(Silent(model="silent"), tools=[look]).kickoff("Go.")
    assert_outline(
        seen.spans,
        """
        invoke_agent helper
        └─ execute_tool look
           └─ invoke_agent inner
        """,
    )


def test_ids_that_a_model_gives_again_are_numbered(seen: testing.Captured) -> None:
    @tool("look")
    def look(where: str) -> str:
        """Look around."""
        return where

    script = [[FAKE.calling("c", "look", where=str(number))] for number in range(3)]
    llm = FAKE.scripted("fake", lambda results: script[results] if results < 3 else "Over.", 10, 2)
    agent(llm, tools=[look]).kickoff("Go.")
    assert [(e.tool_call_id, e.result) for e in ends(seen, "tool.end")] == [("c", "0"), ("c#2", "1"), ("c#3", "2")]


def test_a_tool_that_reports_its_failure_has_failed(seen: testing.Captured) -> None:
    failures = pytest.importorskip("crewai.tools.tool_failure", reason="older versions know no such report")

    @tool("look")
    def look() -> Any:
        """Look around."""
        return failures.ToolFailure(message="too dark")

    agent(calling("look"), tools=[look]).kickoff("Go.")
    told = [(e.outcome, e.error_type, e.error_message) for e in ends(seen, "tool.end")]
    assert told == [("error", "tool_reported", "too dark")]


def test_what_tools_and_flows_are_given_and_give_is_told_as_json(seen: testing.Captured) -> None:
    given: list[Iterator[int]] = []

    @tool("look")
    def look() -> Any:
        """Look."""
        given.append(iter([1, 2]))
        return {"day": date(2026, 1, 2), "numbers": given[0], "kinds": {"wet"}, "picture": b"..."}

    class Days(Flow[Any]):
        @start()
        def first(self) -> Any:
            return {"day": date(2026, 1, 2), "numbers": given[0]}

    FAKE.crew_of("planner", calling("look"), "Look.", [look]).kickoff()
    result = Days().kickoff(inputs={"from": date(2026, 1, 1)})
    seen.bus.flush()
    assert list(result["numbers"]) == [1, 2]
    flow = [event for event in seen.events if getattr(event, "agent", None) == "Days"]
    assert [event.input for event in flow if isinstance(event, AgentStart)] == [{"from": "2026-01-01"}]
    assert [event.output for event in flow if isinstance(event, AgentEnd)] == [
        {"day": "2026-01-02", "numbers": "list_iterator"}
    ]


def test_a_tool_by_text_that_is_cached_is_a_cache_hit(seen: testing.Captured) -> None:
    class Texting(BaseLLM):
        turn: int = 0

        def supports_function_calling(self) -> bool:
            return False

        def call(self, messages: Any, *_: Any, **__: Any) -> Any:
            self.turn += 1
            if self.turn in (1, 3):
                return 'Thought: look\nAction: look\nAction Input: {"where": "here"}'
            if self.turn == 2:
                return 'Thought: look\nAction: look\nAction Input: {"where": "there"}'
            return "Thought: enough\nFinal Answer: Over."

    looked = []

    @tool("look")
    def look(where: str) -> str:
        """Look around."""
        looked.append(where)
        return where

    one = agent(Texting(model="texting"), tools=[look], cache=True)
    task = Task(description="Look.", expected_output="A word.", agent=one)
    Crew(agents=[one], tasks=[task], cache=True).kickoff()
    assert looked == ["here", "there"]
    assert [(e.cache_type, e.tokens_saved) for e in ends(seen, "cache.hit")] == [("tool", 0)]
    assert len(ends(seen, "tool.end")) == 3


# -- streams and cancellation ------------------------------------------------------------------------------------------

SPOKEN = {"model": {"text": "a b c", "chunks": lambda text: text.split(" "), "stream": True}, "stream": True}


def test_a_stream_read_to_its_end_is_ok_and_nothing_is_current_between_its_chunks(seen: testing.Captured) -> None:
    streaming = walkers(**SPOKEN).kickoff({"how": "slowly"})
    for _ in streaming:
        assert agentbus.current() is None
        assert not trace.get_current_span().get_span_context().is_valid
    assert streaming.result.raw == "a b c"
    assert outline(seen.spans) == PAIR.strip()
    response = ends(seen, "llm.response")[0]
    assert 0 < response.time_to_first_chunk <= response.duration
    assert ends(seen, "llm.request")[0].stream is True


async def test_an_async_stream_read_to_its_end_is_the_same(seen: testing.Captured) -> None:
    streaming = await walkers(**SPOKEN).akickoff({"how": "slowly"})
    async for _ in streaming:
        assert agentbus.current() is None
        assert not trace.get_current_span().get_span_context().is_valid
    assert streaming.result.raw == "a b c"
    assert outline(seen.spans) == PAIR.strip()


class Held:
    """A model that waits until it is let go, and says when it has begun."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def script(self, results: int) -> str:
        self.begun.set()
        self.go.wait(10)
        return "Late."

    async def has_begun(self) -> None:
        while not self.begun.is_set():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("way", ["crew", "agent"])
async def test_a_run_whose_task_is_cancelled_is_cancelled(seen: testing.Captured, way: str) -> None:
    held = Held()
    llm = FAKE.scripted("fake", held.script, 10, 2)
    if way == "crew":
        running = asyncio.ensure_future(FAKE.crew_of("helper", llm, "Walk.").akickoff())
    else:
        running = asyncio.ensure_future(agent(llm).kickoff_async("Walk."))
    await held.has_begun()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    held.go.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    alone = ["invoke_agent helper · ~cancelled", "└─ chat fake · 10+2"]
    if way == "crew":
        alone = ["invoke_agent helpers · ~cancelled", "└─ " + alone[0], "   " + alone[1]]
    assert outline(seen.spans) == "\n".join(alone)


async def test_a_timeout_around_a_run_leaves_nothing_current(seen: testing.Captured) -> None:
    held = Held()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit:
            limit.reschedule(asyncio.get_running_loop().time() + 0.2)
            await agent(FAKE.scripted("fake", held.script, 10, 2)).kickoff_async("Walk.")
    assert agentbus.current() is None
    assert not trace.get_current_span().get_span_context().is_valid
    held.go.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert {e.outcome for e in ends(seen, "agent.end")} == {"cancelled"}


async def test_a_direct_model_call_that_is_cancelled_ends_with_its_task(seen: testing.Captured) -> None:
    class Waiting(FAKE.ScriptedLLM):  # type: ignore[name-defined,misc]
        async def acall(self, messages: Any, *_: Any, **__: Any) -> Any:
            with FAKE.llm_call_context():
                self._emit_call_started_event(messages)
                begun.set()
                await asyncio.Event().wait()

    begun = asyncio.Event()
    llm = Waiting(model="fake", script=lambda results: "", usage={})
    running = asyncio.create_task(llm.acall([]))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert_outline(seen.spans, "chat fake · ~cancelled")


async def test_a_run_that_a_hook_stops_is_over(seen: testing.Captured) -> None:
    hooks = pytest.importorskip("crewai.hooks.dispatch", reason="older versions let hooks only block a call")

    def stop(context: Any) -> None:
        raise hooks.HookAborted("enough")

    @tool("look")
    def look() -> str:
        """Look around."""
        return "seen"

    register_after_tool_call_hook(stop)
    try:
        with pytest.raises(hooks.HookAborted):
            await FAKE.crew_of("walker", calling("look"), "Walk.", [look]).akickoff()
    finally:
        unregister_after_tool_call_hook(stop)
    assert {(e.kind, e.outcome) for e in seen.events if hasattr(e, "outcome")} == {
        ("agent.end", "error"),
        ("llm.response", "ok"),
        ("tool.end", "error"),
    }


# -- budgets, content, moments -----------------------------------------------------------------------------------------


STOP = Budget("week", tokens=100, window="7d", on_exceeded="raise")


def test_a_budget_that_is_to_stop_reaches_the_caller_however_it_runs() -> None:
    with testing.capture(budgets=[STOP]) as seen, adapters.instrument("crewai"):
        with pytest.raises(BudgetExceeded):  # the tools of the first answer are refused, which CrewAI tells the model
            FAKE.run()
        with pytest.raises(BudgetExceeded):
            agent(answering()).kickoff("Hello.")
        with pytest.raises(BudgetExceeded):
            asyncio.run(FAKE.crew_of("walker", answering(), "Walk.").akickoff())
        with pytest.raises(BudgetExceeded):
            answering().call([])
        total = seen.bus.summary().total
        assert (total.calls, total.input) == (1, 100)
        assert ends(seen, "tool.start") == []
        assert {e.error_type for e in ends(seen, "agent.end")} == {"otel_agentbus.errors.BudgetExceeded"}


def test_a_budget_that_only_tells_lets_everything_run() -> None:
    with testing.capture(budgets=[Budget("week", tokens=100, window="7d")]) as seen, adapters.instrument("crewai"):
        assert FAKE.run() == "Tea goes with rain."
        assert outline(seen.spans) == textwrap.dedent(TREE).strip()


def test_content_stays_home_unless_it_is_asked_for() -> None:
    with testing.capture() as seen, adapters.instrument("crewai"):
        FAKE.run()
        told = json.dumps([dict(span.attributes or {}) for span in seen.spans])
    assert "Much is known" not in told
    assert "You are brief" not in told
    assert '"rain"' not in told


def test_content_that_is_asked_for_is_in_the_parts_schema(seen: testing.Captured) -> None:
    FAKE.run()
    asked = [e.messages for e in ends(seen, "llm.request") if e.model == "fake-planner"][1]
    assert [message["role"] for message in asked] == ["system", "user", "assistant", "tool", "tool"]
    assert asked[2:] == [
        {
            "role": "assistant",
            "parts": [
                {"type": "tool_call", "id": "call_tea", "name": "research", "arguments": {"topic": "tea"}},
                {"type": "tool_call", "id": "call_rain", "name": "research", "arguments": {"topic": "rain"}},
            ],
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "call_tea", "response": "Much is known of tea."}],
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "call_rain", "response": "Much is known of rain."}],
        },
    ]
    answers = [e.messages for e in ends(seen, "llm.response") if e.model == "fake-planner"]
    assert answers[2] == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Tea goes with rain."}], "finish_reason": "stop"}
    ]
    planner = next(e for e in ends(seen, "agent.start") if e.agent == "planner")
    assert planner.instructions == "Say what goes with rain.\n\nYou are brief."
    assert [e.output for e in ends(seen, "agent.end") if e.agent in ("planner", "planners")] == [
        "Tea goes with rain."
    ] * 2


def test_a_guardrail_that_refuses_is_a_moment_of_the_crew(seen: testing.Captured) -> None:
    verdicts = iter([(False, "too short"), (True, "Fine at last.")])
    one = agent(answering())
    task = Task(description="Walk.", expected_output="A word.", agent=one, guardrail=lambda output: next(verdicts))
    Crew(agents=[one], tasks=[task]).kickoff()
    said = [(name, data.get("success"), data.get("retry_count")) for name, data in happened(seen)]
    assert said == [
        ("crewai.llm_guardrail_completed", False, 0),
        ("crewai.llm_guardrail_completed", True, 1),
        ("crewai.task_completed", None, None),
    ]
    assert "too short" not in str(happened(seen))
    assert len(ends(seen, "agent.end")) == 3


# -- a provider of CrewAI's own ----------------------------------------------------------------------------------------


class _OpenAI(BaseHTTPRequestHandler):
    """Answers as OpenAI's API does, in one piece or in chunks; with 500 where it is asked to fail."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked["model"] == "gpt-broken":
            self._send(500, "application/json", b'{"error": {"message": "out of order"}}')
            return
        head = {"id": "chatcmpl-1", "created": 1, "model": "gpt-4o-2024-08-06"}
        usage = {
            "prompt_tokens": 50,
            "completion_tokens": 7,
            "total_tokens": 57,
            "prompt_tokens_details": {"cached_tokens": 30},
            "completion_tokens_details": {"reasoning_tokens": 3},
        }
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "Hello."}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            body = json.dumps({**head, "object": "chat.completion", "choices": choices, "usage": usage})
            self._send(200, "application/json", body.encode())
            return
        deltas = [{"index": 0, "delta": {"content": word}, "finish_reason": None} for word in ("Hel", "lo.")]
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        chunks = [{**head, "object": "chat.completion.chunk", "choices": [delta]} for delta in (*deltas, last)]
        chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self._send(200, "text/event-stream", "".join([*lines, "data: [DONE]\n\n"]).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _OpenAI) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def openai(endpoint: str, model: str = "gpt-4o", **more: Any) -> Any:
    return LLM(model=f"openai/{model}", base_url=endpoint, api_key="none", max_retries=0, **more)


@pytest.mark.parametrize("stream", [False, True])
def test_a_built_in_provider_says_usage_reason_and_id(seen: testing.Captured, endpoint: str, stream: bool) -> None:
    assert agent(openai(endpoint, stream=stream)).kickoff("Hello?").raw == "Hello."
    response = ends(seen, "llm.response")[0]
    assert (response.model_provider, response.model) == ("openai", "gpt-4o")
    assert (response.input_tokens, response.output_tokens, response.cache_read_input_tokens) == (50, 7, 30)
    assert (response.reasoning_output_tokens, response.finish_reasons, response.response_id) == (
        3,
        ["stop"],
        "chatcmpl-1",
    )
    assert (response.time_to_first_chunk is not None) is stream
    assert len(ends(seen, "llm.response")) == 1


def test_a_failure_that_crewai_tells_twice_is_one(seen: testing.Captured, endpoint: str) -> None:
    with pytest.raises(Exception, match="out of order"):
        agent(openai(endpoint, "gpt-broken")).kickoff("Hello?")
    assert outline(seen.spans).splitlines()[0].startswith("invoke_agent helper · !")
    assert len(ends(seen, "llm.response")) == len(ends(seen, "llm.request"))
    assert all(e.outcome == "error" and e.error_type for e in ends(seen, "llm.response"))


# -- mapping -----------------------------------------------------------------------------------------------------------


ANTHROPIC = {"input_tokens": 5, "output_tokens": 2, "cached_prompt_tokens": 3, "cache_creation_tokens": 1}
ANTHROPIC_RAW = {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 1}
GEMINI = {"prompt_token_count": 5, "candidates_token_count": 2, "completion_tokens": 6, "reasoning_tokens": 4}
LITELLM = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, {}),
        ({"total_tokens": 0}, {}),
        ({"prompt_tokens": 5, "completion_tokens": 2}, (5, 2, None, None, None)),
        (ANTHROPIC, (5, 2, 3, 1, None)),
        (ANTHROPIC_RAW, (9, 2, 3, 1, None)),
        ({"inputTokens": 5, "outputTokens": 2, "cacheReadInputTokens": 3}, (8, 2, 3, None, None)),
        (GEMINI, (5, 6, None, None, 4)),
        (LITELLM, (5, 2, 4, None, None)),
    ],
)
def test_usage_is_read_in_each_providers_shape(usage: Any, expected: Any) -> None:
    names = ("input", "output", "cache_read_input", "cache_write_input", "reasoning_output")
    want = dict(zip((f"{name}_tokens" for name in names), expected, strict=True)) if expected else {}
    assert mapping.tokens(usage) == want


@pytest.mark.parametrize(
    ("llm", "expected"),
    [
        ("groq/llama-3", ("llama-3", "groq")),
        ("gpt-4o", ("gpt-4o", None)),
        (ModuleType("x"), (None, None)),
    ],
)
def test_models_and_providers_have_opentelemetrys_names(llm: Any, expected: tuple[str, str]) -> None:
    assert mapping.model_of(llm) == expected


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("gemini", "gemini-2.0-flash", ("gemini-2.0-flash", "gcp.gemini")),
        ("azure", "azure/gpt-4o", ("gpt-4o", "azure.ai.openai")),
        ("openai", "meta-llama/Llama-3", ("meta-llama/Llama-3", "openai")),
    ],
)
def test_a_models_name_keeps_what_is_no_provider(provider: str, model: str, expected: tuple[str, str]) -> None:
    assert mapping.model_of(FAKE.ScriptedLLM(model=model, provider=provider, script=str, usage={})) == expected


def test_content_of_every_shape_becomes_parts_without_binary() -> None:
    content = [
        "plain",
        {"type": "text", "text": "said"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "tool_use", "id": "t", "name": "look", "input": {"a": 1}},
        {"type": "tool_result", "tool_use_id": "t", "content": "seen"},
        {"type": "thinking", "thinking": "hm"},
    ]
    assert messages.conversation([{"role": "user", "content": content}, "no message"]) == [
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "plain"},
                {"type": "text", "content": "said"},
                {"type": "image_url", "content": "[not shown: binary]"},
                {"type": "tool_call", "id": "t", "name": "look", "arguments": {"a": 1}},
                {"type": "tool_call_response", "id": "t", "response": "seen"},
                {"type": "reasoning", "content": "hm"},
            ],
        }
    ]


def test_the_listener_is_one_in_a_process() -> None:
    first: Callable[[], Listener] = instrument
    switch = first()
    assert (switch is instrument(), switch.chained) == (True, False)
    switch.off()
