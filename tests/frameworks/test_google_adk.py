"""instrument("google-adk"): what runners, agents, models and tools of ADK do, as events, without changing it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import date
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
from google.adk.agents import BaseAgent, LlmAgent, LoopAgent, ParallelAgent, SequentialAgent
from google.adk.agents.live_request_queue import LiveRequestQueue
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.apps.app import App
from google.adk.flows.llm_flows.base_llm_flow import BaseLlmFlow
from google.adk.models.base_llm import BaseLlm
from google.adk.models.base_llm_connection import BaseLlmConnection
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.plugins.plugin_manager import PluginManager
from google.adk.runners import InMemoryRunner, Runner
from google.adk.tools.tool_context import ToolContext
from google.adk.workflow import RetryConfig, Workflow
from google.genai import types
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span
from pydantic import PrivateAttr

import otel_agentbus as agentbus
from otel_agentbus import Budget, BudgetExceeded, adapters, current, testing
from otel_agentbus.adapters import google_adk
from otel_agentbus.adapters.google_adk import driving, mapping, observing, providers
from otel_agentbus.adapters.losses import losses
from otel_agentbus.testing import Captured

from .shape import assert_outline, program

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _nothing_goes_wrong_and_nothing_stays_open() -> Iterator[None]:
    losses.counts.clear()
    assert current() is None
    yield
    assert current() is None
    assert not get_current_span().get_span_context().is_valid
    assert not losses.counts
    assert found_now() == UNTOUCHED
    for observation in observing._last:
        assert observation.tools_open == 0
        assert not observation.open


def found_now() -> dict[str, Any]:
    """What `instrument` wraps, as it is now."""
    return {
        "run_async": vars(BaseAgent)["run_async"],
        "run_live": vars(BaseAgent)["run_live"],
        "runner": vars(Runner)["run_async"],
        "runner_live": vars(Runner)["run_live"],
        "model": vars(BaseLlmFlow)["_run_and_handle_error"],
        "before_tool": vars(PluginManager)["run_before_tool_callback"],
        "after_tool": vars(PluginManager)["run_after_tool_callback"],
        "tool_error": vars(PluginManager)["run_on_tool_error_callback"],
    }


UNTOUCHED = found_now()

Answer: TypeAlias = "LlmResponse | list[LlmResponse] | BaseException | Callable[[], LlmResponse]"


class Scripted(BaseLlm):
    """A model that gives these answers, one after the other; a list of responses is one streamed answer."""

    model: str = "scripted"
    _script: Iterator[Answer] = PrivateAttr()

    def __init__(self, *answers: Answer, model: str = "scripted") -> None:
        super().__init__(model=model)
        self._script = iter(answers)

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        answer = next(self._script)
        if callable(answer):
            answer = answer()
        if isinstance(answer, BaseException):
            raise answer
        for response in answer if isinstance(answer, list) else [answer]:
            await asyncio.sleep(0)
            yield response


class Talking(Scripted):
    """A model of live sessions: calls a tool for what it hears, and answers what that gives."""

    @asynccontextmanager
    async def connect(self, llm_request: LlmRequest) -> AsyncIterator[BaseLlmConnection]:
        yield Line()


class Line(BaseLlmConnection):
    def __init__(self) -> None:
        self.heard: asyncio.Queue[types.Content] = asyncio.Queue()

    async def send_history(self, history: list[types.Content]) -> None:
        """Has none."""

    async def send_content(self, content: types.Content) -> None:
        await self.heard.put(content)

    async def send_realtime(self, blob: Any) -> None:
        """Hears no sounds."""

    async def close(self) -> None:
        """Nothing is open."""

    async def receive(self) -> AsyncGenerator[LlmResponse, None]:
        await self.heard.get()
        yield calls(("c1", "look", {}))
        await self.heard.get()
        yield text("hello")
        yield LlmResponse(turn_complete=True)


def usage(asked: int = 10, answered: int = 2, **more: int) -> types.GenerateContentResponseUsageMetadata:
    return types.GenerateContentResponseUsageMetadata(
        prompt_token_count=asked, candidates_token_count=answered, total_token_count=asked + answered, **more
    )


def text(words: str, **more: Any) -> LlmResponse:
    more.setdefault("usage_metadata", usage())
    return LlmResponse(content=types.Content(role="model", parts=[types.Part(text=words)]), **more)


def calls(*wanted: tuple[str, str, dict[str, Any]]) -> LlmResponse:
    parts = [types.Part(function_call=types.FunctionCall(id=id, name=name, args=args)) for id, name, args in wanted]
    return LlmResponse(content=types.Content(role="model", parts=parts), usage_metadata=usage())


def agent(*answers: Answer, name: str = "planner", **options: Any) -> LlmAgent:
    return LlmAgent(name=name, model=Scripted(*answers), **options)


def asked(words: str = "Go.") -> types.Content:
    return types.Content(role="user", parts=[types.Part(text=words)])


async def runner_of(root: Any = None, *, app: App | None = None, session: str = "s1") -> InMemoryRunner:
    if app is None and not isinstance(root, BaseAgent):
        app = App(name="words", root_agent=root)
    runner = InMemoryRunner(app=app) if app else InMemoryRunner(agent=root, app_name="words")
    await runner.session_service.create_session(app_name="words", user_id="ada", session_id=session)
    return runner


def begun(runner: Runner, words: str = "Go.", **options: Any) -> Any:
    options.setdefault("session_id", "s1")
    return runner.run_async(user_id="ada", new_message=asked(words), **options)


async def ask(root: Any = None, words: str = "Go.", *, app: App | None = None, **options: Any) -> list[str]:
    """Runs to the end; gives back the texts of its answers."""
    runner = await runner_of(root, app=app, session=options.get("session_id", "s1"))
    async with aclosing(begun(runner, words, **options)) as events:
        return [part.text async for event in events if event.content for part in event.content.parts if part.text]


SSE = RunConfig(streaming_mode=StreamingMode.SSE)


def partials(*words: str) -> list[LlmResponse]:
    return [text(word, partial=True, usage_metadata=None) for word in words]


def outcomes(seen: Captured) -> list[tuple[str, str | None, str | None]]:
    ends = ("agent.end", "llm.response", "tool.end")
    return [
        (event.kind, event.agent if event.kind != "tool.end" else event.tool, event.outcome)  # type: ignore[attr-defined]
        for event in seen.events
        if event.kind in ends
    ]


# -- the program of the same shape ------------------------------------------------------------------------------------


TREE = """
    invoke_agent planner
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
    invoke_agent teller · ~cancelled
    └─ chat fake-teller · ~cancelled
"""


async def test_the_program_of_the_same_shape_gives_its_tree(seen: Captured) -> None:
    await program("google-adk").main()

    assert_outline(seen.spans, TREE)


async def test_its_tokens_are_counted_once(seen: Captured) -> None:
    await program("google-adk").run()

    used = {
        (dict(key)["gen_ai.agent.name"], dict(key)["gen_ai.token.type"]): value
        for key, value in seen.metric("agentbus.tokens.used").items()
    }
    assert used == {
        ("planner", "input"): 300,
        ("planner", "output"): 30,
        ("planner", "cache_read"): 120,
        ("researcher", "input"): 40,
        ("researcher", "output"): 10,
    }
    total = seen.bus.summary().total
    assert (total.calls, total.input, total.output, total.cached) == (5, 340, 40, 120)


async def test_it_does_the_same_with_and_without_us() -> None:
    async def told() -> list[Any]:
        planner = program("google-adk")
        async with InMemoryRunner(agent=planner.planner, app_name="words") as runner:
            events = await runner.run_debug("Write about tea and rain.", quiet=True)
        return [
            (event.author, event.partial, event.branch, event.content and event.content.model_dump(exclude_none=True))
            for event in events
        ]

    without = await told()
    with adapters.instrument("google-adk"), testing.capture():
        assert await told() == without
    assert len(without) == 5


# -- parents ----------------------------------------------------------------------------------------------------------


async def test_sub_agents_of_a_sequence_and_of_parallel_branches_and_of_a_loop_stand_under_it(seen: Captured) -> None:
    root = SequentialAgent(
        name="all",
        sub_agents=[
            ParallelAgent(name="both", sub_agents=[agent(text("a"), name="left"), agent(text("b"), name="right")]),
            LoopAgent(name="twice", max_iterations=2, sub_agents=[agent(text("c"), text("d"), name="again")]),
        ],
    )
    assert sorted(await ask(root)) == ["a", "b", "c", "d"]
    assert_outline(
        seen.spans,
        """
        invoke_agent all
        ├─ invoke_agent both
        │  ├─ invoke_agent left
        │  │  └─ chat scripted · 10+2
        │  └─ invoke_agent right
        │     └─ chat scripted · 10+2
        └─ invoke_agent twice
           ├─ invoke_agent again
           │  └─ chat scripted · 10+2
           └─ invoke_agent again
              └─ chat scripted · 10+2
        """,
    )
    assert {span.attributes["agentbus.outcome"] for span in seen.spans if span.attributes} == {"ok"}


async def test_an_agent_that_is_handed_over_to_stands_under_the_root_and_nothing_was_cancelled(seen: Captured) -> None:
    writer = agent(text("written"), name="writer")
    editor = agent(calls(("c2", "transfer_to_agent", {"agent_name": "writer"})), name="editor")
    root = agent(calls(("c1", "transfer_to_agent", {"agent_name": "editor"})), sub_agents=[editor, writer])

    assert await ask(root) == ["written"]
    handoffs = [(event.agent, event.data) for event in seen.events if event.kind == "domain"]  # type: ignore[attr-defined]
    assert handoffs == [
        ("planner", {"from": "planner", "to": "editor"}),
        ("planner", {"from": "editor", "to": "writer"}),
    ]
    assert [event.name for event in seen.span("invoke_agent planner").events] == ["agent.handoff"] * 2
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        ├─ chat scripted · 10+2
        ├─ execute_tool transfer_to_agent
        ├─ invoke_agent editor
        │  ├─ chat scripted · 10+2
        │  └─ execute_tool transfer_to_agent
        └─ invoke_agent writer
           └─ chat scripted · 10+2
        """,
    )


async def test_the_next_turn_of_an_agent_that_was_handed_over_to_stands_under_the_applications_root(
    seen: Captured,
) -> None:
    writer = agent(text("one"), text("two"), name="writer")
    root = agent(calls(("c1", "transfer_to_agent", {"agent_name": "writer"})), sub_agents=[writer])
    runner = await runner_of(root)
    for _ in range(2):
        async for event in begun(runner):
            last = event
    assert last.content.parts[0].text == "two"
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        └─ invoke_agent writer
           └─ chat scripted · 10+2
        invoke_agent planner
        ├─ chat scripted · 10+2
        ├─ execute_tool transfer_to_agent
        └─ invoke_agent writer
           └─ chat scripted · 10+2
        """,
    )


async def test_an_agent_that_a_task_is_delegated_to_stands_under_the_root_and_is_done_when_its_task_is(
    seen: Captured,
) -> None:
    worker = agent(calls(("f1", "finish_task", {"result": "made"})), name="worker", mode="task", description="Works.")
    root = agent(calls(("c1", "worker", {"request": "make"})), text("done"), sub_agents=[worker])
    assert await ask(root) == ["done"]
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        ├─ chat scripted · 10+2
        ├─ chat scripted · 10+2
        └─ invoke_agent worker
           ├─ chat scripted · 10+2
           └─ execute_tool finish_task
        """,
    )
    assert {outcome for *_, outcome in outcomes(seen)} == {"ok"}


async def test_an_agent_of_a_single_turn_stands_under_the_tool_that_it_is(seen: Captured) -> None:
    helper = agent(text("helped"), name="helper", mode="single_turn", description="Helps.")
    root = agent(calls(("c1", "helper", {"request": "help"})), text("done"), sub_agents=[helper])
    assert await ask(root) == ["helped", "done"]
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        ├─ chat scripted · 10+2
        ├─ chat scripted · 10+2
        └─ execute_tool helper
           └─ invoke_agent helper
              └─ chat scripted · 10+2
        """,
    )


async def test_a_live_session_shows_its_agent_and_its_tools(seen: Captured) -> None:
    found: list[Any] = []

    def look() -> str:
        found.append(current() and current().agent)  # type: ignore[union-attr]
        return "seen"

    queue = LiveRequestQueue()
    queue.send_content(asked())
    runner = await runner_of(LlmAgent(name="talker", model=Talking(), tools=[look]))
    async with aclosing(runner.run_live(user_id="ada", session_id="s1", live_request_queue=queue)) as events:
        async for event in events:
            assert current() is None
            if event.turn_complete:
                break
    assert found == ["talker"]
    assert_outline(seen.spans, "invoke_agent talker · ~cancelled\n└─ execute_tool look")


async def test_a_workflows_nodes_stand_under_it(seen: Captured) -> None:
    def shout(node_input: str) -> str:
        assert current() is not None
        return node_input.upper()

    graph = Workflow(name="graph", edges=[("START", agent(text("quiet"), name="first"), shout)])
    await ask(graph)
    assert_outline(
        seen.spans,
        """
        invoke_agent graph
        └─ invoke_agent first
           └─ chat scripted · 10+2
        """,
    )


async def test_an_agent_that_a_tool_runs_as_a_node_stands_under_the_tool(seen: Captured) -> None:
    inner = agent(text("found"), name="inner")

    async def look(tool_context: ToolContext) -> str:
        return str(await tool_context.run_node(inner, node_input="well?"))

    assert await ask(agent(calls(("c1", "look", {})), text("done"), tools=[look])) == ["found", "done"]
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        ├─ chat scripted · 10+2
        ├─ chat scripted · 10+2
        └─ execute_tool look
           └─ invoke_agent inner
              └─ chat scripted · 10+2
        """,
    )


async def test_what_runs_in_a_tool_and_around_the_runner_nests(seen: Captured) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def look() -> str:
        with agentbus.agent("inner"), provider.get_tracer("http").start_as_current_span("GET"):
            return "seen"

    with agentbus.agent("outer", conversation_id="talk"):
        await ask(agent(calls(("c1", "look", {})), text("done"), tools=[look]))
        assert current() is not None
        assert current().agent == "outer"  # type: ignore[union-attr]

    assert_outline(
        seen.spans,
        """
        invoke_agent outer
        └─ invoke_agent planner
           ├─ chat scripted · 10+2
           ├─ chat scripted · 10+2
           └─ execute_tool look
              └─ invoke_agent inner
        """,
    )
    (get,) = exporter.get_finished_spans()
    assert get.parent is not None
    assert get.parent.span_id == seen.span("invoke_agent inner").context.span_id
    assert {(span.attributes or {}).get("gen_ai.conversation.id") for span in seen.spans} == {"talk"}


async def test_what_a_models_client_does_nests_under_the_model_call(seen: Captured) -> None:
    spans: list[Any] = []

    def client() -> LlmResponse:
        spans.append(get_current_span().get_span_context().span_id)
        return text("done")

    await ask(agent(client))
    assert spans == [seen.span("chat scripted").context.span_id]


@pytest.mark.skipif("copy_context" not in inspect.getsource(Runner.run), reason="before 2.10 a thread of its own")
async def test_a_thread_of_the_tool_pool_and_a_synchronous_runner_nest_as_well(seen: Captured) -> None:
    def look() -> str:
        with agentbus.agent("inner"):
            return threading.current_thread().name

    runner = await runner_of(agent(calls(("c1", "look", {})), text("done"), tools=[look]))
    with agentbus.agent("outer"):
        events = await asyncio.to_thread(lambda: list(runner.run(user_id="ada", session_id="s1", new_message=asked())))
    assert len(events) == 3
    assert_outline(
        seen.spans,
        """
        invoke_agent outer
        └─ invoke_agent planner
           ├─ chat scripted · 10+2
           ├─ chat scripted · 10+2
           └─ execute_tool look
              └─ invoke_agent inner
        """,
    )


async def test_runs_that_go_on_at_the_same_time_stay_apart(seen: Captured) -> None:
    async def look() -> str:
        await asyncio.sleep(0)
        return "seen"

    roots = [agent(calls(("c", "look", {})), text("done"), name=f"a{n}", tools=[look]) for n in range(4)]
    await asyncio.gather(*(ask(root, session_id=f"s{n}") for n, root in enumerate(roots)))

    assert_outline(
        seen.spans,
        "\n".join(
            f"invoke_agent a{n}\n├─ chat scripted · 10+2\n├─ chat scripted · 10+2\n└─ execute_tool look"
            for n in range(4)
        ),
    )
    conversations = {(s.name, (s.attributes or {})["gen_ai.conversation.id"]) for s in seen.spans if "invoke" in s.name}
    assert conversations == {(f"invoke_agent a{n}", f"s{n}") for n in range(4)}


def test_two_event_loops_do_not_meet(seen: Captured) -> None:
    for n in range(2):
        asyncio.run(ask(agent(text("done"), name=f"a{n}")))
    threads = [threading.Thread(target=lambda: asyncio.run(ask(agent(text("done"), name="b")))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen.spans) == 10
    assert sum(span.parent is None for span in seen.spans) == 5


# -- tools ------------------------------------------------------------------------------------------------------------


async def test_a_tools_call_says_its_arguments_and_result(seen: Captured) -> None:
    def add(a: int, b: int) -> dict[str, int]:
        return {"sum": a + b}

    await ask(agent(calls(("c1", "add", {"a": 1, "b": 2})), text("3"), tools=[add]))
    (end,) = (event for event in seen.events if event.kind == "tool.end")
    assert (end.tool, end.tool_call_id, end.arguments, end.result, end.outcome) == (  # type: ignore[attr-defined]
        "add",
        "c1",
        {"a": 1, "b": 2},
        {"sum": 3},
        "ok",
    )


async def test_a_tools_error_that_nobody_handles_is_the_runs_error_as_it_would_be_without_us(seen: Captured) -> None:
    def fail() -> None:
        raise ConnectionError("no such channel")

    with pytest.raises(ConnectionError, match="no such channel"):
        await ask(agent(calls(("c1", "fail", {})), tools=[fail]))
    assert outcomes(seen) == [
        ("llm.response", "planner", "ok"),
        ("tool.end", "fail", "error"),
        ("agent.end", "planner", "error"),
    ]


async def test_a_call_that_is_cancelled_because_its_neighbour_failed_is_cancelled(seen: Captured) -> None:
    waiting = asyncio.Event()

    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    async def fail() -> None:
        await waiting.wait()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await ask(agent(calls(("c1", "wait", {}), ("c2", "fail", {})), tools=[wait, fail]))
    assert sorted(outcomes(seen)) == [
        ("agent.end", "planner", "error"),
        ("llm.response", "planner", "ok"),
        ("tool.end", "fail", "error"),
        ("tool.end", "wait", "cancelled"),
    ]


async def test_an_id_that_a_model_gives_twice_is_two_calls(seen: Captured) -> None:
    def look() -> str:
        return "seen"

    await ask(agent(calls(("c1", "look", {})), calls(("c1", "look", {})), text("done"), tools=[look]))
    ids = [(span.attributes or {})["gen_ai.tool.call.id"] for span in seen.spans if "look" in span.name]
    assert ids == ["c1", "c1#2"]


async def test_what_a_plugin_answers_in_a_tools_place_is_no_call_of_it(seen: Captured) -> None:
    class Answering(BasePlugin):
        async def before_tool_callback(self, **_: Any) -> dict[str, Any]:
            return {"answer": 42}

    def look() -> str:
        raise AssertionError("never called")

    root = agent(calls(("c1", "look", {})), text("done"), tools=[look])
    await ask(app=App(name="words", root_agent=root, plugins=[Answering("answering")]))
    assert outcomes(seen) == [
        ("llm.response", "planner", "ok"),
        ("llm.response", "planner", "ok"),
        ("agent.end", "planner", "ok"),
    ]


async def test_a_plugin_that_fails_before_or_after_a_tool_leaves_nothing_open(seen: Captured) -> None:
    class Failing(BasePlugin):
        async def after_tool_callback(self, **_: Any) -> None:
            raise ValueError("no")

    def look() -> str:
        return "seen"

    def agents_own(**_: Any) -> None:
        raise LookupError("nor this")

    root = agent(calls(("c1", "look", {})), tools=[look])
    with pytest.raises(RuntimeError, match="no"):
        await ask(app=App(name="words", root_agent=root, plugins=[Failing("failing")]))
    with pytest.raises(LookupError):
        await ask(agent(calls(("c1", "look", {})), tools=[look], before_tool_callback=agents_own))
    assert [told[2] for told in outcomes(seen) if told[0] == "tool.end"] == ["ok", "error"]


async def test_a_tool_that_does_not_exist_is_an_error_of_its_call(seen: Captured) -> None:
    def look() -> str:
        return "seen"

    def answered(**_: Any) -> dict[str, str]:
        return {"error": "there is none"}

    root = agent(calls(("c1", "nothing", {})), text("done"), tools=[look], on_tool_error_callback=answered)
    assert await ask(root) == ["done"]
    told = [told for told in outcomes(seen) if told[0] == "tool.end"]
    if hasattr(BaseAgent, "_run_with_lifecycle"):  # before, ADK asked no plugin about it beforehand
        assert told == [("tool.end", "nothing", "error")]
    assert outcomes(seen)[-1] == ("agent.end", "planner", "ok")


@dataclass
class Weather:
    """A tool's own result, with anything in it."""

    drops: Any
    day: date = date(2026, 1, 2)


async def test_what_a_tool_gives_is_told_as_json_and_left_to_the_run(seen: Captured) -> None:
    read = []

    def look() -> dict[str, Any]:
        """Look."""
        return {"weather": Weather(iter([1, 2])), "kinds": {"wet"}, "picture": b"..."}

    def then(tool: Any, args: Any, tool_context: Any, tool_response: Any) -> None:
        seen.bus.flush()
        read.extend(tool_response["weather"].drops)

    await ask(agent(calls(("c1", "look", {})), text("ok"), tools=[look], after_tool_callback=then))
    assert read == [1, 2]
    ends = [event.result for event in seen.events if event.kind == "tool.end"]  # type: ignore[attr-defined]
    told = {"drops": "list_iterator", "day": "2026-01-02"}
    assert ends == [{"weather": told, "kinds": ["wet"], "picture": "bytes"}]


async def test_a_call_whose_contents_cannot_be_told_is_counted_all_the_same(
    seen: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "conversation", lambda *_: 1 / 0)
    assert await ask(agent(text("fine"))) == ["fine"]
    assert losses.counts.total() == 2
    losses.counts.clear()
    assert_outline(seen.spans, "invoke_agent planner\n└─ chat scripted · 10+2")


def test_counts_that_are_none_are_left_out() -> None:
    odd = SimpleNamespace(prompt_token_count="5", candidates_token_count=-3, thoughts_token_count=True)
    assert {name: count for name, count in mapping.tokens(odd).items() if count is not None} == {}


async def test_a_long_running_tool_says_so(seen: Captured) -> None:
    from google.adk.tools.long_running_tool import LongRunningFunctionTool

    def approve() -> None:
        """Asks somebody."""

    await ask(agent(calls(("c1", "approve", {})), text("later"), tools=[LongRunningFunctionTool(approve)]))
    assert (seen.span("execute_tool approve").attributes or {})["adk.tool.long_running"] is True


# -- model calls ------------------------------------------------------------------------------------------------------


async def test_a_model_call_says_what_it_used_and_how_it_ended(seen: Captured) -> None:
    answer = text(
        "done",
        model_version="scripted-001",
        finish_reason=types.FinishReason.MAX_TOKENS,
        usage_metadata=types.GenerateContentResponseUsageMetadata(
            prompt_token_count=100,
            cached_content_token_count=40,
            tool_use_prompt_token_count=7,
            candidates_token_count=10,
            thoughts_token_count=5,
            total_token_count=122,
        ),
    )
    config = types.GenerateContentConfig(temperature=0.5, max_output_tokens=99)
    await ask(agent(answer, generate_content_config=config))
    (end,) = (event for event in seen.events if event.kind == "llm.response")
    fields = ("input_tokens", "output_tokens", "cache_read_input_tokens", "reasoning_output_tokens", "response_model")
    assert {name: getattr(end, name) for name in (*fields, "finish_reasons", "outcome")} == {
        "input_tokens": 107,
        "output_tokens": 15,
        "cache_read_input_tokens": 40,
        "reasoning_output_tokens": 5,
        "response_model": "scripted-001",
        "finish_reasons": ["max_tokens"],
        "outcome": "ok",
    }
    attributes = seen.span("chat scripted").attributes or {}
    assert (attributes["gen_ai.request.temperature"], attributes["gen_ai.request.max_tokens"]) == (0.5, 99)
    assert "gen_ai.request.stream" not in attributes


async def test_thoughts_are_inside_or_beside_the_answer_as_the_total_says() -> None:
    beside = types.GenerateContentResponseUsageMetadata(
        prompt_token_count=100, candidates_token_count=10, thoughts_token_count=5, total_token_count=115
    )
    within = beside.model_copy(update={"total_token_count": 110})
    assert [mapping.tokens(count)["output_tokens"] for count in (beside, within)] == [15, 10]
    assert mapping.tokens(types.GenerateContentResponseUsageMetadata()) == dict.fromkeys(
        (
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_write_input_tokens",
            "reasoning_output_tokens",
        )
    )


async def test_several_reports_of_one_streamed_call_are_not_added_up(seen: Captured) -> None:
    answer = [
        text("a", partial=True, usage_metadata=usage(10, 1)),
        text("b", partial=True, usage_metadata=usage(10, 2)),
        text("ab", usage_metadata=usage(10, 3), finish_reason=types.FinishReason.STOP),
    ]
    assert await ask(agent(answer), run_config=SSE) == ["a", "b", "ab"]
    span = seen.span("chat scripted")
    attributes = dict(span.attributes or {})
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (10, 3)
    assert attributes["gen_ai.request.stream"] is True
    assert 0 < attributes["gen_ai.response.time_to_first_chunk"] < 10  # type: ignore[operator]
    assert '"content":"ab"' in str(attributes["gen_ai.output.messages"])


async def test_a_streamed_call_whose_last_response_says_no_usage_has_used_what_was_said_before(seen: Captured) -> None:
    answer = [text("a", partial=True, usage_metadata=usage(10, 1)), text("ab", usage_metadata=None)]
    await ask(agent(answer), run_config=SSE)
    attributes = dict(seen.span("chat scripted").attributes or {})
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (10, 1)


async def test_the_tools_that_a_model_calls_are_no_part_of_its_call(seen: Captured) -> None:
    ended: list[int] = []

    def look() -> str:
        ended.append(sum(event.kind == "llm.response" for event in seen.events))
        return "seen"

    await ask(agent(calls(("c1", "look", {})), text("done"), tools=[look]))
    assert ended == [1]


async def test_a_failing_model_is_an_error_of_its_call_and_of_the_run(seen: Captured) -> None:
    with pytest.raises(TimeoutError, match="slow"):
        await ask(agent(TimeoutError("slow")))
    assert outcomes(seen) == [("llm.response", "planner", "error"), ("agent.end", "planner", "error")]
    assert (seen.span("chat scripted").attributes or {})["error.type"] == "TimeoutError"


async def test_a_failing_model_that_somebody_stands_in_for_is_an_error_of_its_call_only(seen: Captured) -> None:
    def stand_in(**_: Any) -> LlmResponse:
        return text("instead", usage_metadata=None)

    assert await ask(agent(TimeoutError("slow"), on_model_error_callback=stand_in)) == ["instead"]
    assert outcomes(seen) == [("llm.response", "planner", "error"), ("agent.end", "planner", "ok")]


async def test_an_answer_that_a_callback_gives_is_no_model_call(seen: Captured) -> None:
    def cached(**_: Any) -> LlmResponse:
        return text("from the cache")

    assert await ask(agent(before_model_callback=cached)) == ["from the cache"]
    assert outcomes(seen) == [("agent.end", "planner", "ok")]


async def test_an_error_that_the_model_tells_is_one_and_a_reason_to_stop_is_none(seen: Captured) -> None:
    blocked = LlmResponse(error_code="SAFETY", finish_reason=types.FinishReason.SAFETY, usage_metadata=usage())
    broken = LlmResponse(error_code="OVERLOADED", error_message="later", usage_metadata=usage())
    await ask(agent(blocked, name="one"))
    await ask(agent(broken, name="two"))
    told = [(e.outcome, e.error_type, e.finish_reasons) for e in seen.events if e.kind == "llm.response"]  # type: ignore[attr-defined]
    assert told == [("ok", None, ["safety"]), ("error", "overloaded", None)]


async def test_each_try_is_a_call_of_its_own(seen: Captured) -> None:
    retrying = RetryConfig(max_attempts=2, initial_delay=0, jitter=0)
    flaky = agent(TimeoutError("slow"), text("done"), name="flaky", retry_config=retrying)
    await ask(Workflow(name="graph", edges=[("START", flaky)]))
    assert_outline(
        seen.spans,
        """
        invoke_agent graph
        ├─ invoke_agent flaky
        │  └─ chat scripted · 10+2
        └─ invoke_agent flaky · !TimeoutError
           └─ chat scripted · !TimeoutError
        """,
    )


def test_a_models_provider_is_read_off_its_name_or_class() -> None:
    class Claude(BaseLlm):
        async def generate_content_async(self, *_: Any, **__: Any) -> AsyncGenerator[LlmResponse, None]:
            yield LlmResponse()

    given = ("gemini-2.5-flash", "openai/gpt-5", "azure/mine", "claude-sonnet-4", "apigee/gemini-2.5-pro", "mine", None)
    assert [providers.provider_of(name) for name in given] == [
        "gcp.gemini",
        "openai",
        "azure.ai.openai",
        "anthropic",
        "gcp.gemini",
        None,
        None,
    ]
    assert [providers.named(name) for name in given] == [
        "gemini-2.5-flash",
        "gpt-5",
        "mine",
        "claude-sonnet-4",
        "gemini-2.5-pro",
        "mine",
        None,
    ]
    assert providers.provider_of(Claude(model="mine")) == "anthropic"
    assert providers.provider_of(Scripted()) is None


# -- how runs end -----------------------------------------------------------------------------------------------------


async def test_a_stream_that_is_read_to_its_end_is_ok_and_nothing_is_current_between_its_chunks(seen: Captured) -> None:
    answer = [*partials("a", "b"), text("ab", finish_reason=types.FinishReason.STOP)]
    roots = [agent(answer), SequentialAgent(name="row", sub_agents=[agent(answer, name="one")])]
    for n, root in enumerate(roots):
        runner = await runner_of(root, session=f"s{n}")
        async with aclosing(begun(runner, session_id=f"s{n}", run_config=SSE)) as events:
            async for _ in events:
                assert current() is None
                assert not get_current_span().get_span_context().is_valid
                with agentbus.agent("consumers"):
                    pass
    assert_outline(
        seen.spans,
        "\n".join(
            [
                *["invoke_agent consumers"] * 6,
                "invoke_agent planner\n└─ chat scripted · 10+2",
                "invoke_agent row\n└─ invoke_agent one\n   └─ chat scripted · 10+2",
            ]
        ),
    )


@pytest.mark.parametrize("how", ["closed", "dropped"])
@pytest.mark.parametrize("shell", [False, True])
async def test_a_run_that_is_left_early_is_cancelled(seen: Captured, how: str, shell: bool) -> None:
    goes_on = asyncio.Event()

    class Slow(Scripted):
        async def generate_content_async(self, *_: Any, **__: Any) -> AsyncGenerator[LlmResponse, None]:
            yield partials("a")[0]
            await goes_on.wait()
            yield text("ab")

    root: BaseAgent = LlmAgent(name="teller", model=Slow())
    if shell:
        root = SequentialAgent(name="row", sub_agents=[root])
    runner = await runner_of(root)
    events = begun(runner, run_config=SSE)
    async for event in events:
        assert event.content.parts[0].text == "a"
        break
    if how == "closed":
        await events.aclose()
    else:
        del events, event
        gc.collect()
        while observing._last[0].open:
            await asyncio.sleep(0)
    told = outcomes(seen)
    assert told[-1] == ("agent.end", "row" if shell else "teller", "cancelled")
    assert {outcome for *_, outcome in told} == {"cancelled"}
    assert len(told) == (3 if shell else 2)


@pytest.mark.parametrize("shell", [False, True])
async def test_a_run_whose_task_is_cancelled_is_cancelled(seen: Captured, shell: bool) -> None:
    waiting = asyncio.Event()

    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    root: BaseAgent = agent(calls(("c1", "wait", {})), tools=[wait])
    if shell:
        root = SequentialAgent(name="row", sub_agents=[root])
    task = asyncio.create_task(ask(root))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    told = outcomes(seen)
    assert ("tool.end", "wait", "cancelled") in told
    assert ("agent.end", "planner", "cancelled") in told
    assert told[-1] == ("agent.end", "row" if shell else "planner", "cancelled")


@pytest.mark.parametrize("closing", [True, False])
async def test_an_agent_between_whose_events_its_run_is_cancelled_is_cancelled(seen: Captured, closing: bool) -> None:
    waiting = asyncio.Event()

    class Pausing(BaseAgent):
        async def _run_async_impl(self, ctx: Any) -> AsyncGenerator[Any, None]:
            events = self.sub_agents[0].run_async(ctx)
            async with aclosing(events) if closing else nullcontext():
                async for event in events:
                    yield event
                    waiting.set()
                    await asyncio.Event().wait()

    task = asyncio.create_task(ask(Pausing(name="pausing", sub_agents=[agent(text("a"), name="one")])))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    for _ in range(100):  # what nobody closes is closed by a task of the loop's
        await asyncio.sleep(0)
    assert sorted(outcomes(seen)) == [
        ("agent.end", "one", "cancelled"),
        ("agent.end", "pausing", "cancelled"),
        ("llm.response", "one", "ok"),
    ]


async def test_a_run_that_is_aborted_is_cancelled(seen: Captured) -> None:
    abort = asyncio.Event()

    def look() -> str:
        abort.set()
        return "seen"

    if "abort_signal" not in Runner.run_async.__wrapped__.__kwdefaults__:  # type: ignore[attr-defined]
        pytest.skip("this version of ADK cannot abort")
    await ask(agent(calls(("c1", "look", {})), text("never"), tools=[look]), abort_signal=abort)
    assert outcomes(seen)[-1] == ("agent.end", "planner", "cancelled")


async def test_a_session_that_is_missing_is_an_error_of_the_run(seen: Captured) -> None:
    runner = await runner_of(agent(text("never")))
    with pytest.raises(ValueError, match=r"[Ss]ession"):
        async for _ in begun(runner, session_id="none"):
            pass
    assert [told[2] for told in outcomes(seen)] == ["error"]


# -- without changing it ----------------------------------------------------------------------------------------------


async def test_tools_see_the_same_context_variables_and_tasks_with_and_without_us() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("theirs", default="unset")

    async def told(*, shell: bool) -> list[Any]:
        found: list[Any] = []

        async def look() -> str:
            found.append((variable.get(), asyncio.current_task() is outer, len(asyncio.all_tasks())))
            return "seen"

        def before(**_: Any) -> None:
            variable.set(variable.get() + "+agent")

        root: BaseAgent = agent(calls(("c1", "look", {})), text("done"), tools=[look], before_agent_callback=before)
        if shell:
            root = SequentialAgent(name="row", sub_agents=[root])
        outer = asyncio.current_task()
        runner = await runner_of(root)
        variable.set("consumer")
        n = 0
        async for _ in begun(runner):
            n += 1
            found.append(variable.get())
            variable.set(f"consumer{n}")
        return found

    without = [await told(shell=False), await told(shell=True)]
    with adapters.instrument("google-adk"), testing.capture():
        assert [await told(shell=False), await told(shell=True)] == without


async def test_side_effects_come_in_the_same_order_with_and_without_us() -> None:
    async def told() -> list[str]:
        order: list[str] = []

        def noting(what: str) -> Callable[..., None]:
            def note(*_: Any, **__: Any) -> None:
                order.append(what)

            return note

        async def look(n: int) -> str:
            order.append(f"look {n}")
            await asyncio.sleep(0)
            order.append(f"looked {n}")
            return "seen"

        class Noting(BasePlugin):
            async def before_tool_callback(self, *, tool_args: dict[str, Any], **_: Any) -> None:
                order.append(f"plugin before {tool_args}")

            async def after_tool_callback(self, *, tool_args: dict[str, Any], **_: Any) -> None:
                order.append(f"plugin after {tool_args}")

            async def after_run_callback(self, **_: Any) -> None:
                order.append("plugin after run")

        def model() -> LlmResponse:
            order.append("model")
            return calls(("c1", "look", {"n": 1}), ("c2", "look", {"n": 2}))

        root = agent(
            model,
            text("done"),
            tools=[look],
            before_agent_callback=noting("before agent"),
            after_agent_callback=noting("after agent"),
            before_model_callback=noting("before model"),
            after_model_callback=noting("after model"),
        )
        await ask(app=App(name="words", root_agent=root, plugins=[Noting("noting")]))
        return order

    without = await told()
    with adapters.instrument("google-adk"), testing.capture():
        assert await told() == without


async def test_what_goes_wrong_in_observing_never_reaches_the_run(
    instrumented: adapters.Instrumented, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("ours")

    def look() -> str:
        return "seen"

    for name in ("agent_block", "llm_block", "tool_block", "llm_end", "said", "tokens", "conversation"):
        with monkeypatch.context() as patch, testing.capture():
            patch.setattr(mapping, name, broken)
            assert await ask(agent(calls(("c1", "look", {})), text("done"), tools=[look])) == ["done"]
            assert losses.counts.total() > 0, name
            losses.counts.clear()


async def test_without_a_bus_it_runs_as_ever(instrumented: adapters.Instrumented) -> None:
    found: list[Any] = []

    def look() -> str:
        found.append(current() and current().agent)  # type: ignore[union-attr]
        return "seen"

    assert await ask(agent(calls(("c1", "look", {})), text("done"), tools=[look])) == ["done"]
    assert found == ["planner"]


# -- on and off -------------------------------------------------------------------------------------------------------


async def test_off_leaves_adk_as_it_was_found_and_it_can_be_observed_again() -> None:
    for _ in range(2):
        switch = google_adk.instrument()
        assert not switch.chained
        assert all(now is not UNTOUCHED[name] for name, now in found_now().items())
        switch.off()
        assert found_now() == UNTOUCHED
        with testing.capture() as seen:
            assert await ask(agent(text("done"))) == ["done"]
            assert seen.events == []
    with adapters.instrument("google-adk"), testing.capture() as seen:
        await ask(agent(text("done")))
        assert len(seen.spans) == 2


async def test_a_run_that_has_begun_is_observed_to_its_end() -> None:
    inner = agent(text("found"), name="inner")

    async def look(tool_context: ToolContext) -> str:
        return str(await tool_context.run_node(inner, node_input="well?"))

    root = agent(calls(("c1", "look", {})), text("done"), tools=[look])
    with testing.capture() as seen:
        switch = google_adk.instrument()
        runner = await runner_of(root)
        async for _ in begun(runner):
            switch.off()
            await ask(agent(text("unseen"), name="another"), session_id="s2")
        assert found_now() == UNTOUCHED
        assert_outline(
            seen.spans,
            """
            invoke_agent planner
            ├─ chat scripted · 10+2
            ├─ chat scripted · 10+2
            └─ execute_tool look
               └─ invoke_agent inner
                  └─ chat scripted · 10+2
            """,
        )


# -- beside others ----------------------------------------------------------------------------------------------------

NATIVE = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
import otel_agentbus as agentbus
from google.adk.agents import SequentialAgent
from google.adk.runners import InMemoryRunner
from tests.frameworks.shape import outline, program
example = program("google-adk")
if {shell}:
    example.planner = SequentialAgent(name="row", sub_agents=[example.planner])
with agentbus.connect() as bus:
    with agentbus.instrument("google-adk"):
        asyncio.run(example.main())
    bus.flush()
    assert bus.summary().total.calls == 6, bus.summary().total
spans = exporter.get_finished_spans()
assert {{span.instrumentation_scope.name for span in spans}} == {{"otel_agentbus", "gcp.vertex.agent"}}
assert len({{span.context.trace_id for span in spans}}) == 2
above = {{span.context.span_id: span for span in spans}}
for span in spans:
    if span.instrumentation_scope.name == "gcp.vertex.agent" and not span.name.startswith("invo"):
        assert above[span.parent.span_id].instrumentation_scope.name == "gcp.vertex.agent", span.name
print("---")
print(outline([span for span in spans if span.instrumentation_scope.name == "otel_agentbus"]))
"""

WATCHED = """
import importlib, wrapt
loaded = []
ours = "otel_agentbus.adapters.google_adk"
wrapt.register_post_import_hook(lambda _: loaded.append(importlib.import_module(ours).instrument()), {watched!r})
import google.adk
from google.adk.agents import LlmAgent
from google.adk.runners import InMemoryRunner
assert loaded[0].wrapped
loaded[0].off()
assert not loaded[0].wrapped
"""


def in_a_process_of_its_own(program: str) -> str:
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("shell", [False, True])
def test_beside_adks_own_spans_our_tree_is_the_same_and_so_is_theirs(shell: bool) -> None:
    tree = in_a_process_of_its_own(NATIVE.format(shell=shell)).partition("---\n")[2].strip()
    expected = textwrap.dedent(TREE).strip().splitlines()
    if shell:
        planner, teller = expected[:-2], expected[-2:]
        expected = ["invoke_agent row", f"└─ {planner[0]}", *(f"   {line}" for line in planner[1:]), *teller]
    assert tree.splitlines() == expected


def test_it_can_be_loaded_at_the_moment_when_a_programs_import_of_adk_shows_that_it_uses_it() -> None:
    in_a_process_of_its_own(WATCHED.format(watched=adapters.ADAPTERS["google-adk"].watch))


async def tallying(log: list[Any]) -> AsyncGenerator[Any, Any]:
    try:
        sent = yield 1
        log.append(sent)
        try:
            yield 2
        except KeyError as error:
            log.append(repr(error))
        yield 3
    finally:
        await asyncio.sleep(0)
        log.append("closed")


async def test_what_is_sent_and_thrown_into_a_generator_reaches_it() -> None:
    told = []
    for source in (tallying, lambda log: driving.driven(tallying(log), driving.Watch)):
        log: list[Any] = []
        steps = source(log)
        log.append(await steps.__anext__())
        log.append(await steps.asend("hello"))
        log.append(await steps.athrow(KeyError("k")))
        with pytest.raises(ValueError, match="v"):
            await steps.athrow(ValueError("v"))
        with pytest.raises(StopAsyncIteration):
            await steps.__anext__()
        closed = source(log)
        await closed.__anext__()
        await closed.aclose()
        await closed.aclose()
        told.append(log)
    assert told[0] == told[1] == [1, "hello", 2, "KeyError('k')", 3, "closed", "closed"]


# -- budgets ----------------------------------------------------------------------------------------------------------


STOP = Budget("week", tokens=5, window="7d", on_exceeded="raise")


async def test_a_budget_that_is_used_up_reaches_the_caller_as_it_is(instrumented: adapters.Instrumented) -> None:
    looked: list[int] = []

    def look() -> str:
        looked.append(1)
        return "seen"

    with testing.capture(budgets=[STOP]) as seen:
        with pytest.raises(BudgetExceeded) as first:
            await ask(agent(calls(("c1", "look", {})), text("never"), tools=[look]))
        with pytest.raises(BudgetExceeded):
            await ask(SequentialAgent(name="row", sub_agents=[agent(text("never"), name="one")]), session_id="s2")
        assert first.value.budget == "week"
        assert looked == []
        assert outcomes(seen) == [
            ("llm.response", "planner", "ok"),
            ("agent.end", "planner", "error"),
            ("agent.end", "one", "error"),
            ("agent.end", "row", "error"),
        ]


# -- content ----------------------------------------------------------------------------------------------------------


async def test_no_content_is_captured_unless_asked(instrumented: adapters.Instrumented) -> None:
    def look(word: str) -> str:
        return "secret-result"

    with testing.capture() as seen:
        root = agent(
            calls(("c1", "look", {"word": "secret-argument"})),
            text("secret-answer"),
            instruction="secret-instruction",
            tools=[look],
        )
        await ask(root, "secret-question")
        assert "secret" not in str([(span.name, span.attributes, span.events) for span in seen.spans])


async def test_content_is_captured_in_the_parts_schema_when_asked(seen: Captured) -> None:
    def look(word: str) -> dict[str, str]:
        return {"found": word}

    thought = types.Part(text="hm", thought=True)
    image = types.Part(inline_data=types.Blob(data=b"\x00\x01", mime_type="image/png"))
    answer = LlmResponse(content=types.Content(role="model", parts=[thought, types.Part(text="done")]))
    root = agent(calls(("c1", "look", {"word": "tea"})), answer, instruction="Be brief.", tools=[look])
    runner = await runner_of(root)
    message = types.Content(role="user", parts=[types.Part(text="Look."), image])
    async for _ in runner.run_async(user_id="ada", session_id="s1", new_message=message):
        pass

    requests = [event.messages for event in seen.events if event.kind == "llm.request"]  # type: ignore[attr-defined]
    assert requests[1][1:] == [
        {
            "role": "user",
            "parts": [{"type": "text", "content": "Look."}, {"type": "blob", "mime_type": "image/png"}],
        },
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "look", "arguments": {"word": "tea"}}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": {"found": "tea"}}]},
    ]
    assert requests[1][0]["role"] == "system"
    assert requests[1][0]["parts"][0]["content"].startswith("Be brief.")
    responses = [event.messages for event in seen.events if event.kind == "llm.response"]  # type: ignore[attr-defined]
    assert responses[1] == [
        {"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"}, {"type": "text", "content": "done"}]}
    ]
    (start,) = (event for event in seen.events if event.kind == "agent.start")
    (end,) = (event for event in seen.events if event.kind == "agent.end")
    assert (start.instructions, end.output) == (  # type: ignore[attr-defined]
        "Be brief.",
        "done",
    )
