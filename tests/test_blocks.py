"""Blocks: the ways to use them, and what they tell."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus import current
from otel_agentbus.events import AgentEnd, AgentStart, LlmRequest, LlmResponse, ToolCall, ToolCallStart
from otel_agentbus.testing import Captured, FakeClock, capture

from .observing import assert_balanced, ends, outcomes, parents

KINDS: dict[str, Callable[[], Any]] = {
    "agent": lambda: agentbus.agent("b"),
    "llm": lambda: agentbus.llm("b"),
    "tool": lambda: agentbus.tool("b"),
}


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture() as captured:
        yield captured
    assert_balanced(captured)
    assert current() is None


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return KINDS[str(request.param)]


# -- ways to use them --------------------------------------------------------------------------------------------------


def test_a_run_and_its_calls_tell_everything_that_is_known() -> None:
    clock = FakeClock(1_000)
    with capture(fake_clock=clock) as seen:
        with agentbus.agent(
            "planner",
            provider="openai",
            model="gpt-5-mini",
            invocation_id="r",
            conversation_id="talk",
            channel="slack",
            instructions="be brief",
            input=["hello"],
            customer=7,
        ) as run:
            clock.advance(1)
            with run.llm(
                call_id="l", messages=["a", "b"], stream=True, parameters={"temperature": 0.5}, step=1
            ) as call:
                clock.advance(0.25)
                call.record(input_tokens=3, output_tokens=4, response_model="gpt-5-mini-2", cached=True)
            with run.tool("search", tool_call_id="c", arguments={"q": 1}) as tool:
                clock.advance(0.5)
                tool.record(result="3 hits")
            run.record(output="done", tokens_used=7)
        source, trace = seen.bus.source, seen.events[0].trace
    lineage: dict[str, Any] = {
        "source": source,
        "invocation_id": "r",
        "root_invocation_id": "r",
        "agent": "planner",
        "channel": "slack",
        "conversation_id": "talk",
        "trace": trace,
    }
    second = 1_000_000_000
    assert seen.events == [
        AgentStart(
            **lineage,
            time_ns=1_000,
            seq=0,
            attributes={"customer": 7, "agentbus.invocation.path": "planner"},
            model_provider="openai",
            model="gpt-5-mini",
            instructions="be brief",
            input=["hello"],
        ),
        LlmRequest(
            **lineage,
            time_ns=1_000 + second,
            seq=1,
            attributes={"step": 1},
            model_provider="openai",
            model="gpt-5-mini",
            messages_count=2,
            call_id="l",
            stream=True,
            messages=["a", "b"],
            parameters={"temperature": 0.5},
        ),
        LlmResponse(
            **lineage,
            time_ns=1_000 + second + second // 4,
            seq=2,
            attributes={"cached": True},
            model_provider="openai",
            model="gpt-5-mini",
            duration=0.25,
            success=True,
            input_tokens=3,
            output_tokens=4,
            response_model="gpt-5-mini-2",
            call_id="l",
        ),
        ToolCallStart(
            **lineage,
            time_ns=1_000 + second + second // 4,
            seq=3,
            tool="search",
            tool_call_id="c",
            arguments={"q": 1},
        ),
        ToolCall(
            **lineage,
            time_ns=1_000 + second + 3 * second // 4,
            seq=4,
            tool="search",
            tool_call_id="c",
            duration=0.5,
            success=True,
            arguments={"q": 1},
            result="3 hits",
        ),
        AgentEnd(
            **lineage,
            time_ns=1_000 + second + 3 * second // 4,
            seq=5,
            model_provider="openai",
            model="gpt-5-mini",
            duration=1.75,
            tokens_used=7,
            output="done",
        ),
    ]


def test_as_a_context_manager_it_gives_itself(seen: Captured, make: Callable[[], Any]) -> None:
    block = make()
    with block as inside:
        assert inside is block
    assert outcomes(seen) == {"b": "ok"}


async def test_as_an_async_context_manager_it_gives_itself(seen: Captured, make: Callable[[], Any]) -> None:
    block = make()
    async with block as inside:
        assert inside is block
        await asyncio.sleep(0)
    assert outcomes(seen) == {"b": "ok"}


def test_by_hand_start_gives_itself_and_end_nothing(seen: Captured, make: Callable[[], Any]) -> None:
    block = make()
    assert block.start() is block
    assert block.end() is None
    assert outcomes(seen) == {"b": "ok"}


def test_as_a_decorator_every_call_is_a_block_of_its_own(seen: Captured, make: Callable[[], Any]) -> None:
    def work(a: int, *, b: int) -> int:
        """What it does."""
        return a + b

    work = make()(work)
    assert (work.__name__, work.__doc__, list(inspect.signature(work).parameters)) == (
        "work",
        "What it does.",
        ["a", "b"],
    )
    assert [work(1, b=2), work(3, b=4)] == [3, 7]
    assert len(ends(seen.events)) == 2


async def test_as_a_decorator_of_a_coroutine_function_it_lasts_until_that_is_awaited(
    seen: Captured, make: Callable[[], Any]
) -> None:
    async def work(value: int) -> int:
        await asyncio.sleep(0)
        return value

    decorated = make()(work)
    assert asyncio.iscoroutinefunction(decorated)
    assert list(await asyncio.gather(decorated(1), decorated(2))) == [1, 2]
    assert len(ends(seen.events)) == 2


async def test_a_decorated_partial_or_callable_object_is_awaited_too(seen: Captured) -> None:
    async def work(name: str) -> str:
        with agentbus.tool(name):
            await asyncio.sleep(0)
        return name

    class Caller:
        async def __call__(self) -> str:
            return await work("by object")

    assert await agentbus.agent("partial")(partial(work, "by partial"))() == "by partial"
    assert await agentbus.agent("object")(Caller())() == "by object"
    assert parents(seen) == {"partial": None, "by partial": "partial", "object": None, "by object": "object"}


def test_a_decorated_generator_lasts_as_long_as_it_is_read(seen: Captured, make: Callable[[], Any]) -> None:
    def numbers(count: int) -> Iterator[int]:
        yield from range(count)

    assert list(make()(numbers)(3)) == [0, 1, 2]
    assert outcomes(seen) == {"b": "ok"}


async def test_a_decorated_async_generator_lasts_as_long_as_it_is_read(seen: Captured, make: Callable[[], Any]) -> None:
    async def numbers(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    assert [number async for number in make()(numbers)(3)] == [0, 1, 2]
    assert outcomes(seen) == {"b": "ok"}


def test_methods_can_be_decorated(seen: Captured) -> None:
    class Writer:
        name = "writer"

        @agentbus.agent("writer")
        def write(self, text: str) -> str:
            return f"{self.name}: {text}"

        @agentbus.tool("spell")
        def spell(self) -> Iterator[str]:
            yield self.name

    assert Writer().write("hello") == "writer: hello"
    assert list(Writer().spell()) == ["writer"]
    assert outcomes(seen) == {"writer": "ok", "spell": "ok"}


def test_a_decorated_function_may_call_itself(seen: Captured) -> None:
    depths: list[int] = []

    @agentbus.agent("recursive")
    def descend(levels: int) -> None:
        run = current()
        assert run is not None
        depths.append(run.depth)
        if levels:
            descend(levels - 1)

    descend(3)
    assert depths == [0, 1, 2, 3]
    assert len(ends(seen.events)) == 4


def test_calls_of_a_run_may_decorate(seen: Captured) -> None:
    run = agentbus.agent("planner")

    @run.tool("search")
    def search() -> int:
        return 3

    with run:
        assert [search(), search()] == [3, 3]
    assert parents(seen) == {"planner": None, "search": "planner"}
    assert len(ends(seen.events)) == 3
