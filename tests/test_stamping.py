"""What every event gets when it is emitted: time, lineage, source and number, whoever emitted it."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    ChannelMessage,
    DomainEvent,
    Event,
    LlmRequest,
    LlmResponse,
    ToolCall,
    ToolCallStart,
    TurnComplete,
)
from otel_agentbus.stamping import FOREIGN_RUNS, Stamp
from otel_agentbus.testing import Captured, capture

MODEL: dict[str, Any] = {"model_provider": "openai", "model": "m"}


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture() as captured:
        yield captured


def lineage(event: Event) -> tuple[Any, ...]:
    return (
        event.root_invocation_id,
        event.parent_invocation_id,
        event.invocation_id,
        event.parent_call_id,
        event.agent,
        event.conversation_id,
    )


# -- source and number -------------------------------------------------------------------------------------------------


def test_every_event_gets_a_time_a_source_and_the_next_number(seen: Captured) -> None:
    for _ in range(3):
        seen.bus.emit(TurnComplete())
    seen.bus.publish("lead", {"score": 1})
    assert [event.seq for event in seen.events] == [0, 1, 2, 3]
    assert {event.source for event in seen.events} == {seen.bus.source}
    times = [event.time_ns for event in seen.events]
    assert times == sorted(times, key=lambda at: at or 0)
    assert seen.bus.health()["events"]["emitted"] == 4


def test_what_is_stamped_already_stays_as_it_is(seen: Captured) -> None:
    event = DomainEvent(
        name="other's", time_ns=5, source="other", seq=7, root_invocation_id="r", invocation_id="r", trace="t"
    )
    before = dataclasses.asdict(event)
    with agentbus.agent("a"):
        seen.bus.emit(event)
    assert dataclasses.asdict(event) == before
    assert [e.seq for e in seen.events] == [0, 7, 1]


def test_an_event_that_is_emitted_again_keeps_its_number(seen: Captured) -> None:
    event = CacheHit(cache_type="semantic", tokens_saved=5)
    with agentbus.agent("a"):
        seen.bus.emit(event)
        seen.bus.emit(event)
    assert [e.seq for e in seen.events] == [0, 1, 1, 2]
    assert len(seen.span("invoke_agent a").events) == 1


def test_numbers_have_no_gap_under_eight_threads(seen: Captured) -> None:
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait(10)
        for number in range(100):
            seen.bus.publish("raw")
            with agentbus.tool(f"t{number}"):
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(event.seq or 0 for event in seen.events) == list(range(8 * 300))
    assert {event.source for event in seen.events} == {seen.bus.source}
    assert seen.bus.health()["events"]["duplicate"] == 0


def test_what_is_refused_takes_no_number() -> None:
    with capture(strict=False) as seen:
        seen.bus.publish("first")
        seen.bus.emit(CacheHit(cache_type=5, tokens_saved="x"))  # type: ignore[arg-type]
        seen.bus.emit("not an event")  # type: ignore[arg-type]
        seen.bus.emit(TurnComplete(invocation_id=["unhashable"]))  # type: ignore[arg-type]
        seen.bus.publish("second")
    assert [event.seq for event in seen.events] == [0, 1]
    assert seen.bus.health()["events"]["dropped"]["invalid"] == 3


def test_two_buses_are_two_sources() -> None:
    with capture() as first:
        first.bus.publish("a")
        with capture() as second:
            second.bus.publish("b")
        first.bus.publish("c")
    assert [event.seq for event in (*first.events, *second.events)] == [0, 1, 0]
    assert first.bus.source != second.bus.source


# -- lineage of the run here -------------------------------------------------------------------------------------------


def test_an_event_without_ids_inside_a_block_belongs_there(seen: Captured) -> None:
    with agentbus.agent("planner", invocation_id="r", conversation_id="talk", channel="slack") as run:
        seen.bus.publish("in the run")
        with run.tool("t", tool_call_id="c"):
            seen.bus.emit(CacheHit(cache_type="semantic", tokens_saved=5))
            with agentbus.agent("inner", invocation_id="i"), agentbus.llm(call_id="l"):
                seen.bus.emit(ChannelMessage(channel="mail", direction="outbound"))
    raw = [event for event in seen.events if isinstance(event, (DomainEvent, CacheHit, ChannelMessage))]
    assert [lineage(event) for event in raw] == [
        ("r", None, "r", None, "planner", "talk"),
        ("r", None, "r", "c", "planner", "talk"),
        ("r", "r", "i", "llm:l", "inner", "talk"),
    ]
    assert [event.channel for event in raw] == ["slack", "slack", "mail"]
    assert len({event.trace for event in seen.events}) == 1


def test_an_event_without_ids_in_a_call_that_stands_alone_belongs_to_its_tree(seen: Captured) -> None:
    with agentbus.tool("t", tool_call_id="c"):
        seen.bus.publish("inside")
    assert lineage(seen.events[1]) == ("c", None, None, "c", None, None)
    assert [event.name for event in seen.span("execute_tool t").events] == ["inside"]


def test_an_event_without_ids_outside_of_everything_gets_none(seen: Captured) -> None:
    seen.bus.publish("alone")
    with agentbus.resume({}):
        seen.bus.publish("where new roots begin")
    context = contextvars.copy_context()
    context.run(agentbus.Invocation.flush)
    context.run(seen.bus.publish, "after a flush")
    assert [lineage(event) for event in seen.events] == [(None,) * 6] * 3


def test_a_producer_without_ids_has_one_run_from_start_to_end_inside_of_a_run_too(seen: Captured) -> None:
    with agentbus.agent("ours"):
        seen.bus.emit(AgentStart(agent="theirs"))
        seen.bus.emit(AgentEnd(agent="theirs", duration=1.0))
    starts = [event for event in seen.events if isinstance(event, AgentStart)]
    assert [event.invocation_id for event in starts][1] is None


async def test_an_event_of_a_task_that_outlives_its_run_still_belongs_to_it(seen: Captured) -> None:
    over = asyncio.Event()

    async def background() -> None:
        await over.wait()
        seen.bus.publish("late")

    async with agentbus.agent("a", invocation_id="r") as run:
        with run.tool("t", tool_call_id="c"):
            task = asyncio.create_task(background())
            await asyncio.sleep(0)
    over.set()
    await task
    assert lineage(seen.events[-1])[:4] == ("r", None, "r", "c")


def test_an_event_after_a_run_in_the_same_context_belongs_to_nobody(seen: Captured) -> None:
    with agentbus.agent("a"):
        pass
    seen.bus.publish("after")
    assert seen.events[-1].invocation_id is None


# -- ids of other producers --------------------------------------------------------------------------------------------


def test_a_producers_own_id_keeps_its_lineage_after_the_first_event(seen: Captured) -> None:
    with agentbus.agent("planner", invocation_id="r", conversation_id="talk") as run, run.tool("t", tool_call_id="c"):
        seen.bus.emit(AgentStart(invocation_id="turn", agent="theirs"))
    seen.bus.emit(LlmRequest(**MODEL, messages_count=1, invocation_id="turn", call_id="l"))
    in_thread(
        lambda: seen.bus.emit(LlmResponse(**MODEL, duration=0.5, success=True, invocation_id="turn", call_id="l"))
    )
    with agentbus.agent("somebody else's"):
        seen.bus.emit(ToolCallStart(tool="x", invocation_id="turn", tool_call_id="x"))
        seen.bus.emit(ToolCall(tool="x", duration=0.5, success=True, invocation_id="turn", tool_call_id="x"))
    seen.bus.emit(AgentEnd(invocation_id="turn", duration=2.0))
    theirs = [event for event in seen.events if event.invocation_id == "turn"]
    assert [lineage(event) for event in theirs] == [
        ("r", "r", "turn", "c", "theirs", "talk"),
        ("r", "r", "turn", None, "theirs", "talk"),
        ("r", "r", "turn", None, "theirs", "talk"),
        ("r", "r", "turn", None, "theirs", "talk"),
        ("r", "r", "turn", None, "theirs", "talk"),
        ("r", "r", "turn", "c", "theirs", "talk"),
    ]
    assert len({event.trace for event in theirs}) == 1
    assert [line for line in seen.tree().splitlines() if "somebody" not in line] == [
        "invoke_agent planner",
        "└─ execute_tool t",
        "   └─ invoke_agent theirs",
        "      ├─ chat m",
        "      └─ execute_tool x",
    ]


def in_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_a_producers_sub_runs_know_their_tree_from_the_parents_id(seen: Captured) -> None:
    seen.bus.emit(AgentStart(invocation_id="top", agent="a", conversation_id="talk"))
    seen.bus.emit(AgentStart(invocation_id="sub", parent_invocation_id="top", agent="b"))
    seen.bus.emit(AgentStart(invocation_id="subsub", parent_invocation_id="sub", agent="c"))
    for name in ("subsub", "sub", "top"):
        seen.bus.emit(AgentEnd(invocation_id=name, duration=0.1))
    assert [lineage(event)[:3] for event in seen.events] == [
        ("top", None, "top"),
        ("top", "top", "sub"),
        ("top", "sub", "subsub"),
        ("top", "sub", "subsub"),
        ("top", "top", "sub"),
        ("top", None, "top"),
    ]
    seen.assert_tree("""
        invoke_agent a
        └─ invoke_agent b
           └─ invoke_agent c
    """)


def test_a_producer_may_name_any_run_above_as_its_parent(seen: Captured) -> None:
    with agentbus.agent("top", invocation_id="r"), agentbus.agent("middle", invocation_id="m"), agentbus.agent("low"):
        seen.bus.emit(AgentStart(invocation_id="turn", parent_invocation_id="m", agent="theirs"))
    assert lineage(seen.events[3])[:4] == ("r", "m", "turn", None)


def test_a_producers_run_under_an_unknown_parent_is_of_that_ones_tree(seen: Captured) -> None:
    seen.bus.emit(TurnComplete(invocation_id="turn", parent_invocation_id="far away"))
    assert lineage(seen.events[0])[:3] == ("far away", "far away", "turn")


def test_a_producers_event_for_the_run_here_is_that_runs(seen: Captured) -> None:
    with agentbus.agent("a", invocation_id="r", conversation_id="talk") as run, run.tool("t"):
        seen.bus.emit(TurnComplete(invocation_id="r"))
    assert lineage(seen.events[2])[:5] == ("r", None, "r", None, "a")


def test_a_producers_run_in_a_place_without_runs_is_a_root(seen: Captured) -> None:
    with agentbus.resume({}):
        seen.bus.emit(AgentStart(invocation_id="turn", agent="theirs"))
    assert lineage(seen.events[0])[:4] == ("turn", None, "turn", None)


def test_a_producers_ids_are_its_own_and_others_fields_are_kept(seen: Captured) -> None:
    with agentbus.agent("a", conversation_id="ours", channel="slack"):
        seen.bus.emit(
            AgentStart(
                invocation_id="turn", agent="theirs", conversation_id="theirs", channel="mail", attempt=3, trace="x"
            )
        )
    event = seen.events[1]
    assert (event.agent, event.conversation_id, event.channel, event.attempt) == ("theirs", "theirs", "mail", 3)


def test_the_sampler_is_asked_once_for_a_producers_tree() -> None:
    asked: list[str] = []

    def decide(event: Event, root_id: str) -> tuple[str | None, str | None]:
        asked.append(root_id)
        return f"trace of {root_id}", None

    stamp = Stamp(decide)
    for number in range(10):
        event = TurnComplete(invocation_id=f"turn {number % 2}")
        stamp(event)
        assert event.trace == f"trace of turn {number % 2}"
    assert asked == ["turn 0", "turn 1"]


def test_a_sampler_that_emits_itself_does_not_split_a_run() -> None:
    asked: list[int] = []

    def decide(event: Event, root_id: str) -> tuple[str | None, str | None]:
        number = len(asked)
        asked.append(number)
        if number == 0:
            stamp(told[-1])
        return f"trace {number}", None

    stamp = Stamp(decide)
    told = [TurnComplete(invocation_id="turn") for _ in range(3)]
    for event in told:
        stamp(event)
    assert len({event.trace for event in told}) == 1


def test_the_memory_of_producers_runs_is_bounded_and_keeps_what_is_in_use() -> None:
    count = itertools.count()
    stamp = Stamp(lambda event, root_id: (f"{root_id} #{next(count)}", None))

    def trace_of(name: str) -> str | None:
        event = TurnComplete(invocation_id=name)
        stamp(event)
        return event.trace

    first = trace_of("kept")
    for number in range(2 * FOREIGN_RUNS):
        trace_of(f"run {number}")
        if number % 100 == 0:
            assert trace_of("kept") == first
    assert trace_of("kept") == first
    assert trace_of("run 0") != "run 0 #1"


def test_eight_threads_that_tell_of_the_same_runs_tell_one_story() -> None:
    count = itertools.count()
    stamp = Stamp(lambda event, root_id: (f"{root_id} #{next(count)}", None))
    told: list[tuple[str, str | None]] = []
    barrier = threading.Barrier(8)
    failed: list[BaseException] = []

    def work() -> None:
        barrier.wait(10)
        try:
            for number in range(FOREIGN_RUNS // 4):
                for name in (f"shared {number % 50}", f"own {threading.get_ident()} {number}"):
                    event = TurnComplete(invocation_id=name)
                    stamp(event)
                    told.append((name, event.trace))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert max(Counter(name for name, _ in set(told)).values()) == 1


def test_a_context_that_was_copied_long_ago_is_no_lineage(seen: Captured) -> None:
    with agentbus.agent("a", invocation_id="r"):
        copied = contextvars.copy_context()
    copied.run(seen.bus.publish, "in the run's own thread, after its end")
    assert seen.events[-1].invocation_id is None
    in_thread(lambda: copied.run(seen.bus.publish, "in another thread"))
    assert seen.events[-1].invocation_id == "r"
