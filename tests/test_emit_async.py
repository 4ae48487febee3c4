"""`emit_async` waits for the async handlers of its event, and for nothing else; above all not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from otel_agentbus.events import DomainEvent, Event, HeartbeatTick
from otel_agentbus.router import Router


@pytest.fixture
def router() -> Iterator[Router]:
    with Router() as router:
        yield router


def tick(number: int) -> DomainEvent:
    """An event that can be told from others."""
    return DomainEvent(name=f"tick {number}")


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until it is so."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_emit_async_waits_for_this_events_handlers_only(router: Router) -> None:
    release = asyncio.Event()
    handled: list[str] = []

    async def slow(event: Event) -> None:
        if event == tick(1):
            await release.wait()
        handled.append("slow")

    async def quick(_: Event) -> None:
        handled.append("quick")

    async def never(_: Event) -> None:
        await asyncio.Event().wait()

    router.subscribe(slow, "tick *")
    router.subscribe(quick, "tick *")
    router.subscribe(never, HeartbeatTick)
    router.emit(HeartbeatTick())
    await asyncio.wait_for(router.emit_async(tick(0)), 10)
    assert sorted(handled) == ["quick", "slow"]
    emitting = asyncio.ensure_future(router.emit_async(tick(1)))
    await until(lambda: handled.count("quick") == 2)
    assert not emitting.done()
    release.set()
    await asyncio.wait_for(emitting, 10)
    assert handled.count("slow") == 2


async def test_emit_async_calls_inline_handlers_too_and_raises_nothing(router: Router) -> None:
    order: list[str] = []

    async def fails(_: Event) -> None:
        order.append("async")
        raise ValueError

    router.subscribe(fails)
    router.subscribe(lambda _: order.append("inline"))
    await router.emit_async(HeartbeatTick())
    assert order == ["inline", "async"]


@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest"])
async def test_emit_async_does_not_wait_for_an_event_that_was_dropped(router: Router, when_full: str) -> None:
    gate = asyncio.Event()
    subscription = router.subscribe(lambda _: gate.wait(), deliver="task", queue_size=1, when_full=when_full)  # type: ignore[arg-type]  # a str
    router.emit(tick(0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = [asyncio.ensure_future(router.emit_async(tick(number))) for number in (1, 2)]
    done, pending = await asyncio.wait(waiting, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(pending), subscription.dropped) == (1, 1, 1)
    gate.set()
    await asyncio.wait_for(asyncio.gather(*waiting), 10)


async def test_emit_async_does_not_wait_for_a_cancelled_subscription(router: Router) -> None:
    gate = asyncio.Event()
    subscription = router.subscribe(lambda _: gate.wait(), deliver="task")
    router.emit(tick(0))
    emitting = asyncio.ensure_future(router.emit_async(tick(1)))
    await asyncio.sleep(0)
    subscription.cancel()
    await asyncio.wait_for(emitting, 10)
    gate.set()


@pytest.mark.parametrize("reached", [False, True], ids=["while it waits", "while it is handled"])
async def test_emit_async_does_not_wait_for_a_loop_that_has_been_closed(router: Router, reached: bool) -> None:
    loop = asyncio.new_event_loop()
    hangs: list[asyncio.Event] = []

    async def handler(_: Event) -> None:
        hangs.append(asyncio.Event())
        await hangs[0].wait()

    async def subscribe() -> None:
        router.subscribe(handler)

    def run_for_a_moment() -> None:
        loop.run_until_complete(asyncio.sleep(0.01))

    await asyncio.to_thread(loop.run_until_complete, subscribe())
    emitting = asyncio.ensure_future(router.emit_async(HeartbeatTick()))
    await asyncio.sleep(0)
    if reached:
        await asyncio.to_thread(run_for_a_moment)
        assert hangs
    task = next(iter(asyncio.all_tasks(loop)), None)
    loop.close()
    await asyncio.wait_for(emitting, 10)
    (subscription,) = router.subscriptions
    assert (subscription.delivered, subscription.dropped) == (0, 1)
    if task is not None:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is this test's, and meant to be lost
        task.get_coro().close()


async def test_emit_async_inside_a_handler_never_waits_for_itself_or_in_a_circle(router: Router) -> None:
    order: list[str] = []

    def passes_on(name: str, last: int) -> Callable[[Event], Awaitable[None]]:
        async def handler(event: Event) -> None:
            number = int(event.name.removeprefix("tick "))  # type: ignore[attr-defined]  # it hears ticks only
            order.append(f"{name} {number}")
            if number < last:
                await router.emit_async(tick(number + 1))

        return handler

    router.subscribe(passes_on("a", 2), "tick *")
    router.subscribe(passes_on("b", 2), "tick *")
    await asyncio.wait_for(router.emit_async(tick(0)), 10)
    await until(lambda: len(order) == 14)
    assert order.count("a 0") == order.count("b 0") == 1
