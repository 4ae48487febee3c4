"""Sub-agents and calls: whose child is what, in one task."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest

import otel_agentbus as agentbus
from otel_agentbus import current
from otel_agentbus.testing import Captured, capture

from .observing import assert_balanced, outcomes, parents


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture() as captured:
        yield captured
    assert_balanced(captured)


def sub_agent(name: str = "researcher") -> str:
    with agentbus.agent(name) as run, run.llm(f"{name} model"):
        return run.id


async def async_sub_agent(name: str = "researcher") -> None:
    async with agentbus.agent(name) as run, run.llm(f"{name} model"):
        await asyncio.sleep(0)


def test_a_sub_agent_is_below_the_run_in_which_it_is_called(seen: Captured) -> None:
    with agentbus.agent("planner"):
        sub_agent()
    seen.assert_tree("""
        invoke_agent planner
        └─ invoke_agent researcher
           └─ chat researcher model
    """)
    assert parents(seen) == {"planner": None, "researcher": "planner", "researcher model": "researcher"}


def test_a_sub_agent_in_a_tool_body_is_below_the_tool(seen: Captured) -> None:
    with agentbus.agent("planner") as run, run.tool("delegate"):
        sub_agent()
    seen.assert_tree("""
        invoke_agent planner
        └─ execute_tool delegate
           └─ invoke_agent researcher
              └─ chat researcher model
    """)
    assert parents(seen)["researcher"] == "delegate"


def test_a_sub_agent_under_a_model_call_is_below_that_call(seen: Captured) -> None:
    with agentbus.agent("planner") as run, run.llm("sampling"):
        sub_agent()
    assert parents(seen) == {
        "planner": None,
        "sampling": "planner",
        "researcher": "sampling",
        "researcher model": "researcher",
    }
    assert "└─ chat sampling\n   └─ invoke_agent researcher" in seen.tree()


@pytest.mark.parametrize("tool_call_id", ["c1", "llm:c1", "tool:c1", "tool:llm:c1", "a b/é;ö", ":"])
def test_a_tool_call_is_the_parent_whatever_its_id_looks_like(seen: Captured, tool_call_id: str) -> None:
    with agentbus.agent("planner") as run:
        with run.llm("model", call_id="c1"):
            sub_agent("below the model")
        with run.tool("delegate", tool_call_id=tool_call_id):
            sub_agent("below the tool")
    assert parents(seen)["below the model"] == "model"
    assert parents(seen)["below the tool"] == "delegate"
    tool, below = seen.span("execute_tool delegate"), seen.span("invoke_agent below the tool")
    assert below.parent is not None
    assert tool.context is not None
    assert below.parent.span_id == tool.context.span_id


def test_a_model_call_made_by_a_tool_is_below_the_tool(seen: Captured) -> None:
    with agentbus.agent("planner") as run, run.tool("summarise"):
        with run.llm("by the run"):
            pass
        with agentbus.llm("by function"):
            pass
    assert parents(seen) == {
        "planner": None,
        "summarise": "planner",
        "by the run": "summarise",
        "by function": "summarise",
    }


def test_after_an_inner_tool_the_outer_one_is_the_parent_again(seen: Captured) -> None:
    with agentbus.agent("planner") as run, run.tool("outer"):
        with agentbus.agent("middle") as middle, middle.tool("inner"):
            sub_agent("innermost")
        sub_agent("later")
    assert parents(seen)["innermost"] == "inner"
    assert parents(seen)["later"] == "outer"


def test_three_levels_have_one_root_and_growing_paths(seen: Captured) -> None:
    with agentbus.agent("a") as a, agentbus.agent("b") as b, agentbus.agent("c") as c:
        paths = [run.invocation.path for run in (a, b, c)]
        depths = [run.invocation.depth for run in (a, b, c)]
        roots = {run.invocation.root_id for run in (a, b, c)}
    assert paths == [("a",), ("a", "b"), ("a", "b", "c")]
    assert depths == [0, 1, 2]
    assert roots == {a.id}
    assert [e.attributes["agentbus.invocation.path"] for e in seen.events[:3]] == ["a", "a/b", "a/b/c"]


def test_agents_of_the_same_name_nest_like_any_other(seen: Captured) -> None:
    with agentbus.agent("a") as outer, agentbus.agent("a") as inner:
        assert inner.invocation.parent_id == outer.id
    seen.assert_tree("""
        invoke_agent a
        └─ invoke_agent a
    """)


def test_a_runs_own_call_inside_another_run_belongs_to_its_own_run(seen: Captured) -> None:
    with agentbus.agent("planner") as planner, planner.tool("delegate"), agentbus.agent("researcher") as researcher:
        with planner.llm("the planner's"):
            pass
        with agentbus.llm("the researcher's"), researcher.tool("below it"), planner.tool("not below it"):
            pass
    found = parents(seen)
    assert found["the planner's"] == "planner"
    assert found["the researcher's"] == "researcher"
    assert found["below it"] == "the researcher's"
    assert found["not below it"] == "planner"


def test_a_call_of_a_run_that_is_over_is_still_that_runs(seen: Captured) -> None:
    with agentbus.agent("planner") as planner:
        pass
    with planner.llm("late"), agentbus.agent("below"):
        pass
    assert parents(seen) == {"planner": None, "late": "planner", "below": "late"}


def test_a_call_of_a_run_that_has_not_begun_belongs_to_what_is_here(seen: Captured) -> None:
    unborn = agentbus.agent("unborn")
    with unborn.llm("alone"):
        pass
    with agentbus.agent("planner"), unborn.tool("here"):
        pass
    assert parents(seen) == {"alone": None, "planner": None, "here": "planner"}


def test_callers_ids_are_taken(seen: Captured) -> None:
    with (
        agentbus.agent("planner", invocation_id="r1") as run,
        run.tool("t", tool_call_id="c1"),
        agentbus.agent("researcher", invocation_id="r2", conversation_id="talk") as inner,
    ):
        assert (inner.id, inner.invocation.parent_id, inner.invocation.root_id) == ("r2", "r1", "r1")
        assert inner.invocation.parent_call_id == "c1"
        with agentbus.llm("m", call_id="l1") as call:
            assert call.id == "l1"
    assert [event.conversation_id for event in seen.events] == [None, None, *["talk"] * 4, None, None]


def test_an_id_given_to_a_decorator_is_not_given_to_every_run(seen: Captured) -> None:
    @agentbus.agent("planner", invocation_id="only once", conversation_id="talk")
    def work() -> tuple[str, str | None]:
        run = current()
        assert run is not None
        return run.id, run.conversation_id

    assert len({work(), work(), work()}) == 3
    assert {event.conversation_id for event in seen.events} == {"talk"}


# -- disorder ----------------------------------------------------------------------------------------------------------


def test_two_blocks_that_end_in_the_wrong_order_leave_nothing_behind(seen: Captured) -> None:
    first = agentbus.agent("first").start()
    second = agentbus.agent("second").start()
    first.end()
    assert current() is second.invocation
    sub_agent("under the second")
    second.end()
    assert current() is None
    sub_agent("after both")
    found = parents(seen)
    assert found["second"] == "first"
    assert found["under the second"] == "second"
    assert found["after both"] is None


async def test_an_abandoned_generators_run_is_nobodys_parent(seen: Captured) -> None:
    async def leaky() -> AsyncIterator[int]:
        async with agentbus.agent("leaked"):
            yield 1
            yield 2

    async for _ in leaky():
        break
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
    await async_sub_agent("after")
    assert parents(seen)["after"] is None
    assert outcomes(seen)["leaked"] == "cancelled"


def test_interleaved_plain_generators_end_once_each(seen: Captured) -> None:
    def leaky(name: str) -> Iterator[int]:
        with agentbus.agent(name):
            yield 1
            yield 2

    one, two = leaky("one"), leaky("two")
    next(one)
    next(two)
    assert list(one) == [2]
    assert list(two) == [2]
    assert current() is None
    assert outcomes(seen) == {"one": "ok", "two": "ok"}


def test_blocks_that_end_in_the_wrong_order_leave_no_span_current(seen: Captured) -> None:
    """OpenTelemetry's context is then what it was, too: a span that has ended is nobody's parent."""
    from opentelemetry.context import get_current

    before = get_current()
    blocks = [agentbus.agent(name).start() for name in "abc"]
    for number in (1, 0, 2):
        blocks[number].end()
    assert get_current() is before
