"""Every way to drive a stream, times every way it ends, times what it holds across its yields: one tree for all.

Who steps it: one task or thread, a task or thread for each step, the consumer of two streams in turn, `aclosing`. How
it ends: exhausted, by an exception on either side, closed here or elsewhere, cancelled in a step or between two,
dropped with a loop, at its end, or without one. What it holds: nothing, a span of the user's own, `asyncio.timeout`, a
cancel scope of anyio. Whole trees are compared, the user's spans among them, and nothing may be logged. What only the
collector finds, because it is in a circle, it takes apart in its own order: see `test_streams_left`.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing, closing, suppress
from typing import Any

import pytest

from .scenes import SOME, Scene, cancel_scope, scene

__all__ = ["scene"]

# -- async: who steps it -----------------------------------------------------------------------------------------------

#: The stream, in a list: who empties it drops the stream.
Kept = list[Any]
Step = Callable[[], Awaitable[None]]


async def settle() -> None:
    gc.collect()
    for _ in range(10):
        await asyncio.sleep(0)


async def one_step(kept: Kept) -> None:
    await anext(kept[0])


async def in_one_task(kept: Kept) -> None:
    await one_step(kept)


async def in_a_task_for_each_step(kept: Kept) -> None:
    """A task cannot end with what says that a stream is exhausted: that is handed over."""

    async def step() -> bool:
        try:
            await one_step(kept)
        except StopAsyncIteration:
            return True
        return False

    if await asyncio.create_task(step()):
        raise StopAsyncIteration


DRIVES = {"one task": in_one_task, "a task for each step": in_a_task_for_each_step}


# -- async: how it ends ------------------------------------------------------------------------------------------------


async def take_all(step: Step, scene: Scene) -> None:
    with suppress(StopAsyncIteration, ValueError):
        while True:
            await step()
            scene.between()


async def raise_in_the_consumer(kept: Kept) -> None:
    with suppress(KeyError):
        async for _ in kept.pop():
            raise KeyError("the consumer's")
    await settle()


async def be_cancelled_in_a_step(step: Step, scene: Scene) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    scene.waits = lambda: loop.call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await step()
    task.uncancel()


async def be_cancelled_between_steps() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    task.uncancel()


async def finish(kept: Kept, step: Step, scene: Scene) -> None:
    """End the stream, of which some steps were taken, as the scene wants it."""
    match scene.end:
        case "exhausted" | "generator raises":
            await take_all(step, scene)
        case "consumer raises":
            await raise_in_the_consumer(kept)
        case "closed":
            await kept[0].aclose()
        case "closed in another task":
            await asyncio.create_task(kept[0].aclose())
        case "cancelled in a step":
            await be_cancelled_in_a_step(step, scene)
        case "cancelled between two":
            await be_cancelled_between_steps()
            kept.clear()
            await settle()
        case "dropped":
            kept.clear()
            await settle()


ENDS = [
    *("exhausted", "generator raises", "consumer raises", "closed", "closed in another task"),
    *("cancelled in a step", "cancelled between two"),
    *("dropped", "dropped at the loop's end", "dropped without a loop"),
]
#: A cancel scope must be left by the task that entered it, and it is the generator's own affair where it is not.
SAME_TASK = ["exhausted", "generator raises", "closed", "cancelled in a step"]
SCOPES: dict[str, Callable[[], Any]] = {"timeout": lambda: asyncio.timeout(60), "cancel scope": cancel_scope}


def run(main: Awaitable[Any], scene: Scene, kept: Kept) -> None:
    """As a program would, or with a loop that is gone when the stream is dropped."""
    if scene.end != "dropped without a loop":
        asyncio.run(main)  # type: ignore[arg-type]  # a coroutine
    else:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main)
        loop.close()
    kept.clear()
    gc.collect()


async def consume(scene: Scene, kept: Kept, drive: Callable[[Kept], Awaitable[None]]) -> None:
    with scene.consumer():
        kept.append(scene.async_stream())
        for _ in range(1 if scene.end == "consumer raises" else SOME):
            await drive(kept)
            scene.between()
        await finish(kept, lambda: drive(kept), scene)


@pytest.mark.parametrize("drive", DRIVES.values(), ids=list(DRIVES))
@pytest.mark.parametrize("end", ENDS)
def test_an_async_stream(scene: Scene, drive: Callable[[Kept], Awaitable[None]]) -> None:
    kept: Kept = []
    run(consume(scene, kept, drive), scene, kept)
    scene.check()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("drive", DRIVES.values(), ids=list(DRIVES))
def test_an_async_stream_that_holds_a_timeout(scene: Scene, drive: Callable[[Kept], Awaitable[None]]) -> None:
    kept: Kept = []
    scene.scope = SCOPES["timeout"]
    run(consume(scene, kept, drive), scene, kept)
    scene.check()


@pytest.mark.parametrize("end", SAME_TASK)
def test_an_async_stream_that_holds_a_cancel_scope(scene: Scene) -> None:
    kept: Kept = []
    scene.scope = SCOPES["cancel scope"]
    run(consume(scene, kept, in_one_task), scene, kept)
    scene.check()


@pytest.mark.parametrize("scope", [None, *SCOPES.values()], ids=["", *SCOPES])
@pytest.mark.parametrize("end", ["exhausted", "generator raises", "left", "cancelled in a step"])
def test_an_async_stream_in_aclosing(scene: Scene, scope: Callable[[], Any] | None) -> None:
    async def main() -> None:
        with scene.consumer():
            async with aclosing(scene.async_stream()) as stream:
                kept = [stream]
                for _ in range(SOME):
                    await one_step(kept)
                    scene.between()
                await finish(kept, lambda: one_step(kept), scene)

    scene.scope = scope
    asyncio.run(main())
    scene.check()


@pytest.mark.parametrize("end", [end for end in ENDS if end != "consumer raises"])
def test_two_async_streams_in_turn(scene: Scene) -> None:
    kept: Kept = []

    async def main() -> None:
        with scene.consumer():
            kept.append(scene.async_stream())
            second = scene.async_stream("second", held=False)
            for _ in range(SOME):
                await anext(kept[0])
                await anext(second)
                scene.between()
            await finish(kept, lambda: one_step(kept), scene)
            async for _ in second:
                scene.between()

    run(main(), scene, kept)
    scene.check(second=True)


# -- sync --------------------------------------------------------------------------------------------------------------


def in_a_thread(function: Callable[[], Any]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def in_one_thread(kept: Kept) -> None:
    with suppress(ValueError):
        next(kept[0], None)


def in_a_thread_for_each_step(kept: Kept) -> None:
    in_a_thread(lambda: in_one_thread(kept))


def finish_sync(kept: Kept, step: Callable[[Kept], None], end: str) -> None:
    match end:
        case "exhausted" | "generator raises":
            step(kept)
            step(kept)
        case "consumer raises":
            with suppress(KeyError):
                for _ in kept.pop():
                    raise KeyError("the consumer's")
        case "closed":
            kept[0].close()
        case "closed in another thread":
            in_a_thread(lambda: kept[0].close())
        case "dropped":
            kept.clear()
        case "dropped in another thread":
            in_a_thread(kept.clear)
    gc.collect()


SYNC_ENDS = [
    *("exhausted", "generator raises", "consumer raises", "closed", "closed in another thread"),
    *("dropped", "dropped in another thread"),
]
SYNC_DRIVES = {"one thread": in_one_thread, "a thread for each step": in_a_thread_for_each_step}


@pytest.mark.parametrize("in_a_loop", [False, True], ids=["", "in a loop"])
@pytest.mark.parametrize("drive", SYNC_DRIVES.values(), ids=list(SYNC_DRIVES))
@pytest.mark.parametrize("end", SYNC_ENDS)
def test_a_sync_stream(scene: Scene, drive: Callable[[Kept], None], in_a_loop: bool) -> None:
    def consume() -> None:
        with scene.consumer():
            kept: Kept = [scene.stream()]
            for _ in range(1 if scene.end == "consumer raises" else SOME):
                drive(kept)
                scene.between()
            finish_sync(kept, drive, scene.end)

    async def main() -> None:
        consume()

    asyncio.run(main()) if in_a_loop else consume()
    scene.check()


@pytest.mark.parametrize("end", ["exhausted", "generator raises", "left"])
def test_a_sync_stream_in_closing(scene: Scene) -> None:
    with scene.consumer(), closing(scene.stream()) as stream:
        kept = [stream]
        for _ in range(SOME):
            in_one_thread(kept)
            scene.between()
        finish_sync(kept, in_one_thread, scene.end)
        del kept
    scene.check()


@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_a_sync_stream_whose_consumer_is_cancelled(scene: Scene) -> None:
    async def main() -> None:
        with scene.consumer():
            kept: Kept = [scene.stream()]
            for _ in range(SOME):
                in_one_thread(kept)
                scene.between()
            await be_cancelled_between_steps()
            finish_sync(kept, in_one_thread, scene.end)

    asyncio.run(main())
    scene.check()


@pytest.mark.parametrize("end", [end for end in SYNC_ENDS if end != "consumer raises"])
def test_two_sync_streams_in_turn(scene: Scene) -> None:
    with scene.consumer():
        kept: Kept = [scene.stream()]
        second = scene.stream("second", held=False)
        for _ in range(SOME):
            in_one_thread(kept)
            next(second)
            scene.between()
        finish_sync(kept, in_one_thread, scene.end)
        for _ in second:
            scene.between()
    scene.check(second=True)
