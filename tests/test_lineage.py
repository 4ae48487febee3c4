"""Sub-agents, wherever they are started: tasks, threads, pools, tool bodies, and what outlives its run."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import otel_agentbus as agentbus
from otel_agentbus import InvocationExecutor, carry, current
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
    with agentbus.agent("planner", invocation_id="r1") as run, run.tool("t", tool_call_id="c1"):
        with agentbus.agent("researcher", invocation_id="r2", conversation_id="talk") as inner:
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


# -- tasks -------------------------------------------------------------------------------------------------------------


async def test_sub_agents_in_tasks_are_below_the_run(seen: Captured) -> None:
    async with agentbus.agent("planner") as run, run.tool("delegate"):
        await asyncio.gather(async_sub_agent("gathered 1"), async_sub_agent("gathered 2"))
        async with asyncio.TaskGroup() as group:
            group.create_task(async_sub_agent("grouped 1"))
            group.create_task(async_sub_agent("grouped 2"))
        await asyncio.create_task(async_sub_agent("task"))
        await asyncio.to_thread(sub_agent, "to_thread")
    found = parents(seen)
    assert {found[name] for name in ("gathered 1", "gathered 2", "grouped 1", "grouped 2", "task", "to_thread")} == {
        "delegate"
    }
    assert {found[f"{name} model"] for name in ("gathered 1", "task")} == {"gathered 1", "task"}


async def test_concurrent_runs_never_mix(seen: Captured) -> None:
    async def run_one(number: int) -> None:
        async with agentbus.agent(f"agent {number}"):
            for step in range(3):
                await asyncio.sleep(0)
                async with agentbus.tool(f"tool {number}.{step}"):
                    await asyncio.sleep(0)
                    async with agentbus.llm(f"model {number}.{step}"):
                        await asyncio.sleep(0)

    await asyncio.gather(*(run_one(number) for number in range(20)))
    found = parents(seen)
    for number in range(20):
        assert found[f"agent {number}"] is None
        for step in range(3):
            assert found[f"tool {number}.{step}"] == f"agent {number}"
            assert found[f"model {number}.{step}"] == f"tool {number}.{step}"


async def test_a_task_that_outlives_its_run_still_belongs_to_it(seen: Captured) -> None:
    over = asyncio.Event()

    async def background() -> None:
        await over.wait()
        assert current() is None
        for number in range(3):
            await async_sub_agent(f"late {number}")
            await asyncio.gather(async_sub_agent(f"later {number}"))

    async with agentbus.agent("planner") as run:
        with run.tool("start something"):
            task = asyncio.create_task(background())
            await asyncio.sleep(0)
    over.set()
    await task
    found = parents(seen)
    for number in range(3):
        assert found[f"late {number}"] == "start something"
        assert found[f"later {number}"] == "start something"
    async with agentbus.agent("next") as after:
        assert after.invocation.is_root


async def test_a_task_that_outlives_an_inner_run_belongs_to_the_nearest_that_lives(seen: Captured) -> None:
    over = asyncio.Event()

    async def background() -> None:
        await over.wait()
        await async_sub_agent("late")

    async with agentbus.agent("planner"):
        async with agentbus.agent("inner"):
            task = asyncio.create_task(background())
            await asyncio.sleep(0)
        over.set()
        await task
    assert parents(seen)["late"] == "planner"


async def test_a_late_task_is_never_taken_for_the_runs_own_task(seen: Captured) -> None:
    """Memory of a task that is gone is given to the next one, and with it the task's `id()`."""
    names = [f"late {number}" for number in range(200)]
    over = asyncio.Event()

    async def start_background() -> asyncio.Task[None]:
        async with agentbus.agent("planner"):
            return asyncio.create_task(background())

    async def background() -> None:
        await over.wait()
        gc.collect()
        for name in names:
            await asyncio.create_task(async_sub_agent(name))

    background_task = await asyncio.create_task(start_background())
    over.set()
    await background_task
    found = parents(seen)
    assert {found[name] for name in names} == {"planner"}


# -- threads -----------------------------------------------------------------------------------------------------------


def in_thread(function: object, *args: object) -> None:
    thread = threading.Thread(target=function, args=args)  # type: ignore[arg-type]
    thread.start()
    thread.join()


def test_a_carried_callable_runs_below_the_run_where_it_was_bound(seen: Captured) -> None:
    with agentbus.agent("planner") as run, run.tool("delegate"):
        bound = carry(sub_agent)
        in_thread(sub_agent, "unbound")
    in_thread(bound, "after the end")
    assert bound.__name__ == "sub_agent"
    bound("in the run's own thread, after the end")
    with agentbus.agent("other"):
        bound("in another run")
        in_thread(bound, "in another run's thread")
    found = parents(seen)
    assert found["unbound"] is None
    assert found["after the end"] == "delegate"
    assert found["in the run's own thread, after the end"] == "delegate"
    assert found["in another run"] == "delegate"
    assert found["in another run's thread"] == "delegate"


def test_a_carried_callable_may_run_in_many_threads_at_once(seen: Captured) -> None:
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        with agentbus.agent(f"agent {number}"):
            barrier.wait(5)
            with agentbus.tool(f"tool {number}"):
                barrier.wait(5)

    with agentbus.agent("planner"):
        bound = carry(work)
        threads = [threading.Thread(target=bound, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number in range(4):
        assert parents(seen)[f"agent {number}"] == "planner"
        assert parents(seen)[f"tool {number}"] == f"agent {number}"


async def test_carried_coroutine_functions_stay_coroutine_functions(seen: Captured) -> None:
    class Caller:
        async def __call__(self) -> None:
            await async_sub_agent("by object")

    async with agentbus.agent("planner"):
        bound, by_object = carry(async_sub_agent), carry(Caller())
    assert asyncio.iscoroutinefunction(bound)
    await asyncio.gather(bound("first"), bound("second"), by_object())
    found = parents(seen)
    assert [found[name] for name in ("first", "second", "by object")] == ["planner"] * 3
    assert current() is None


async def test_carried_generators_are_stepped_in_the_run(seen: Captured) -> None:
    def numbers() -> Iterator[str]:
        for number in range(2):
            sub_agent(f"sync {number}")
            yield f"sync {number}"

    async def async_numbers() -> object:
        for number in range(2):
            await async_sub_agent(f"async {number}")
            yield f"async {number}"

    async with agentbus.agent("planner"):
        bound, async_bound = carry(numbers), carry(async_numbers)  # type: ignore[type-var, var-annotated]
    assert list(bound()) == ["sync 0", "sync 1"]
    assert [name async for name in async_bound()] == ["async 0", "async 1"]
    found = parents(seen)
    assert {found[name] for name in ("sync 0", "sync 1", "async 0", "async 1")} == {"planner"}


def test_carry_keeps_other_context_variables_and_leaks_none() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")
    variable.set("bound")

    def work() -> str:
        before = variable.get()
        variable.set("changed")
        return before

    bound = carry(work)
    variable.set("later")
    assert [bound(), bound(), variable.get()] == ["bound", "bound", "later"]


def test_the_executor_carries_every_submit_and_map(seen: Captured) -> None:
    with InvocationExecutor(max_workers=2) as pool:
        with agentbus.agent("planner") as run, run.tool("delegate"):
            pool.submit(sub_agent, "submitted").result()
            ids = list(pool.map(sub_agent, (f"mapped {number}" for number in range(5))))
        with agentbus.agent("another"):
            pool.submit(sub_agent, "of another").result()
        pool.submit(sub_agent, "of nobody").result()
    found = parents(seen)
    assert len(set(ids)) == 5
    assert {found[name] for name in ("submitted", *(f"mapped {number}" for number in range(5)))} == {"delegate"}
    assert found["of another"] == "another"
    assert found["of nobody"] is None


def test_a_plain_executor_carries_nothing(seen: Captured) -> None:
    with ThreadPoolExecutor(1) as pool, agentbus.agent("planner"):
        pool.submit(sub_agent).result()
    assert parents(seen)["researcher"] is None


async def test_the_executor_may_be_the_loops_own(seen: Captured) -> None:
    with InvocationExecutor() as pool:
        async with agentbus.agent("planner") as run, run.tool("delegate"):
            await asyncio.get_running_loop().run_in_executor(pool, sub_agent)
    assert parents(seen)["researcher"] == "delegate"


def test_a_tool_body_in_a_thread_is_below_its_tool(seen: Captured) -> None:
    with agentbus.agent("planner") as run, run.tool("delegate") as tool:
        thread = threading.Thread(target=carry(sub_agent))
        thread.start()
        thread.join()
        tool.record(result="done")
    seen.assert_tree("""
        invoke_agent planner
        └─ execute_tool delegate
           └─ invoke_agent researcher
              └─ chat researcher model
    """)


def test_a_late_thread_is_never_taken_for_the_runs_own(seen: Captured) -> None:
    """The number of a thread that is gone is given to the next one."""
    bound: list[object] = []

    def run_and_bind() -> None:
        with agentbus.agent("planner"):
            context = contextvars.copy_context()
            bound.append(lambda: context.run(sub_agent, "late"))

    in_thread(run_and_bind)
    in_thread(bound[0])
    assert parents(seen)["late"] == "planner"


def test_ids_of_calls_are_unique_in_eight_threads(seen: Captured) -> None:
    def work() -> None:
        for _ in range(100):
            with agentbus.tool("t"):
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes(seen)) == 1
    assert len(seen.events) == 1600


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
    async def leaky() -> object:
        async with agentbus.agent("leaked"):
            yield 1
            yield 2

    async for _ in leaky():  # type: ignore[attr-defined]
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
