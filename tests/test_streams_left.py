"""Async streams that are left early, forgotten, or alive when their loop is not: each ends once, and quietly."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from .streaming import Watched, held, watched

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


def test_left_early_and_closed(watched: Watched, pause: Any) -> None:
    async def main() -> None:
        with watched.consumer():
            async with contextlib.aclosing(watched.async_numbers(pause=pause)) as stream:
                async for _ in stream:
                    break
            assert watched.untouched()
            await stream.aclose()

    asyncio.run(main())
    watched.check("cancelled")


def test_used_as_a_context_manager(watched: Watched, pause: Any) -> None:
    async def main() -> None:
        with watched.consumer():
            async with watched.async_numbers(pause=pause) as stream:
                assert await anext(stream) == 0

    asyncio.run(main())
    watched.check("cancelled")


def test_left_early_and_forgotten(watched: Watched, pause: Any) -> None:
    async def main() -> None:
        with watched.consumer():
            async for _ in watched.async_numbers(pause=pause):
                break
            assert watched.untouched()
            await settle()

    asyncio.run(main())
    watched.check("cancelled")


def test_left_early_and_forgotten_as_the_last_thing_of_the_program(watched: Watched, pause: Any) -> None:
    async def main() -> None:
        with watched.consumer():
            async for _ in watched.async_numbers(pause=pause):
                break

    asyncio.run(main())
    watched.check("cancelled")


def test_forgotten_as_the_last_thing_with_a_cleanup_that_really_waits(watched: Watched) -> None:
    """Nobody can wait for it any more; it is stopped where it waits, in its context."""

    async def main() -> None:
        with watched.consumer():
            async for _ in watched.async_numbers(pause=lambda: asyncio.sleep(0.001)):
                break

    asyncio.run(main())
    watched.check("cancelled")


@pytest.mark.parametrize("needs_a_loop", [True, False])
def test_forgotten_without_a_loop_with_a_cleanup_that_really_waits(watched: Watched, needs_a_loop: bool) -> None:
    kept: list[Any] = []
    never: list[asyncio.Future[None]] = []

    async def main() -> None:
        with watched.consumer():
            kept.append(watched.async_numbers(pause=lambda: never[0] if never else asyncio.sleep(0.001)))
            await anext(kept[0])

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    if not needs_a_loop:
        never.append(loop.create_future())
    loop.close()
    kept.clear()
    watched.check("cancelled")


def test_left_early_and_forgotten_in_a_circle(watched: Watched, pause: Any) -> None:
    if watched.held:
        pytest.skip("the collector takes what is in a circle apart itself, the user's span before the generator")

    async def main() -> None:
        with watched.consumer():
            circle: list[Any] = [watched.async_numbers(pause=pause)]
            circle.append(circle)
            await anext(circle[0])
            del circle
            await settle()

    asyncio.run(main())
    watched.check("cancelled")


def test_never_begun(watched: Watched) -> None:
    async def main() -> None:
        with watched.consumer():
            watched.async_numbers()
            await settle()

    asyncio.run(main())
    watched.check("cancelled", cleaned=False)


def test_never_begun_but_closed(watched: Watched) -> None:
    async def main() -> None:
        with watched.consumer():
            await watched.async_numbers().aclose()

    asyncio.run(main())
    watched.check("cancelled", cleaned=False)


def test_forgotten_after_its_loop_was_closed(watched: Watched) -> None:
    kept: list[Any] = []

    async def main() -> None:
        with watched.consumer():
            kept.append(watched.async_numbers())
            await anext(kept[0])

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    kept.clear()
    watched.check("cancelled")


def test_forgotten_after_its_loop_was_stopped_and_before_it_is_closed(watched: Watched) -> None:
    kept: list[Any] = []

    async def main() -> None:
        with watched.consumer():
            kept.append(watched.async_numbers())
            await anext(kept[0])

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    kept.clear()
    gc.collect()
    loop.close()
    watched.check("cancelled")


def test_forgotten_without_any_loop(watched: Watched) -> None:
    with watched.consumer():
        stream = watched.async_numbers()
        with pytest.raises(StopIteration) as step:
            stream.__anext__().send(None)
        assert step.value.value == 0
        assert watched.untouched()
        del stream
        gc.collect()
    watched.check("cancelled")


def test_alive_when_the_loop_shuts_down(watched: Watched, pause: Any) -> None:
    kept: list[Any] = []

    async def main() -> None:
        with watched.consumer():
            kept.append(watched.async_numbers(pause=pause))
            await anext(kept[0])

    asyncio.run(main())
    watched.check("cancelled")
    kept.clear()
    watched.check("cancelled")


def test_alive_in_a_step_when_the_loop_shuts_down(watched: Watched) -> None:
    tasks: list[Any] = []

    async def main() -> None:
        with watched.consumer():
            begun = asyncio.Event()

            async def hang() -> None:
                begun.set()
                await asyncio.sleep(3600)

            async def consume() -> None:
                async for _ in watched.async_numbers(pause=lambda: asyncio.sleep(0) if begun.is_set() else hang()):
                    pass

            tasks.append(asyncio.create_task(consume()))
            await begun.wait()

    asyncio.run(main())
    tasks.clear()
    watched.check("cancelled")


def test_closed_by_another_task(watched: Watched, pause: Any) -> None:
    async def main() -> None:
        with watched.consumer():
            stream = watched.async_numbers(pause=pause)
            await anext(stream)
            await asyncio.create_task(stream.aclose())
            assert watched.untouched()

    asyncio.run(main())
    watched.check("cancelled")
