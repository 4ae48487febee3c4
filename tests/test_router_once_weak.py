"""Subscriptions that end by themselves: after one event, or with their owner."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import deque
from collections.abc import Iterator

import pytest

from otel_agentbus.events import Event, HeartbeatTick, ToolCallStart, TurnComplete
from otel_agentbus.router import Router


@pytest.fixture
def router() -> Iterator[Router]:
    with Router() as router:
        yield router


def test_a_once_handler_fires_for_the_first_event_that_it_wants(router: Router) -> None:
    events: list[Event] = []
    subscription = router.subscribe(
        events.append, ToolCallStart, once=True, where=lambda event: event.tool.startswith("s")
    )
    router.emit(TurnComplete())
    router.emit(ToolCallStart(tool="fetch"))
    assert not subscription.ended
    for tool in ("search", "sort"):
        router.emit(ToolCallStart(tool=tool))
    assert events == [ToolCallStart(tool="search")]
    assert (subscription.delivered, subscription.ended, router.subscriptions) == (1, True, ())


def test_a_once_handler_that_emits_the_same_event_fires_once(router: Router) -> None:
    calls: list[Event] = []

    def emits_again(event: Event) -> None:
        calls.append(event)
        router.emit(event)

    router.subscribe(emits_again, once=True)
    router.emit(HeartbeatTick())
    assert len(calls) == 1


def test_a_failing_once_handler_has_had_its_chance(router: Router) -> None:
    subscription = router.subscribe(lambda _: 1 // 0, once=True)
    router.emit(HeartbeatTick())
    router.emit(HeartbeatTick())
    assert (subscription.delivered, subscription.failures) == (0, 1)


@pytest.mark.parametrize("deliver", ["inline", "thread"])
def test_a_once_handler_fires_once_under_four_threads(router: Router, deliver: str) -> None:
    fired = 0
    for _ in range(100):
        calls: deque[Event] = deque()
        subscription = router.subscribe(calls.append, once=True, deliver=deliver)  # type: ignore[arg-type]  # a str
        together = threading.Barrier(4)

        def emit(together: threading.Barrier = together) -> None:
            together.wait()
            router.emit(HeartbeatTick())

        threads = [threading.Thread(target=emit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert router.drain(10)
        assert (len(calls), subscription.delivered, subscription.dropped) == (1, 1, 0)
        fired += 1
    assert fired == 100


async def test_a_once_task_fires_once_and_ends_though_its_event_waits(router: Router) -> None:
    done = asyncio.Event()
    calls: list[Event] = []

    async def handler(event: Event) -> None:
        calls.append(event)
        done.set()

    subscription = router.subscribe(handler, once=True)
    for _ in range(3):
        router.emit(HeartbeatTick())
    assert subscription.ended
    await asyncio.wait_for(done.wait(), 10)
    await router.emit_async(HeartbeatTick())
    assert (len(calls), subscription.delivered) == (1, 1)


async def test_a_once_task_cancelled_while_its_event_waits_is_not_called(router: Router) -> None:
    called: list[Event] = []
    subscription = router.subscribe(called.append, once=True, deliver="task")
    router.emit(HeartbeatTick())
    assert subscription.ended
    subscription.cancel()
    await router.emit_async(HeartbeatTick())
    assert (called, subscription.delivered, subscription.dropped) == ([], 0, 1)


class Tracker:
    """An observer with a life of its own."""

    def __init__(self, heard: list[Event]) -> None:
        self.heard = heard

    def listen(self, event: Event) -> None:
        self.heard.append(event)

    async def listen_later(self, event: Event) -> None:
        self.heard.append(event)

    def __call__(self, event: Event) -> None:
        self.heard.append(event)


def test_a_weak_method_is_heard_while_its_owner_lives_and_disappears_with_it(router: Router) -> None:
    heard: list[Event] = []
    tracker = Tracker(heard)
    subscription = router.subscribe(tracker.listen, weak=True)
    strong = router.subscribe(lambda _: None)
    gc.collect()
    router.emit(HeartbeatTick())
    assert (len(heard), subscription.delivered) == (1, 1)
    del tracker
    gc.collect()
    assert subscription.ended
    assert router.subscriptions == (strong,)
    router.emit(HeartbeatTick())
    assert (len(heard), router.failures, strong.delivered) == (1, 0, 2)


def test_functions_and_objects_and_methods_of_c_are_held_weakly_by_themselves(router: Router) -> None:
    heard: list[Event] = []

    def function(event: Event) -> None:
        heard.append(event)

    tracker, ring = Tracker(heard), deque[Event]()
    for handler in (function, tracker, ring.append):
        router.subscribe(handler, weak=True)
    router.emit(HeartbeatTick())
    assert (len(heard), len(ring)) == (2, 1)
    del function, tracker, ring, handler
    gc.collect()
    assert router.subscriptions == ()


def test_a_weak_owner_may_die_in_a_handler_and_is_not_called_in_that_emit(router: Router) -> None:
    heard: list[Event] = []
    owners = [Tracker(heard)]

    def kills(_: Event) -> None:
        owners.clear()

    router.subscribe(kills)
    router.subscribe(owners[0].listen, weak=True)
    for _ in range(2):
        router.emit(HeartbeatTick())
    assert heard == []


async def test_a_weak_coroutine_method_is_delivered_as_a_task(router: Router) -> None:
    heard: list[Event] = []
    tracker = Tracker(heard)
    subscription = router.subscribe(tracker.listen_later, weak=True)
    await router.emit_async(HeartbeatTick())
    router.emit(HeartbeatTick())
    del tracker
    gc.collect()
    await asyncio.sleep(0)
    await router.emit_async(HeartbeatTick())
    assert (len(heard), subscription.delivered, subscription.dropped) == (1, 1, 1)
