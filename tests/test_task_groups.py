"""Runs in task groups and worker threads of asyncio, anyio and trio: whose child they are, and what outlives its run.

What asyncio's own tasks do stands in `test_lineage_elsewhere`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import trio

import otel_agentbus as agentbus
from otel_agentbus import carry, current
from otel_agentbus.testing import Captured, capture

from .observing import assert_balanced, outcomes, parents

#: Runs an async function to its end, in a loop of its own.
Run = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture() as captured:
        yield captured
    assert_balanced(captured)


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    return lambda main: anyio.run(main, backend=request.param)


def sub_agent(name: str = "researcher") -> None:
    with agentbus.agent(name) as run, run.llm(f"{name} model"):
        pass


async def async_sub_agent(name: str = "researcher") -> None:
    async with agentbus.agent(name) as run, run.llm(f"{name} model"):
        await anyio.sleep(0)


# -- both --------------------------------------------------------------------------------------------------------------


def test_what_a_group_starts_is_below_the_call_in_which_it_is_started(seen: Captured, run: Run) -> None:
    async def main() -> None:
        async with agentbus.agent("planner") as planner:
            async with planner.tool("delegate"), anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(async_sub_agent, f"in the call {number}")
            async with anyio.create_task_group() as group:
                group.start_soon(async_sub_agent, "in the run")
                async with planner.tool("later"), anyio.create_task_group() as inner:
                    inner.start_soon(async_sub_agent, "in a later call")

    run(main)
    found = parents(seen)
    assert {found[f"in the call {number}"] for number in range(3)} == {"delegate"}
    assert {found[f"in the call {number} model"] for number in range(3)} == {f"in the call {n}" for n in range(3)}
    assert (found["in the run"], found["in a later call"]) == ("planner", "later")


def test_concurrent_runs_in_one_group_never_mix(seen: Captured, run: Run) -> None:
    async def one(number: int) -> None:
        async with agentbus.agent(f"agent {number}"):
            for step in range(3):
                async with agentbus.tool(f"tool {number}.{step}"):
                    await anyio.sleep(0)
                    await async_sub_agent(f"sub {number}.{step}")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)

    run(main)
    found = parents(seen)
    for number in range(20):
        assert found[f"agent {number}"] is None
        assert {found[f"tool {number}.{step}"] for step in range(3)} == {f"agent {number}"}
        assert [found[f"sub {number}.{step}"] for step in range(3)] == [f"tool {number}.{step}" for step in range(3)]


def test_what_outlives_its_run_still_belongs_to_it(seen: Captured, run: Run) -> None:
    async def background(over: anyio.Event) -> None:
        await over.wait()
        assert current() is None
        await async_sub_agent("late")
        async with anyio.create_task_group() as group:
            group.start_soon(async_sub_agent, "later")
        await anyio.to_thread.run_sync(sub_agent, "in a thread")

    async def main() -> None:
        over = anyio.Event()
        async with anyio.create_task_group() as group:
            async with agentbus.agent("planner") as planner:
                with planner.tool("start something"):
                    group.start_soon(background, over)
            over.set()
            async with agentbus.agent("next") as after:
                assert after.invocation.is_root

    run(main)
    found = parents(seen)
    assert [found[name] for name in ("late", "later", "in a thread")] == ["start something"] * 3
    assert found["next"] is None


def test_in_the_runs_own_task_what_has_leaked_is_nobodys_parent(seen: Captured, run: Run) -> None:
    async def main() -> None:
        leaked = agentbus.agent("leaked").start()
        context = contextvars.copy_context()
        leaked.end()
        context.copy().run(sub_agent, "in the same task")
        async with anyio.create_task_group() as group:
            context.run(group.start_soon, async_sub_agent, "in another task")

    run(main)
    found = parents(seen)
    assert (found["in the same task"], found["in another task"]) == (None, "leaked")


def test_a_late_task_is_never_taken_for_the_runs_own_task(seen: Captured, run: Run) -> None:
    """Memory of a task that is gone is given to the next one, and with it the task's `id()`."""
    names = [f"late {number}" for number in range(100)]

    async def start(group: Any, over: anyio.Event) -> None:
        async with agentbus.agent("planner"):
            group.start_soon(background, over)

    async def background(over: anyio.Event) -> None:
        await over.wait()
        gc.collect()
        for name in names:
            async with anyio.create_task_group() as group:
                group.start_soon(async_sub_agent, name)

    async def main() -> None:
        over = anyio.Event()
        async with anyio.create_task_group() as group:
            async with anyio.create_task_group() as starting:
                starting.start_soon(start, group, over)
            over.set()

    run(main)
    assert {parents(seen)[name] for name in names} == {"planner"}


@pytest.mark.parametrize("how", ["cancel", "time out", "sibling"])
def test_what_a_scope_cancels_ends_once_as_cancelled(seen: Captured, run: Run, how: str) -> None:
    async def forever() -> None:
        async with agentbus.agent("worker"), agentbus.tool("wait"):
            await anyio.sleep_forever()

    async def fail() -> None:
        await anyio.sleep(0.01)
        raise ValueError("no")

    async def main() -> None:
        async with agentbus.agent("planner"):
            if how == "time out":
                with anyio.move_on_after(0.01):
                    await forever()
                return
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(forever)
                    await anyio.sleep(0.01)
                    if how == "sibling":
                        group.start_soon(fail)
                    else:
                        group.cancel_scope.cancel()
            except ExceptionGroup:
                assert how == "sibling"
            await async_sub_agent("afterwards")

    run(main)
    ends = outcomes(seen)
    assert [ends[name] for name in ("planner", "worker", "wait")] == ["ok", "cancelled", "cancelled"]
    assert parents(seen).get("afterwards", "planner") == "planner"


def test_worker_threads_are_below_the_call_and_so_is_what_they_have_the_loop_do(seen: Captured, run: Run) -> None:
    def in_worker() -> None:
        sub_agent("in the thread")
        with agentbus.agent("thread's agent"):
            anyio.from_thread.run(async_sub_agent, "back in the loop")
            anyio.from_thread.run_sync(sub_agent, "back in the loop, plainly")

    async def main() -> None:
        async with agentbus.agent("planner") as planner, planner.tool("delegate"):
            await anyio.to_thread.run_sync(in_worker)
        await anyio.to_thread.run_sync(sub_agent, "of nobody")

    run(main)
    found = parents(seen)
    assert (found["in the thread"], found["thread's agent"]) == ("delegate", "delegate")
    assert (found["back in the loop"], found["back in the loop, plainly"]) == ("thread's agent", "thread's agent")
    assert found["of nobody"] is None


def test_a_portals_thread_is_below_the_run_where_the_call_was_bound(seen: Captured) -> None:
    """A portal's loop runs in a thread of its own, which knows of no run."""
    with anyio.from_thread.start_blocking_portal() as portal, agentbus.agent("planner"):
        portal.call(carry(async_sub_agent), "bound")
        portal.call(functools.partial(carry(sub_agent), "bound, plain"))
    assert {parents(seen)[name] for name in ("bound", "bound, plain")} == {"planner"}


def test_a_worker_that_is_fed_by_a_channel_serves_each_run_in_its_place(seen: Captured, run: Run) -> None:
    async def worker(receive: Any) -> None:
        async with receive:
            async for work in receive:
                await work()
                assert current() is None

    async def main() -> None:
        send, receive = anyio.create_memory_object_stream[Callable[[], Awaitable[None]]](10)
        async with anyio.create_task_group() as group:
            group.start_soon(worker, receive)
            async with send:
                for number in range(3):
                    async with agentbus.agent(f"planner {number}"):
                        await send.send(carry(functools.partial(async_sub_agent, f"sub {number}")))

    run(main)
    assert [parents(seen)[f"sub {number}"] for number in range(3)] == [f"planner {number}" for number in range(3)]


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [contextlib.nullcontext, anyio.CancelScope], ids=["", "in a scope"])
@pytest.mark.parametrize("end", ["exhausted", "closed", "cancelled"])
def test_a_stream_under_either(seen: Captured, run: Run, end: str, held: Callable[[], Any]) -> None:
    numbers = stream_of(end, held)

    async def main() -> None:
        async with agentbus.agent("consumer"):
            with anyio.move_on_after(0.05 if end == "cancelled" else 60):
                async with contextlib.aclosing(numbers()) as stream:
                    async for number in stream:
                        sub_agent(f"between {number}")
                        if number == 1 and end == "closed":
                            break
            await async_sub_agent("after")

    run(main)
    check_stream(seen, "ok" if end == "exhausted" else "cancelled")


@pytest.mark.parametrize("end", ["dropped", "dropped at the loop's end", "dropped without a loop"])
def test_a_dropped_stream_under_either(seen: Captured, run: Run, end: str) -> None:
    """A cancel scope of its own would be left in whatever task drops it; that is the generator's affair."""
    numbers, kept = stream_of(end, contextlib.nullcontext), list[Any]()

    async def main() -> None:
        async with agentbus.agent("consumer"):
            kept.append(numbers())
            async for number in kept[0]:
                sub_agent(f"between {number}")
                if number == 1:
                    break
            if end == "dropped":
                kept.clear()
                gc.collect()
            await async_sub_agent("after")
        if end == "dropped at the loop's end":
            kept.clear()

    run(main)
    kept.clear()
    gc.collect()
    check_stream(seen, "cancelled")


def stream_of(end: str, held: Callable[[], Any]) -> Any:
    """A stream that holds something across its yields."""

    @agentbus.agent("stream")
    async def numbers() -> AsyncIterator[int]:
        with held():
            try:
                for number in range(3):
                    if number == 2 and end == "cancelled":
                        await anyio.sleep_forever()
                    await async_sub_agent(f"inside {number}")
                    yield number
            finally:
                sub_agent("inside, cleanup")

    return numbers


def check_stream(seen: Captured, outcome: str) -> None:
    found = parents(seen)
    runs = {name for name in found if not name.endswith("model")}
    assert {found[name] for name in runs if name.startswith("inside")} == {"stream"}
    assert {found[name] for name in runs if name.startswith(("between", "after"))} == {"consumer"}
    assert "inside, cleanup" in runs
    assert outcomes(seen)["stream"] == outcome


# -- trio alone --------------------------------------------------------------------------------------------------------


def test_a_nursery_of_trio_and_what_it_starts_and_waits_for(seen: Captured) -> None:
    async def serve(*, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        async with agentbus.agent("server"):
            task_status.started("ready")
            await async_sub_agent("of the server")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with agentbus.agent("planner") as planner:
                with planner.tool("delegate"):
                    assert await nursery.start(serve) == "ready"
                await trio.to_thread.run_sync(in_worker)

    def in_worker() -> None:
        trio.from_thread.run(async_sub_agent, "from the thread")

    trio.run(main)
    found = parents(seen)
    assert (found["server"], found["of the server"]) == ("delegate", "server")
    assert found["from the thread"] == "planner"


def test_trio_as_a_guest_of_asyncio_knows_its_own_tasks(seen: Captured) -> None:
    async def as_guest() -> None:
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            with agentbus.agent("planner"):
                nursery.start_soon(late, over)
                await trio.sleep(0)
            over.set()

    async def late(over: trio.Event) -> None:
        await over.wait()
        sub_agent("late")

    async def host() -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            as_guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done.set_result
        )
        async with agentbus.agent("host"):
            (await done).unwrap()

    asyncio.run(host())
    assert (parents(seen)["planner"], parents(seen)["late"]) == (None, "planner")


# -- threads that start and are joined ---------------------------------------------------------------------------------


def test_timers_callbacks_of_futures_and_the_loops_callbacks_are_carried(seen: Captured) -> None:
    async def main() -> None:
        loop, called = asyncio.get_running_loop(), asyncio.Event()
        with ThreadPoolExecutor(1) as pool:
            async with agentbus.agent("planner") as run, run.tool("delegate"):
                timer = threading.Timer(0, carry(sub_agent), args=("timer",))
                timer.start()
                timer.join()
                done = pool.submit(time.sleep, 0)
                done.add_done_callback(carry(lambda _: sub_agent("done callback")))
                await loop.run_in_executor(pool, carry(functools.partial(sub_agent, "run_in_executor")))
                loop.call_soon_threadsafe(functools.partial(carry(sub_agent), "call_soon"))
                loop.call_soon(called.set)
                await called.wait()

    asyncio.run(main())
    found = parents(seen)
    assert {found[name] for name in ("timer", "done callback", "run_in_executor", "call_soon")} == {"delegate"}
