"""The Claude Agent SDK, observed: its own lines, from a scripted transport and from a program that speaks them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import claude_agent_sdk
import pytest
from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    CLINotFoundError,
    HookMatcher,
    ProcessError,
    create_sdk_mcp_server,
    query,
    tool,
)
from claude_agent_sdk._internal.client import InternalClient
from claude_agent_sdk._internal.query import Query
from opentelemetry import trace

import otel_agentbus as agentbus
from otel_agentbus import Budget, BudgetExceeded, adapters, testing
from otel_agentbus.adapters.claude_agent_sdk import mapping
from otel_agentbus.adapters.claude_agent_sdk.sessions import Session
from otel_agentbus.adapters.losses import losses
from otel_agentbus.callbacks import OpenBlocks
from otel_agentbus.events import DomainEvent
from otel_agentbus.testing import Captured

from .shape import assert_outline, program

EXAMPLE = program("claude-agent-sdk")
Offline, init, says, use, gives, asks = (
    getattr(EXAMPLE, name) for name in ("Offline", "init", "says", "use", "gives", "asks")
)
Script = Callable[[Any], AsyncIterator[dict[str, Any]]]
USAGE = (60, 40, 10)
#: Older ones make an exception of their reader a bare `Exception` with its text.
TYPED = hasattr(claude_agent_sdk, "ResultError")


@pytest.fixture(autouse=True)
def _nothing_goes_wrong() -> Any:
    losses.counts.clear()
    yield
    assert not losses.counts


def result(text: str = "Done.", **more: Any) -> dict[str, Any]:
    return {
        "type": "result", "subtype": "success", "is_error": False, "duration_ms": 1, "duration_api_ms": 1,
        "num_turns": 1, "result": text, **EXAMPLE.SESSION, **more,
    }  # fmt: skip


def lines(*given: dict[str, Any]) -> Script:
    async def script(cli: Any) -> AsyncIterator[dict[str, Any]]:
        for line in given:
            yield line

    return script


async def ask(script: Script, prompt: str = "Go.", **options: Any) -> list[Any]:
    found = ClaudeAgentOptions(**{"model": "m", **options})
    return [message async for message in query(prompt=prompt, options=found, transport=Offline(script))]


async def ended(seen: Captured, spans: int) -> None:
    """The SDK's `query` leaves its inner generator to the collector and the loop, with us and without."""
    for _ in range(200):
        if len(seen.spans) >= spans:
            return
        gc.collect()
        await asyncio.sleep(0)


def attributes_of(seen: Captured, name: str) -> dict[str, Any]:
    return dict(next(span.attributes for span in seen.spans if span.name == name and span.attributes))


# -- the program of the same shape -------------------------------------------------------------------------------------

TREE = """
    invoke_agent planner
    ├─ chat fake-planner · 100+10
    ├─ chat fake-planner · 100+10
    ├─ chat fake-planner · 100+10
    ├─ execute_tool Agent
    │  └─ invoke_agent researcher
    │     └─ chat fake-researcher · 20+5
    ├─ execute_tool Agent
    │  └─ invoke_agent researcher
    │     └─ chat fake-researcher · 20+5
    └─ execute_tool mcp__press__publish · !tool_error
"""
LEFT = """
    invoke_agent teller · ~cancelled
    └─ chat fake-teller · 30+1 · ~cancelled
"""


async def test_the_program_is_seen_as_its_tree_with_every_token_once(seen: Captured) -> None:
    assert await EXAMPLE.run() == "Tea goes with rain."
    assert_outline(seen.spans, TREE)
    total = seen.bus.summary().total
    assert (total.calls, total.input, total.output, total.cached) == (5, 340, 40, 120)
    used: dict[str, int] = {}
    for labels, count in seen.metric("agentbus.tokens.used").items():
        kind = dict(labels)["gen_ai.token.type"]
        used[kind] = used.get(kind, 0) + count
    assert (used["input"], used["output"]) == (340, 40)


async def test_a_stream_that_is_left_early_is_cancelled(seen: Captured) -> None:
    assert await EXAMPLE.tell() == "Tea "
    await ended(seen, 2)
    assert_outline(seen.spans, LEFT)
    call = attributes_of(seen, "chat fake-teller")
    assert call["gen_ai.request.stream"] is True
    assert call["gen_ai.response.time_to_first_chunk"] >= 0


async def test_a_plain_break_ends_all_of_it_as_soon_as_the_stream_is_collected(seen: Captured) -> None:
    async for message in query(
        prompt="Tell.", options=ClaudeAgentOptions(model="m"), transport=Offline(EXAMPLE.teller)
    ):
        if type(message).__name__ == "StreamEvent":
            break
    await ended(seen, 2)
    assert [span.attributes["agentbus.outcome"] for span in seen.spans if span.attributes] == ["cancelled"] * 2


async def test_it_runs_the_same_with_and_without_us() -> None:
    async def told() -> list[str]:
        heard: list[str] = []

        async def hook(input: Any, id: str | None, context: Any) -> dict[str, Any]:
            heard.append(f"hook {id}")
            return {}

        options = EXAMPLE.planner_options()
        options.hooks = {"PreToolUse": [HookMatcher(hooks=[hook])]}
        before = dict(vars(options))
        transport = Offline(EXAMPLE.planner)
        async for message in query(prompt="Go.", options=options, transport=transport):
            heard.append(repr(message))  # noqa: PERF401 - hooks append to it as well
        assert vars(options) == before
        return heard

    without = await told()
    with adapters.instrument("claude-agent-sdk"), testing.capture():
        assert await told() == without


async def test_what_is_captured_and_what_is_not() -> None:
    with adapters.instrument("claude-agent-sdk"), testing.capture() as seen:
        await EXAMPLE.run()
    said = json.dumps([dict(span.attributes or {}) for span in seen.spans])
    assert "Tea" not in said
    assert "wet" not in said


async def test_content_is_told_in_the_parts_schema(seen: Captured) -> None:
    await EXAMPLE.run()
    last = [span for span in seen.spans if span.name == "chat fake-planner"][-1].attributes or {}
    asked = json.loads(str(last["gen_ai.input.messages"]))
    assert [message["role"] for message in asked] == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert asked[-1]["parts"] == [{"type": "tool_call_response", "id": "t3", "response": "no such channel"}]
    answer = json.loads(str(last["gen_ai.output.messages"]))
    assert answer[0]["parts"] == [{"type": "text", "content": "Tea goes with rain."}]
    researcher = attributes_of(seen, "chat fake-researcher")
    assert json.loads(researcher["gen_ai.input.messages"])[0]["parts"][0]["content"].startswith("research ")
    failed = attributes_of(seen, "execute_tool mcp__press__publish")
    assert json.loads(failed["gen_ai.tool.call.arguments"]) == {"text": "Tea, rain."}


# -- nesting -----------------------------------------------------------------------------------------------------------

MARK: contextvars.ContextVar[str] = contextvars.ContextVar("MARK", default="none")


def with_tool(body: Callable[[], Any]) -> tuple[ClaudeAgentOptions, Script]:
    @tool("work", "Work.", {})
    async def work(arguments: dict[str, Any]) -> dict[str, Any]:
        await body()
        return {"content": [{"type": "text", "text": "worked"}]}

    async def script(cli: Any) -> AsyncIterator[dict[str, Any]]:
        yield init("m")
        yield says("m", "m1", use("t1", "mcp__press__work"), usage=USAGE)
        async for line in asks(cli, "t1", "work", {}):
            yield line
        yield says("m", "m2", "Done.", usage=USAGE)
        yield result()

    server = create_sdk_mcp_server("press", tools=[work])
    return ClaudeAgentOptions(model="m", mcp_servers={"press": server}), script


async def test_what_a_tool_of_this_process_runs_is_nested_under_its_call(seen: Captured) -> None:
    async def body() -> None:
        assert MARK.get() == "mine"
        with agentbus.agent("inner"):
            await asyncio.sleep(0)
        await EXAMPLE.tell()
        await ended(seen, 3)
        with trace.get_tracer("user").start_as_current_span("http") as span:
            found.append(span.parent if hasattr(span, "parent") else trace.get_current_span().get_span_context())

    found: list[Any] = []
    options, script = with_tool(body)
    MARK.set("mine")
    with agentbus.agent("outer"):
        async for _ in query(prompt="Go.", options=options, transport=Offline(script)):
            current = agentbus.current()
            assert current is not None
            assert current.agent == "outer"
    assert_outline(
        seen.spans,
        """
        invoke_agent outer
        └─ invoke_agent claude
           ├─ chat m · 100+10
           ├─ chat m · 100+10
           └─ execute_tool mcp__press__work
              ├─ invoke_agent inner
              └─ invoke_agent teller · ~cancelled
                 └─ chat fake-teller · 30+1 · ~cancelled
        """,
    )
    call = next(span for span in seen.spans if span.name == "execute_tool mcp__press__work")
    assert call.context is not None
    assert found[0].span_id == call.context.span_id


async def test_nothing_is_current_in_the_consumer(seen: Captured) -> None:
    async for _ in query(prompt="Go.", options=EXAMPLE.planner_options(), transport=Offline(EXAMPLE.planner)):
        assert agentbus.current() is None
        assert not trace.get_current_span().get_span_context().is_valid
    assert agentbus.current() is None


async def test_parallel_queries_do_not_mix(seen: Captured) -> None:
    await asyncio.gather(*(EXAMPLE.run() for _ in range(5)))
    assert len([span for span in seen.spans if span.parent is None]) == 5
    assert seen.bus.summary().total.input == 5 * 340


def test_threads_with_loops_of_their_own_do_not_mix(seen: Captured) -> None:
    threads = [threading.Thread(target=lambda: asyncio.run(EXAMPLE.run())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([span for span in seen.spans if span.parent is None]) == 3
    assert seen.bus.summary().total.input == 3 * 340


# -- what the lines say ------------------------------------------------------------------------------------------------


async def test_an_answer_told_in_several_messages_is_one_call_with_its_highest_counts(seen: Captured) -> None:
    one = says("m", "m1", "Let me see.", usage=(60, 40, 1))
    two = says("m", "m1", use("t1", "Bash", command="ls"), usage=(60, 40, 25))
    await ask(lines(init("m"), one, two, gives("t1", "file"), says("m", "m2", "One.", usage=(90, 0, 5)), result()))
    assert_outline(
        seen.spans,
        """
        invoke_agent claude
        ├─ chat m · 100+25
        ├─ chat m · 90+5
        └─ execute_tool Bash
        """,
    )


async def test_a_tool_that_is_done_before_the_answer_is_makes_no_call_of_its_own(seen: Captured) -> None:
    first, second = (says("m", "m1", use(id, "Bash"), usage=USAGE) for id in ("t1", "t2"))
    done = says("m", "m2", "Done.", usage=(10, 0, 5))
    await ask(lines(init("m"), first, gives("t1", "a"), second, gives("t2", "b"), done, result()))
    assert_outline(
        seen.spans,
        """
        invoke_agent claude
        ├─ chat m · 10+5
        ├─ chat m · 100+10
        ├─ execute_tool Bash
        └─ execute_tool Bash
        """,
    )


async def test_a_stream_to_its_end_takes_its_usage_and_its_finish_from_the_events(seen: Captured) -> None:
    def event(kind: str, **more: Any) -> dict[str, Any]:
        return {"type": "stream_event", "event": {"type": kind, **more}, "parent_tool_use_id": None, **EXAMPLE.SESSION}

    start = {"id": "m1", "model": "m", "content": [], "usage": {"input_tokens": 10, "output_tokens": 1}}
    await ask(
        lines(
            init("m"),
            event("message_start", message=start),
            event("content_block_delta", delta={"type": "text_delta", "text": "Hi"}),
            says("m", "m1", "Hi", usage=(10, 0, 1)),
            event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7}),
            event("message_stop"),
            result(),
        ),
        include_partial_messages=True,
    )
    assert_outline(seen.spans, "invoke_agent claude\n└─ chat m · 10+7")
    call = attributes_of(seen, "chat m")
    assert call["gen_ai.response.finish_reasons"] == ("end_turn",)
    assert call["gen_ai.response.id"] == "m1"


async def test_a_sub_agent_in_the_background_ends_when_its_task_does(seen: Captured) -> None:
    start = {"type": "system", "subtype": "task_started", "task_id": "a", "tool_use_id": "t1",
             "task_type": "local_agent", "description": "d", **EXAMPLE.SESSION}  # fmt: skip
    end = {"type": "system", "subtype": "task_updated", "task_id": "a", "patch": {"status": "killed"}}
    await ask(
        lines(
            init("m"),
            says("m", "m1", use("t1", "Agent", subagent_type="worker", run_in_background=True), usage=USAGE),
            start,
            gives("t1", "started"),
            says("m", "m2", "I wait.", usage=USAGE),
            result(),
            says("w", "w1", "still here", usage=(20, 0, 5), parent="t1"),
            end,
        )
    )
    assert_outline(
        seen.spans,
        """
        invoke_agent claude
        ├─ chat m · 100+10
        ├─ chat m · 100+10
        └─ execute_tool Agent
           └─ invoke_agent worker · ~cancelled
              └─ chat m · 20+5
        """,
    )


async def test_a_sub_agents_prompt_is_told_once_and_its_last_answer_need_not_be(seen: Captured) -> None:
    prompt = {"type": "user", "message": {"role": "user", "content": [{"type": "text", "text": "Dig."}]},
              "parent_tool_use_id": "t1", **EXAMPLE.SESSION}  # fmt: skip
    dug = {**gives("t2", "bone"), "parent_tool_use_id": "t1"}
    await ask(
        lines(
            init("m"),
            says("m", "m1", use("t1", "Task", subagent_type="dog", prompt="Dig.", model="d"), usage=USAGE),
            prompt,
            says("d", "d1", use("t2", "Bash", command="dig"), usage=(20, 0, 5), parent="t1"),
            dug,
            gives("t1", "A bone."),
            says("m", "m2", "A bone.", usage=USAGE),
            result(),
        )
    )
    assert_outline(
        seen.spans,
        """
        invoke_agent claude
        ├─ chat m · 100+10
        ├─ chat m · 100+10
        └─ execute_tool Task
           └─ invoke_agent dog
              ├─ chat d
              ├─ chat d · 20+5
              └─ execute_tool Bash
        """,
    )
    asked = [event.messages for event in seen.events if event.kind == "llm.request" and event.agent == "dog"]  # type: ignore[attr-defined]
    assert [len(messages) for messages in asked] == [1, 3]
    assert asked[0] == [{"role": "user", "parts": [{"type": "text", "content": "Dig."}]}]


async def test_an_error_of_the_api_is_an_error_of_its_call_and_of_the_turn(seen: Captured) -> None:
    failed = {**says("<synthetic>", "s1", "API Error: overloaded", usage=(0, 0, 0)), "error": "server_error"}
    end = result("API Error: overloaded", is_error=True, api_error_status=529)
    await ask(lines(init("m"), failed, end))
    assert_outline(seen.spans, "invoke_agent claude · !529\n└─ chat m · !server_error")
    assert seen.bus.summary().total.errors == 1


async def test_a_retry_is_told_where_it_happened(seen: Captured) -> None:
    retry = {"type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 10, "retry_delay_ms": 500,
             "error_status": 529, "error": "overloaded", **EXAMPLE.SESSION}  # fmt: skip
    await ask(lines(init("m"), retry, says("m", "m1", "Hi", usage=USAGE), result()))
    (event,) = [event for event in seen.events if isinstance(event, DomainEvent)]
    assert (event.name, event.agent) == ("claude.api_retry", "claude")
    told = {"attempt": 1, "max_retries": 10, "retry_delay_ms": 500, "error_status": 529, "error": "overloaded"}
    assert event.data == told
    assert_outline(seen.spans, "invoke_agent claude\n└─ chat m · 100+10")


async def test_a_run_out_of_turns_has_no_call_that_did_not_take_place(seen: Captured) -> None:
    end = result("", subtype="error_max_turns", is_error=True)
    await ask(lines(init("m"), says("m", "m1", use("t1", "Bash"), usage=USAGE), gives("t1", "x"), end), max_turns=1)
    assert_outline(
        seen.spans,
        """
        invoke_agent claude · !error_max_turns
        ├─ chat m · 100+10
        └─ execute_tool Bash
        """,
    )


async def test_the_reported_cost_is_the_turns_and_is_not_added_to_the_calls(seen: Captured) -> None:
    usage = {"m": {"inputTokens": 60, "cacheReadInputTokens": 40, "outputTokens": 10, "provider": "bedrock"}}
    await ask(lines(init("m"), says("m", "m1", "Hi", usage=USAGE), result(total_cost_usd=0.25, modelUsage=usage)))
    told = attributes_of(seen, "invoke_agent claude")
    assert told["agentbus.reported.cost_usd"] == 0.25
    assert told["gen_ai.provider.name"] == "aws.bedrock"
    assert seen.bus.summary().total.cost is None


def test_running_totals_become_those_of_a_turn() -> None:
    def totals(cost: float, tokens: int, **more: Any) -> dict[str, Any]:
        return {"total_cost_usd": cost, "modelUsage": {"m": {"inputTokens": tokens, "outputTokens": 1}}, **more}

    first, second, cleared = totals(0.5, 100), totals(0.75, 130), totals(0.25, 40)
    assert mapping.model_totals(first, {}) == ({"input_tokens": 100, "output_tokens": 1}, 0.5)
    assert mapping.model_totals(second, first) == ({"input_tokens": 30, "output_tokens": 0}, 0.25)
    assert mapping.model_totals(cleared, second) == ({"input_tokens": 40, "output_tokens": 1}, 0.25)
    since = {"m": {"inputTokens": 3, "outputTokens": 4, "costUSD": 0.125}}
    told = mapping.model_totals({**second, "model_usage_since_last_result": since}, first)
    assert told == ({"input_tokens": 3, "output_tokens": 4}, 0.125)


def test_of_a_usage_that_is_told_again_the_highest_counts_hold() -> None:
    known = mapping.merged({}, {"input_tokens": 60, "output_tokens": 25, "cache_creation": {"a": 1, "b": 5}})
    known = mapping.merged(known, {"input_tokens": 60, "output_tokens": 1, "cache_creation": {"a": 2, "b": 0}})
    assert known == {"input_tokens": 60, "output_tokens": 25, "cache_creation": {"a": 2, "b": 5}}


def test_counts_without_a_field_of_their_own_are_told_too() -> None:
    told = mapping.usage_fields(
        {
            "input_tokens": 1, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 4, "output_tokens": 8,
            "cache_creation": {"ephemeral_1h_input_tokens": 3}, "server_tool_use": {"web_search_requests": 2},
            "service_tier": "standard", "output_tokens_details": {"thinking_tokens": 5},
        }
    )  # fmt: skip
    assert told == {
        "input_tokens": 7, "output_tokens": 8, "cache_read_input_tokens": 2, "cache_write_input_tokens": 4,
        "reasoning_output_tokens": 5, "service_tier": "standard",
        "usage": {"cache_write_1h_tokens": 3, "web_search_requests": 2},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "env", "provider"),
    [
        ("claude-opus-5", {}, "anthropic"),
        ("us.anthropic.claude-opus-5-v1:0", {}, "aws.bedrock"),
        ("claude-opus-5@20260101", {}, "gcp.vertex_ai"),
        (None, {"CLAUDE_CODE_USE_VERTEX": "1"}, "gcp.vertex_ai"),
    ],
)
def test_the_provider_is_known_from_the_model_or_the_options(model: str, env: dict[str, str], provider: str) -> None:
    assert mapping.provider_of(model, ClaudeAgentOptions(env=env)) == provider


# -- the client --------------------------------------------------------------------------------------------------------


async def turns(cli: Any) -> AsyncIterator[dict[str, Any]]:
    yield init("m")
    yield says("m", "m1", "One.", usage=USAGE)
    yield result("One.", total_cost_usd=0.5)
    await cli.heard.get()
    yield init("m")
    yield says("m", "m2", "Two.", usage=(10, 0, 5))
    yield result("Two.", total_cost_usd=0.75)


async def test_each_turn_of_a_client_is_a_run_of_its_own_under_who_asked(seen: Captured) -> None:
    options = ClaudeAgentOptions(model="m", extra_args={"agent": "talker"})
    async with ClaudeSDKClient(options, transport=Offline(turns)) as client:
        for name in ("first", "second"):
            with agentbus.agent(name):
                await client.query("Go.")
                async for _ in client.receive_response():
                    current = agentbus.current()
                    assert current is not None
                    assert current.agent == name
    assert_outline(
        seen.spans,
        """
        invoke_agent first
        └─ invoke_agent talker
           └─ chat m · 100+10
        invoke_agent second
        └─ invoke_agent talker
           └─ chat m · 10+5
        """,
    )
    costs = [event.cost_usd for event in seen.events if event.kind == "agent.end" and event.agent == "talker"]  # type: ignore[attr-defined]
    assert costs == [0.5, 0.25]


async def test_an_interrupted_turn_is_cancelled(seen: Captured) -> None:
    async def script(cli: Any) -> AsyncIterator[dict[str, Any]]:
        yield init("m")
        yield says("m", "m1", use("t1", "Bash"), usage=USAGE)
        heard = await cli.heard.get()
        assert heard["request"]["subtype"] == "interrupt"
        yield {"type": "control_response", "response": {"subtype": "success", "request_id": heard["request_id"]}}
        yield gives("t1", "interrupted", is_error=True)
        yield result("", subtype="error_during_execution", is_error=True)

    async with ClaudeSDKClient(ClaudeAgentOptions(model="m"), transport=Offline(script)) as client:
        await client.query("Go.")
        async for message in client.receive_response():
            if isinstance(message, AssistantMessage):
                await client.interrupt()
    assert_outline(
        seen.spans,
        """
        invoke_agent claude · ~cancelled
        ├─ chat m · 100+10
        └─ execute_tool Bash · ~cancelled
        """,
    )


async def test_a_prompt_during_a_turn_belongs_to_it_and_leaves_no_trace_in_the_next(seen: Captured) -> None:
    async def script(cli: Any) -> AsyncIterator[dict[str, Any]]:
        yield init("m")
        await cli.heard.get()
        yield says("m", "m1", "Both.", usage=USAGE)
        yield result("Both.")
        await cli.heard.get()
        yield init("m")
        yield says("m", "m2", "Third.", usage=(10, 0, 5))
        yield result("Third.")

    async with ClaudeSDKClient(ClaudeAgentOptions(model="m"), transport=Offline(script)) as client:
        for prompts in (("one", "two"), ("three",)):
            with agentbus.agent(prompts[0]):
                for prompt in prompts:
                    await client.query(prompt)
                assert [message async for message in client.receive_response()]
    assert_outline(
        seen.spans,
        """
        invoke_agent one
        └─ invoke_agent claude
           └─ chat m · 100+10
        invoke_agent three
        └─ invoke_agent claude
           └─ chat m · 10+5
        """,
    )
    asked = [event.input for event in seen.events if event.kind == "agent.start" and event.agent == "claude"]  # type: ignore[attr-defined]
    assert asked == ["one", "three"]


async def test_a_client_that_is_closed_in_the_middle_leaves_nothing_open(seen: Captured) -> None:
    async def script(cli: Any) -> AsyncIterator[dict[str, Any]]:
        yield init("m")
        yield says("m", "m1", use("t1", "Bash"), usage=USAGE)
        await asyncio.Event().wait()

    async with ClaudeSDKClient(ClaudeAgentOptions(model="m"), transport=Offline(script)) as client:
        await client.query("Go.")
        async for message in client.receive_messages():
            if isinstance(message, AssistantMessage):
                break
    assert_outline(
        seen.spans,
        """
        invoke_agent claude · ~cancelled
        ├─ chat m · 100+10
        └─ execute_tool Bash · ~cancelled
        """,
    )


async def test_a_cancelled_task_is_cancelled(seen: Captured) -> None:
    begun = asyncio.Event()

    async def script(cli: Any) -> AsyncIterator[dict[str, Any]]:
        yield init("m")
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(ask(script))
    await begun.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {span.attributes["agentbus.outcome"] for span in seen.spans if span.attributes} == {"cancelled"}


# -- the real SDK with a program of its own ----------------------------------------------------------------------------

CLI = """#!{python}
import json, os, sys
if "-v" in sys.argv:
    print("2.1.330 (Claude Code)")
    sys.exit()
for line in sys.stdin:
    heard = json.loads(line)
    if heard["type"] == "control_request":
        answer = {{"subtype": "success", "request_id": heard["request_id"], "response": {{}}}}
        print(json.dumps({{"type": "control_response", "response": answer}}), flush=True)
    elif heard["type"] == "user":
        for said in json.load(open({script!r})):
            if "exit" in said:
                sys.exit(said["exit"])
            print(json.dumps(said).replace("TRACEPARENT", os.environ.get("TRACEPARENT", "")), flush=True)
"""


def program_at(path: Path, *said: dict[str, Any]) -> Path:
    script, cli = path / "script.json", path / "claude"
    script.write_text(json.dumps(said))
    cli.write_text(CLI.format(python=sys.executable, script=str(script)))
    cli.chmod(0o755)
    return cli


async def test_the_program_gets_the_runs_span_as_its_traceparent(seen: Captured, tmp_path: Path) -> None:
    cli = program_at(tmp_path, init("m"), says("m", "m1", "TRACEPARENT", usage=USAGE), result("TRACEPARENT"))
    said = [message async for message in query(prompt="Go.", options=ClaudeAgentOptions(cli_path=cli, model="m"))]
    assert_outline(seen.spans, "invoke_agent claude\n└─ chat m · 100+10")
    run = next(span for span in seen.spans if span.name == "invoke_agent claude").context
    assert run is not None
    assert said[-1].result == f"00-{run.trace_id:032x}-{run.span_id:016x}-{int(run.trace_flags):02x}"


async def test_a_program_that_dies_is_an_error(seen: Captured, tmp_path: Path) -> None:
    cli = program_at(tmp_path, init("m"), {"exit": 3})
    with pytest.raises(ProcessError if TYPED else Exception, match="exit code 3"):
        async for _ in query(prompt="Go.", options=ClaudeAgentOptions(cli_path=cli, model="m")):
            pass
    kind = "claude_agent_sdk._errors.ProcessError"
    assert_outline(seen.spans, f"invoke_agent claude · !{kind}\n└─ chat m · !{kind}")


async def test_a_clients_program_that_dies_is_an_error_of_its_turn(seen: Captured, tmp_path: Path) -> None:
    cli = program_at(tmp_path, init("m"), {"exit": 3})
    async with ClaudeSDKClient(ClaudeAgentOptions(cli_path=cli, model="m")) as client:
        await client.query("Go.")
        with pytest.raises(ProcessError if TYPED else Exception, match="exit code"):
            async for _ in client.receive_response():
                pass
    kind = "claude_agent_sdk._errors.ProcessError"
    assert_outline(seen.spans, f"invoke_agent claude · !{kind}\n└─ chat m · !{kind}")


async def test_a_program_that_is_not_there_is_an_error(seen: Captured, tmp_path: Path) -> None:
    with pytest.raises(CLINotFoundError):
        async for _ in query(prompt="Go.", options=ClaudeAgentOptions(cli_path=tmp_path / "none")):
            pass
    assert_outline(seen.spans, "invoke_agent claude · !claude_agent_sdk._errors.CLINotFoundError")


# -- what we must not do -----------------------------------------------------------------------------------------------


async def test_a_line_that_says_nonsense_leaves_nothing_open() -> None:
    odd = {"input_tokens": [1], "output_tokens": 7, "cache_read_input_tokens": {}, "cache_creation": 3,
           "server_tool_use": {"web_search_requests": "2"}, "service_tier": 5}  # fmt: skip
    answer = {"id": 9, "model": ["m"], "role": "assistant", "stop_reason": {"a": 1}, "usage": odd,
              "content": [{"type": "text", "text": "x"}]}  # fmt: skip
    with testing.capture() as seen, adapters.instrument("claude-agent-sdk"):
        blocks = OpenBlocks()
        session = Session(blocks, ClaudeAgentOptions(model="m"))
        session.prompt("Go.")
        session.hear({"type": "system", "subtype": "init", "model": 5})
        session.hear({"type": "assistant", "message": {**answer, "id": "a", "model": "m"}})
        session.hear({"type": "assistant", "message": answer})
        session.hear(result(permission_denials=True))
        session.over()
    assert len(blocks) == 0
    assert_outline(
        seen.spans,
        """
        invoke_agent claude
        ├─ chat m
        └─ chat m · None+7
    """,
    )


async def test_what_breaks_in_us_never_reaches_the_run(seen: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(mapping, "blocks_of", broken)
    assert await EXAMPLE.run() == "Tea goes with rain."
    monkeypatch.setattr(Session, "prompt", broken)
    assert await EXAMPLE.run() == "Tea goes with rain."
    assert set(losses.counts) == {
        "a line of Claude Code could not be told",
        "a query of the Claude Agent SDK could not be observed",
    }
    losses.counts.clear()


def test_off_puts_everything_back() -> None:
    def found() -> list[Any]:
        return [vars(InternalClient)["process_query"], *vars(ClaudeSDKClient).values(), *vars(Query).values()]

    before = found()
    adapters.instrument("claude-agent-sdk").off()
    after = found()
    assert len(before) == len(after)
    assert all(one is other for one, other in zip(before, after, strict=True))


async def test_a_session_that_has_begun_is_observed_to_its_end_after_off(seen: Captured) -> None:
    switched = adapters.active()["claude-agent-sdk"]
    async for message in query(prompt="Go.", options=EXAMPLE.planner_options(), transport=Offline(EXAMPLE.planner)):
        if isinstance(message, AssistantMessage):
            switched.off()
    await EXAMPLE.run()
    assert_outline(seen.spans, TREE)


async def test_a_budget_stops_the_run_and_its_exception_reaches_the_consumer() -> None:
    budget = Budget("run", tokens=100, on_exceeded="raise")
    with testing.capture(budgets=[budget]) as seen, adapters.instrument("claude-agent-sdk"):
        with pytest.raises(BudgetExceeded if TYPED else Exception, match="is used up"):
            await EXAMPLE.run()
        assert [span.name for span in seen.spans].count("chat fake-planner") == 1  # its usage is known with the results
        assert seen.bus.summary().total.calls == 3
        assert [event.outcome for event in seen.events if event.kind == "agent.end"][-1] == "error"  # type: ignore[attr-defined]


async def test_with_mcp_observed_too_a_tool_of_this_process_is_told_once(seen: Captured) -> None:
    async def body() -> None:
        with agentbus.agent("inner"):
            pass

    options, script = with_tool(body)
    with adapters.instrument("mcp"):
        async for _ in query(prompt="Go.", options=options, transport=Offline(script)):
            pass
    assert_outline(
        seen.spans,
        """
        invoke_agent claude
        ├─ chat m · 100+10
        ├─ chat m · 100+10
        └─ execute_tool mcp__press__work
           └─ invoke_agent inner
        """,
    )
