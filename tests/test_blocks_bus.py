"""Blocks and the bus: without one, with one that comes or goes while they run, and in a fork's child."""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace

import otel_agentbus as agentbus
from otel_agentbus import current
from otel_agentbus.events import DomainEvent, Event
from otel_agentbus.testing import FakeClock, capture

from .observing import assert_balanced, ends, label, outcomes, parents, starts


@pytest.fixture(autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    assert current() is None
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_without_a_bus_blocks_keep_the_lineage_and_emit_nowhere() -> None:
    with (
        agentbus.agent("planner") as run,
        run.tool("t", tool_call_id="c") as tool,
        agentbus.agent("researcher") as inner,
        inner.llm("m") as call,
    ):
        assert current() is inner.invocation
        assert inner.invocation.path == ("planner", "researcher")
        assert (inner.invocation.parent_id, inner.invocation.parent_call_id) == (run.id, "c")
        assert call.record(input_tokens=1) is call
        assert (run.span, tool.span, call.span) == (None, None, None)
        assert trace.get_current_span() is trace.INVALID_SPAN
    with pytest.raises(ValueError, match="goes on"), agentbus.tool("t"):
        raise ValueError("goes on")


async def test_without_a_bus_streams_and_decorators_work() -> None:
    @agentbus.agent("a")
    async def numbers() -> Any:
        for number in range(3):
            assert current() is not None
            yield number

    @agentbus.tool("t")
    async def work() -> int:
        await asyncio.sleep(0)
        return 3

    assert [number async for number in numbers()] == [0, 1, 2]
    assert await work() == 3
    assert list(agentbus.llm("m").stream(iter("abc"))) == ["a", "b", "c"]


def test_a_bus_that_comes_in_the_middle_of_a_run_hears_what_begins_from_then_on() -> None:
    with agentbus.agent("before") as before:
        call = before.llm("open call").start()
        with capture() as seen:
            with before.llm("after"):
                pass
            with agentbus.agent("inner"):
                pass
            call.end()
    assert_balanced(seen)
    assert [label(event) for event in seen.events] == ["after", "after", "inner", "inner"]
    assert {event.root_invocation_id for event in seen.events} == {before.id}
    assert seen.events[0].invocation_id == before.id
    assert seen.events[2].parent_invocation_id == before.id
    assert len({span.context.trace_id for span in seen.spans if span.context}) == 1


def test_a_bus_that_goes_in_the_middle_of_a_run_does_no_harm() -> None:
    with capture(strict=False) as seen:
        run = agentbus.agent("a").start()
        call = run.llm("m").start()
    with run.tool("after"):
        pass
    call.record(input_tokens=1).end()
    run.end()
    assert [label(event) for event in starts(seen.events)] == ["a", "m"]
    assert {span.name: (span.attributes or {})["agentbus.outcome"] for span in seen.spans} == {
        "chat m": "interrupted",
        "invoke_agent a": "interrupted",
    }


def test_a_block_ends_in_the_bus_in_which_it_began() -> None:
    with capture() as outer:
        run = agentbus.agent("outer").start()
        with capture() as inner:
            with run.llm("inside"):
                pass
            run.end()
            contextvars.copy_context().run(agentbus.agent("left open").start)
    assert [(label(event), type(event).__name__) for event in outer.events] == [
        ("outer", "AgentStart"),
        ("outer", "AgentEnd"),
    ]
    assert [label(event) for event in inner.events] == ["inside", "inside", "left open"]


def test_a_disabled_sdk_leaves_lineage_and_handlers() -> None:
    with capture(sdk_disabled=True) as seen, agentbus.agent("a") as run, run.llm("m") as call:
        assert (run.span, call.span) == (None, None)
        assert current() is run.invocation
    assert outcomes(seen) == {"m": "ok", "a": "ok"}
    assert parents(seen) == {"a": None, "m": "a"}
    assert seen.spans == ()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_block_that_is_open_at_a_fork_ends_in_the_parent_only() -> None:
    with capture() as seen:
        run = agentbus.agent("a").start()
        source = seen.bus.source
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # no assertion may leave this process by an exception
            seen.events.clear()
            told = []
            with run.tool("in the child"):
                pass
            told.append(seen.bus.source != source)
            told.append([label(event) for event in seen.events] == ["in the child"] * 2)
            told.append([event.seq for event in seen.events] == [0, 1])
            told.append({event.source for event in seen.events} == {seen.bus.source})
            run.end()
            told.append(len(seen.events) == 2)
            told.append(current() is None)
            os.write(writing, repr(told).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reading, 100) == repr([True] * 6).encode()
        os.close(reading)
        os.close(writing)
        run.end()
    assert outcomes(seen) == {"a": "ok"}


def test_a_handler_that_fails_reaches_nobody() -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("handler")

    with capture(strict=False) as seen:
        seen.bus.subscribe(fail)
        with agentbus.agent("a") as run, run.tool("t"):
            pass
    assert outcomes(seen) == {"t": "ok", "a": "ok"}
    assert len(seen.failures) == 4


def test_a_handler_may_use_blocks_itself() -> None:
    with capture() as seen:

        @seen.bus.on(DomainEvent)
        def follow(event: DomainEvent) -> None:
            with agentbus.tool("followed"):
                pass

        with agentbus.agent("a") as run, run.tool("t"):
            seen.bus.publish("happened")
    assert parents(seen) == {"a": None, "t": "a", "followed": "t"}


@pytest.mark.parametrize("sampled", [True, False])
def test_every_event_of_a_tree_carries_the_one_decision(sampled: bool) -> None:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

    with capture(sampler=ALWAYS_ON if sampled else ALWAYS_OFF) as seen:
        with agentbus.agent("a") as run, run.tool("t"), agentbus.agent("b"), agentbus.llm("m"):
            pass
        with agentbus.agent("c"):
            pass
    first = {event.trace for event in seen.events[:-2]}
    second = {event.trace for event in seen.events[-2:]}
    assert len(first) == len(second) == 1
    assert first != second
    assert len(seen.spans) == (5 if sampled else 0)
    assert len(ends(seen.events)) == 5


def test_times_are_exact_with_a_clock_of_ones_own() -> None:
    clock = FakeClock(5)
    with capture(fake_clock=clock) as seen, agentbus.agent("a"):
        clock.advance(1.5)
        with agentbus.tool("t"):
            clock.advance(0.25)
        clock.advance(1)
    found = {span.name: (span.start_time, span.end_time) for span in seen.spans}
    second = 1_000_000_000
    assert found == {
        "invoke_agent a": (5, 5 + 11 * second // 4),
        "execute_tool t": (5 + 3 * second // 2, 5 + 7 * second // 4),
    }
