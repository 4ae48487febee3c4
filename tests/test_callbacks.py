"""Blocks that begin in one callback and end in another, known by a framework's own ids."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.trace import get_current_span

from otel_agentbus import agent, current, llm, testing, tool
from otel_agentbus.callbacks import OpenBlocks


@pytest.fixture
def seen() -> Iterator[testing.Captured]:
    with testing.capture() as captured:
        yield captured


def in_a_thread(function: object, *args: object) -> None:
    thread = threading.Thread(target=function, args=args)  # type: ignore[arg-type]
    thread.start()
    thread.join()


def test_a_block_belongs_to_the_parent_that_its_callback_names_wherever_that_is_called(seen: testing.Captured) -> None:
    blocks = OpenBlocks()
    here = contextvars.copy_context()
    here.run(blocks.begin, 1, agent("planner"))
    here.run(blocks.begin, 2, agent("other"))  # here, but nobody's parent
    in_a_thread(lambda: blocks.begin(3, tool("search"), parent=1, current=False))
    in_a_thread(lambda: blocks.begin(4, agent("researcher"), parent=3, current=False))
    in_a_thread(lambda: blocks.begin(5, llm("m"), parent=4, current=False))
    for key in (5, 4, 3, 2, 1):
        in_a_thread(blocks.end, key)

    seen.assert_tree("""
        invoke_agent planner
        ├─ invoke_agent other
        └─ execute_tool search
           └─ invoke_agent researcher
              └─ chat m
    """)
    assert len(blocks) == 0


def test_a_block_that_is_not_to_be_current_leaves_its_place_as_it_is(seen: testing.Captured) -> None:
    blocks = OpenBlocks()
    before = contextvars.copy_context()

    blocks.begin("run", agent("planner"), current=False)
    blocks.begin("call", llm("m"), parent="run", current=False)

    assert current() is None
    assert not get_current_span().get_span_context().is_valid
    blocks.end("call", input_tokens=3, output_tokens=None)
    blocks.end("run")
    assert list(contextvars.copy_context().items()) == list(before.items())
    seen.assert_tree("""
        invoke_agent planner
        └─ chat m
    """)


def test_a_block_that_is_current_is_so_until_its_end_and_then_is_what_was_before(seen: testing.Captured) -> None:
    blocks = OpenBlocks()
    blocks.begin("run", agent("planner"), current=False)
    with agent("here") as here:
        was = get_current_span()
        inside = blocks.begin("call", tool("search"), parent="run")
        assert inside is not None
        assert get_current_span() is inside.span
        assert current() == inside.invocation
        with agent("below"):
            pass
        blocks.end("call")
        assert get_current_span() is was
        assert current() == here.invocation
    blocks.end("run")

    seen.assert_tree("""
        invoke_agent planner
        └─ execute_tool search
           └─ invoke_agent below
        invoke_agent here
    """)


def test_a_block_that_ends_elsewhere_is_current_nowhere_any_more(seen: testing.Captured) -> None:
    blocks = OpenBlocks()

    def begin_and_ask() -> None:
        blocks.begin("run", agent("planner"))
        in_a_thread(blocks.end, "run")
        assert current() is None
        with agent("next"):
            pass

    contextvars.copy_context().run(begin_and_ask)
    seen.assert_tree("""
        invoke_agent planner
        invoke_agent next
    """)


def test_a_step_that_is_no_block_hands_its_parent_on(seen: testing.Captured) -> None:
    blocks = OpenBlocks()
    blocks.begin("run", agent("planner"), current=False)
    blocks.join("step", "run", current=True)
    held = current()
    with tool("of the user's own"):
        pass
    blocks.begin("call", llm("m"), parent="step", current=False)
    blocks.end("call")
    blocks.end("step")
    after = current()
    blocks.end("run")

    assert held is not None
    assert after is None
    seen.assert_tree("""
        invoke_agent planner
        ├─ execute_tool of the user's own
        └─ chat m
    """)


def test_a_second_end_and_one_without_a_beginning_have_no_effect(seen: testing.Captured) -> None:
    blocks = OpenBlocks()
    blocks.begin("run", agent("planner"))
    assert blocks.end("run") is not None
    assert blocks.end("run") is None
    assert blocks.end("never") is None
    assert [event.kind for event in seen.events] == ["agent.start", "agent.end"]


def test_what_was_cancelled_is_no_error(seen: testing.Captured) -> None:
    blocks = OpenBlocks()
    blocks.begin("run", agent("planner"), current=False)
    blocks.end("run", asyncio.CancelledError())
    [_, end] = seen.events
    assert getattr(end, "outcome", None) == "cancelled"


def test_after_off_only_what_is_open_goes_on(seen: testing.Captured) -> None:
    blocks = OpenBlocks()
    blocks.begin("run", agent("planner"), current=False)
    blocks.off()

    assert blocks.begin("later", agent("later")) is None
    assert blocks.begin("call", llm("m"), parent="run") is not None
    blocks.end("call")
    blocks.end("run")
    seen.assert_tree("""
        invoke_agent planner
        └─ chat m
    """)


def test_ends_that_never_come_cost_a_bounded_memory(seen: testing.Captured) -> None:
    blocks = OpenBlocks(most=3)
    for number in range(10):
        blocks.begin(number, agent(f"a{number}"), current=False)
    assert len(blocks) == 3
    assert len([event for event in seen.events if event.kind == "agent.end"]) == 7
    assert blocks.get(6) is None
    assert blocks.get(7) is not None


def test_parallel_tasks_each_have_their_own(seen: testing.Captured) -> None:
    blocks = OpenBlocks()

    async def one(name: str) -> None:
        blocks.begin(name, tool(name), parent="run")
        await asyncio.sleep(0)
        with agent("in " + name):
            await asyncio.sleep(0)
        blocks.end(name)

    async def both() -> None:
        blocks.begin("run", agent("planner"))
        await asyncio.gather(one("a"), one("b"))
        blocks.end("run")

    asyncio.run(both())
    seen.assert_tree("""
        invoke_agent planner
        ├─ execute_tool a
        │  └─ invoke_agent in a
        └─ execute_tool b
           └─ invoke_agent in b
    """)


def test_an_id_that_begins_twice_is_two_blocks_and_both_end(seen: testing.Captured) -> None:
    blocks = OpenBlocks()
    blocks.begin("call", tool("first"))
    blocks.begin("call", tool("second"))
    assert blocks.end("call") is not None
    assert blocks.end("call") is not None
    assert blocks.end("call") is None
    assert current() is None
    seen.assert_tree("""
        execute_tool first
        └─ execute_tool second
    """)


def test_what_is_forgotten_ends_as_cancelled_and_is_current_no_more(seen: testing.Captured) -> None:
    blocks = OpenBlocks(most=1)
    blocks.begin("old", agent("old"))
    blocks.begin("new", agent("new"), current=False)
    assert current() is None
    blocks.end("new")
    ends = {event.agent: getattr(event, "outcome", None) for event in seen.events if event.kind == "agent.end"}
    assert ends == {"old": "cancelled", "new": "ok"}
