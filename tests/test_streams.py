"""Async streams: however one is left, it ends once, rightly, and leaves no trace in its consumer.

Each scenario runs in a fresh event loop, with every way to make a stream, with and without a span of the user's held
across the yields.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

import otel_agentbus as agentbus

from .streaming import Watched, held, mine, watched

__all__ = ["held", "watched"]

Scenario = Callable[[Watched], Coroutine[Any, Any, None]]


def a_moment() -> Coroutine[Any, Any, None]:
    return asyncio.sleep(0)


@pytest.fixture(params=[None, a_moment], ids=["", "awaiting"])
def pause(request: pytest.FixtureRequest) -> Any:
    return request.param


async def settle() -> None:
    gc.collect()
    for _ in range(10):
        await asyncio.sleep(0)


def test_exhausted(watched: Watched, pause: Any) -> None:
    async def main() -> None:
        with watched.consumer():
            found = []
            async for number in watched.async_numbers(pause=pause):
                assert watched.untouched()
                found.append(number)
            assert found == [0, 1, 2]

    asyncio.run(main())
    watched.check("ok")


def test_each_step_in_a_task_of_its_own(watched: Watched, pause: Any) -> None:
    async def main() -> None:
        with watched.consumer():
            stream = watched.async_numbers(pause=pause)
            found = []
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    found.append(await asyncio.create_task(_step(stream)))
            assert found == [0, 1, 2]

    asyncio.run(main())
    watched.check("ok")


async def _step(stream: Any) -> Any:
    return await anext(stream)


def test_cancelled_in_the_middle_of_a_step(watched: Watched) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def hang_once() -> None:
            if not begun.is_set():
                begun.set()
                await asyncio.Event().wait()

        async def consume() -> None:
            async for _ in watched.async_numbers(pause=hang_once):
                pass

        with watched.consumer():
            task = asyncio.create_task(consume())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    watched.check("cancelled")


def test_cancelled_between_two_steps(watched: Watched, pause: Any) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def consume() -> None:
            async for _ in watched.async_numbers(pause=pause):
                begun.set()
                await asyncio.Event().wait()

        with watched.consumer():
            task = asyncio.create_task(consume())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await settle()

    asyncio.run(main())
    watched.check("cancelled")


def test_cancelled_before_a_step_begins(watched: Watched, pause: Any) -> None:
    async def main() -> None:
        with watched.consumer():
            stream = watched.async_numbers(pause=pause)
            await anext(stream)
            task = asyncio.create_task(_step(stream))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del stream, task
            await settle()

    asyncio.run(main())
    watched.check("cancelled")


def test_an_exception_in_the_consumer(watched: Watched, pause: Any) -> None:
    async def main() -> None:
        with watched.consumer():
            with pytest.raises(ValueError, match="consumer"):
                async for _ in watched.async_numbers(pause=pause):
                    raise ValueError("the consumer's")
            await settle()

    asyncio.run(main())
    watched.check("cancelled")


def test_an_exception_in_the_generator(watched: Watched) -> None:
    async def fail() -> None:
        raise ValueError("the generator's")

    async def main() -> None:
        with watched.consumer():
            stream = watched.async_numbers(pause=fail)
            with pytest.raises(ValueError, match="generator"):
                await anext(stream)
            assert watched.untouched()
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            await stream.aclose()

    asyncio.run(main())
    watched.check("error")


def test_thrown_into(watched: Watched, pause: Any) -> None:
    async def main() -> None:
        with watched.consumer():
            stream = watched.async_numbers(pause=pause)
            assert await anext(stream) == 0
            with pytest.raises(KeyError):
                await stream.athrow(KeyError("thrown"))

    asyncio.run(main())
    watched.check("error")


def test_sent_into(watched: Watched, pause: Any) -> None:
    async def main() -> None:
        with watched.consumer():
            stream = watched.async_numbers(pause=pause)
            assert await stream.asend(None) == 0
            assert await stream.asend("ignored") == 1
            assert watched.untouched()
            await stream.aclose()

    asyncio.run(main())
    watched.check("cancelled")


def test_a_timeout_held_across_yields(watched: Watched) -> None:
    """It needs the same `current_task()` in every step."""
    kept: list[asyncio.Timeout] = []

    async def hold_a_timeout() -> None:
        assert asyncio.current_task() is tasks[0]
        if not kept:
            kept.append(asyncio.timeout(3600))
            await kept[0].__aenter__()
        elif len(kept) == 1:
            await kept[0].__aexit__(None, None, None)
            kept.append(kept[0])

    async def main() -> None:
        tasks.append(asyncio.current_task())
        with watched.consumer():
            assert [number async for number in watched.async_numbers(pause=hold_a_timeout)] == [0, 1, 2]

    tasks: list[Any] = []
    asyncio.run(main())
    assert not kept[0].expired()
    watched.check("ok")


def test_a_timeout_across_yields_that_expires(watched: Watched) -> None:
    async def generate() -> Any:
        async with asyncio.timeout(0.001):
            yield 0
            await asyncio.Event().wait()

    async def main() -> None:
        with watched.consumer():
            stream = agentbus.agent("b")(generate)()
            assert await anext(stream) == 0
            with pytest.raises(TimeoutError):
                await anext(stream)

    watched.way = "decorated agent"
    asyncio.run(main())
    watched.check("error", cleaned=False)


def test_a_cancel_scope_held_across_yields(watched: Watched) -> None:
    scopes: list[anyio.CancelScope] = []

    async def hold_a_scope() -> None:
        if not scopes:
            scopes.append(anyio.CancelScope())
            scopes[0].__enter__()
        elif len(scopes) == 1:
            scopes[0].__exit__(None, None, None)
            scopes.append(scopes[0])
        await asyncio.sleep(0)

    async def main() -> None:
        with watched.consumer():
            assert [number async for number in watched.async_numbers(pause=hold_a_scope)] == [0, 1, 2]

    asyncio.run(main())
    watched.check("ok")


def test_two_streams_interleaved(watched: Watched, pause: Any) -> None:
    async def main() -> None:
        with watched.consumer():
            first, second = watched.async_numbers(pause=pause), watched.async_numbers(pause=pause)
            found = [await anext(first), await anext(second), await anext(first), await anext(second)]
            assert watched.untouched()
            found += [number async for number in first]
            found += [number async for number in second]
            assert found == [0, 0, 1, 1, 2, 2]

    asyncio.run(main())
    assert watched.unraisable == []
    assert watched.caplog.records == []
    told = [event.kind for event in watched.seen.events if getattr(event, "tool", None) == "cleanup"]
    assert told == ["tool.start", "tool.end"] * 2


def test_closing_while_a_step_runs_is_refused_and_ends_nothing(watched: Watched) -> None:
    async def main() -> None:
        gate, begun = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            begun.set()
            await gate.wait()

        with watched.consumer():
            stream = watched.async_numbers(count=1, pause=wait)
            task = asyncio.create_task(_step(stream))
            await begun.wait()
            with pytest.raises(RuntimeError, match="already running"):
                await stream.aclose()
            with pytest.raises(RuntimeError, match="already running"):
                await anext(stream)
            gate.set()
            assert await task == 0
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    asyncio.run(main())
    watched.check("ok")


def test_the_generators_variables_stay_with_it(watched: Watched) -> None:
    inside: list[str] = []

    async def look() -> None:
        inside.append(mine.get())

    async def main() -> None:
        with watched.consumer():
            async for _ in watched.async_numbers(count=2, pause=look):
                mine.set("changed by the consumer")
                mine.set("the consumer's")

    asyncio.run(main())
    assert inside == [
        "set by the generator 0",
        "set by the generator 1",
        "set by the generator 1",
    ]
    watched.check("ok")
