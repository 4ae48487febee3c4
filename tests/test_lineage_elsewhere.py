"""Sub-agents in tasks, threads and pools, and what outlives its run."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Iterator
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


@pytest.mark.parametrize("where", ["anywhere", "after a flush", "where new roots begin"])
async def test_a_task_that_outlives_its_run_still_belongs_to_it(seen: Captured, where: str) -> None:
    over = asyncio.Event()
    if where == "after a flush":
        agentbus.Invocation.flush()
    elif where == "where new roots begin":
        agentbus.resume({}).__enter__()

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

    async def async_numbers() -> AsyncIterator[str]:
        for number in range(2):
            await async_sub_agent(f"async {number}")
            yield f"async {number}"

    async with agentbus.agent("planner"):
        bound, async_bound = carry(numbers), carry(async_numbers)
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
