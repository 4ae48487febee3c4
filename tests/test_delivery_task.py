"""Delivery as a task: on the right loop, in order, isolated, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator

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


class Keeps:
    """An async callable object."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.loops: set[asyncio.AbstractEventLoop] = set()

    async def __call__(self, event: Event, _: str = "") -> None:
        await asyncio.sleep(0)
        self.loops.add(asyncio.get_running_loop())
        self.heard.append(event)

    async def method(self, event: Event) -> None:
        await self(event)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until it is so."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def other_loop() -> AsyncIterator[asyncio.AbstractEventLoop]:
    """A loop that runs in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    if not loop.is_closed():
        loop.close()


async def test_every_kind_of_async_handler_is_delivered_as_a_task(router: Router) -> None:
    keeps = Keeps()
    for handler in (keeps, keeps.method, functools.partial(keeps.method), functools.partial(keeps, _="x")):
        router.subscribe(handler)
    plain = router.subscribe(keeps.heard.append, deliver="task")
    lazy = router.subscribe(lambda event: keeps(event), deliver="task")
    await router.emit_async(HeartbeatTick())
    assert keeps.heard == [HeartbeatTick()] * 6
    assert [s.delivered for s in router.subscriptions] == [1] * 6
    assert (plain.delivered, lazy.delivered) == (1, 1)


async def test_emit_does_not_wait_and_order_is_kept(router: Router) -> None:
    keeps = Keeps()
    router.subscribe(keeps)
    events = [tick(number) for number in range(50)]
    for event in events:
        router.emit(event)
    assert keeps.heard == []
    await until(lambda: len(keeps.heard) == 50)
    assert keeps.heard == events


async def test_one_handler_handles_one_event_at_a_time(router: Router) -> None:
    at_once = most = 0

    async def handler(_: Event) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1

    router.subscribe(handler)
    for number in range(10):
        router.emit(tick(number))
    await router.emit_async(tick(10))
    assert most == 1


async def test_no_task_is_left_when_there_is_nothing_to_do(router: Router) -> None:
    router.subscribe(Keeps())
    before = asyncio.all_tasks()
    await router.emit_async(HeartbeatTick())
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_burst_wakes_the_loop_once(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    keeps = Keeps()
    router.subscribe(keeps)
    loop = asyncio.get_running_loop()
    wakes = 0
    call_soon = loop.call_soon

    def counting(*args: object, **kwargs: object) -> asyncio.Handle:
        nonlocal wakes
        wakes += 1
        return call_soon(*args, **kwargs)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(loop, "call_soon", counting)
    for number in range(100):
        router.emit(tick(number))
    assert wakes == 1


async def test_a_burst_gives_the_loop_a_turn_in_between(router: Router) -> None:
    order: list[str] = []

    async def busy(_: Event) -> None:
        order.append("handler")
        ends = asyncio.get_running_loop().time() + 0.002
        while asyncio.get_running_loop().time() < ends:
            pass

    router.subscribe(busy)
    for number in range(5):
        router.emit(tick(number))

    async def agent() -> None:
        while order.count("handler") < 5:
            order.append("agent")
            await asyncio.sleep(0)

    await asyncio.wait_for(agent(), 10)
    assert all(order[i : i + 2] != ["handler", "handler"] for i in range(len(order)))


async def test_a_handler_runs_in_a_context_of_its_own(router: Router) -> None:
    user = contextvars.ContextVar("user", default="nobody")
    seen: list[str] = []

    async def handler(_: Event) -> None:
        seen.append(user.get())
        user.set("handler")

    user.set("subscriber")
    router.subscribe(handler)
    user.set("emitter")
    await router.emit_async(HeartbeatTick())
    await router.emit_async(HeartbeatTick())
    assert (seen, user.get()) == (["nobody", "nobody"], "emitter")


async def test_a_failing_handler_goes_on_with_the_next_event(router: Router) -> None:
    async def fails(event: Event) -> None:
        if event == tick(0):
            raise ValueError
        if event == tick(1):
            raise asyncio.CancelledError  # of something that it waited for

    subscription = router.subscribe(fails)
    for number in range(3):
        await router.emit_async(tick(number))
    assert (subscription.delivered, subscription.failures, subscription.dropped) == (1, 2, 0)


async def test_a_hanging_handler_never_reaches_the_agent_and_its_queue_is_bounded(router: Router) -> None:
    hangs = asyncio.Event()
    subscription = router.subscribe(lambda _: hangs.wait(), deliver="task", queue_size=3, when_full="drop_newest")
    neighbour = router.subscribe(Keeps())
    router.emit(tick(0))
    await until(lambda: neighbour.delivered == 1)
    for number in range(1, 10):
        router.emit(tick(number))
    await until(lambda: neighbour.delivered == 10)
    assert (subscription.delivered, subscription.dropped) == (0, 6)
    hangs.set()
    await until(lambda: subscription.delivered == 4)
    assert subscription.dropped == 6


async def test_a_cancelled_subscription_drops_what_waits(router: Router) -> None:
    keeps = Keeps()
    subscription = router.subscribe(keeps)
    router.emit(HeartbeatTick())
    subscription.cancel()
    router.emit(HeartbeatTick())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (keeps.heard, subscription.delivered, subscription.dropped) == ([], 0, 1)


async def test_a_handler_runs_on_the_loop_where_it_subscribed(
    router: Router, other_loop: asyncio.AbstractEventLoop
) -> None:
    keeps = Keeps()

    async def subscribe() -> None:
        router.subscribe(keeps)

    asyncio.run_coroutine_threadsafe(subscribe(), other_loop).result(10)
    await router.emit_async(HeartbeatTick())
    assert (keeps.heard, keeps.loops) == ([HeartbeatTick()], {other_loop})


def test_without_a_loop_events_wait_for_the_one_of_the_first_emit_on_a_loop(router: Router) -> None:
    keeps = Keeps()
    subscription = router.subscribe(keeps)
    router.emit(tick(0))

    async def main() -> None:
        router.emit(tick(1))
        await until(lambda: subscription.delivered == 2)
        assert keeps.loops == {asyncio.get_running_loop()}

    asyncio.run(main())
    assert keeps.heard == [tick(0), tick(1)]


async def test_another_thread_may_emit(router: Router) -> None:
    keeps = Keeps()
    subscription = router.subscribe(keeps)

    def emit() -> None:
        for number in range(1000):
            router.emit(tick(number))

    threads = [threading.Thread(target=emit) for _ in range(4)]
    for thread in threads:
        thread.start()
    await until(lambda: subscription.delivered + subscription.dropped == 4000)
    for thread in threads:
        thread.join()
    assert len(keeps.heard) == subscription.delivered


def test_a_closed_loop_is_a_counted_drop(router: Router) -> None:
    keeps = Keeps()

    async def main() -> None:
        router.subscribe(keeps)
        await router.emit_async(tick(0))
        router.emit(tick(1))  # the loop ends before it comes to it

    asyncio.run(main())
    router.emit(tick(2))
    (subscription,) = router.subscriptions
    assert (keeps.heard, subscription.delivered, subscription.dropped) == ([tick(0)], 1, 2)
    assert router.failures == 0


def test_a_loop_that_ends_while_a_handler_runs_cancels_it_and_nobody_complains(
    router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def hangs(_: Event) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def main() -> None:
        router.subscribe(hangs)
        for number in range(3):
            router.emit(tick(number))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(main())
    gc.collect()
    (subscription,) = router.subscriptions
    assert (ended, subscription.delivered, subscription.dropped, subscription.failures) == (["cancelled"], 0, 3, 0)
    assert caplog.records == []


async def test_all_tasks_may_be_cancelled_and_the_handler_goes_on_with_later_events(router: Router) -> None:
    keeps = Keeps()
    subscription = router.subscribe(keeps)
    router.emit(tick(0))
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await until(lambda: subscription.dropped == 1)
    await asyncio.sleep(0)
    await router.emit_async(tick(1))
    assert (keeps.heard, subscription.delivered, subscription.dropped) == ([tick(1)], 1, 1)


def test_a_handler_that_exits_ends_the_program_as_anywhere_else(router: Router) -> None:
    async def exits(_: Event) -> None:
        raise SystemExit(3)

    async def main() -> None:
        router.subscribe(exits)
        await router.emit_async(HeartbeatTick())

    with pytest.raises(SystemExit):
        asyncio.run(main())


async def test_a_loop_with_a_task_factory_of_its_own_is_fine(router: Router) -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro: asyncio.Task(coro, loop=loop))
    try:
        keeps = Keeps()
        router.subscribe(keeps)
        await router.emit_async(HeartbeatTick())
    finally:
        loop.set_task_factory(None)
    assert keeps.heard == [HeartbeatTick()]
