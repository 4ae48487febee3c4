"""Every feature of the seed's list, and every defect of the seed's router, each as it is here.

The seed is an article on an in-memory telemetry router; its list stands in a table of features against peers (`sync
handlers` to `handler removed while emitting`), its defects in the paragraph below that table.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from collections.abc import Iterator

import pytest

from otel_agentbus import contract
from otel_agentbus.errors import UnreadableEvent
from otel_agentbus.events import DomainEvent, Event, HeartbeatTick, LlmRequest, ToolCall, TurnComplete
from otel_agentbus.router import Router


@pytest.fixture
def router() -> Iterator[Router]:
    with Router() as router:
        yield router


def finished(tool: str = "search") -> ToolCall:
    return ToolCall(tool=tool, duration=0.1, success=True)


# The list


def test_sync_handlers(router: Router) -> None:
    heard: list[Event] = []
    router.subscribe(heard.append, ToolCall)
    router.emit(finished())
    assert heard == [finished()]


async def test_async_handlers_hear_a_plain_emit_too(router: Router) -> None:
    heard: list[Event] = []
    done = asyncio.Event()

    @router.on(ToolCall)
    async def keep(event: ToolCall) -> None:
        heard.append(event)
        done.set()

    router.emit(finished())
    await asyncio.wait_for(done.wait(), 10)
    assert heard == [finished()]


async def test_once_sync_and_async(router: Router) -> None:
    heard: list[str] = []
    router.once(ToolCall)(lambda _: heard.append("sync"))

    @router.once(ToolCall)
    async def keep(_: ToolCall) -> None:
        heard.append("async")

    for _ in range(3):
        await router.emit_async(finished())
    assert heard == ["sync", "async"]


def test_wildcard_and_base_class(router: Router) -> None:
    counts = [router.subscribe(lambda _: None)]
    counts += [router.subscribe(lambda _: None, Event), router.subscribe(lambda _: None, "*")]
    counts += [router.subscribe(lambda _: None, "tool.*"), router.subscribe(lambda _: None, "lead_*")]
    for event in (finished(), TurnComplete(), DomainEvent(name="lead_qualified")):
        router.emit(event)
    assert [subscription.delivered for subscription in counts] == [3, 3, 3, 1, 1]


def test_priority_a_cost_tracker_runs_before_the_budget_that_subscribed_first(router: Router) -> None:
    order: list[str] = []
    router.subscribe(lambda _: order.append("budget"), priority=10)
    router.subscribe(lambda _: order.append("cost"), priority=0)
    router.emit(finished())
    assert order == ["cost", "budget"]


def test_isolation_one_failing_handler_stops_nobody_and_is_counted(router: Router) -> None:
    failing = router.subscribe(lambda _: 1 // 0)
    neighbour = router.subscribe(lambda _: None)
    router.emit(finished())
    assert (failing.failures, neighbour.delivered) == (1, 1)


async def test_fire_and_continue_nobody_waits_for_an_async_handler(router: Router) -> None:
    started = asyncio.Event()

    @router.on()
    async def hangs(_: Event) -> None:
        started.set()
        await asyncio.Event().wait()

    router.emit(finished())
    assert not started.is_set()
    await asyncio.wait_for(started.wait(), 10)


async def test_bounded_queue_with_an_exact_drop_count(router: Router) -> None:
    hangs = asyncio.Event()
    subscription = router.subscribe(lambda _: hangs.wait(), deliver="task", queue_size=100)
    for _ in range(1000):
        router.emit(finished())
    assert subscription.dropped == 900
    hangs.set()


def test_unsubscribe(router: Router) -> None:
    subscription = router.subscribe(lambda _: None)
    subscription.cancel()
    router.emit(finished())
    assert subscription.delivered == 0


def test_weak_references(router: Router) -> None:
    class Dashboard:
        def update(self, event: Event) -> None: ...

    dashboard = Dashboard()
    alive = weakref.ref(dashboard)
    router.subscribe(dashboard.update, weak=True)
    router.emit(finished())
    del dashboard
    assert alive() is None
    assert router.subscriptions == ()


def test_payload_contracts_are_checked_by_who_wants_them_checked(router: Router) -> None:
    wrong = LlmRequest(model_provider="openai", model="m", messages_count="two")  # type: ignore[arg-type]  # on purpose
    heard = router.subscribe(lambda _: None)
    router.emit(wrong)
    assert heard.delivered == 1
    with pytest.raises(UnreadableEvent, match=r"llm\.request: field `messages_count`"):
        contract.validate(wrong)


def test_persistence_and_replay_for_those_who_come_late(router: Router) -> None:
    log: list[bytes] = []
    router.subscribe(lambda event: log.append(contract.write(event)))
    events = [finished(), TurnComplete(), DomainEvent(name="lead_qualified", data={"score": 87})]
    for event in events:
        router.emit(event)
    late: list[Event] = []
    with Router() as replayed:
        replayed.subscribe(late.append)
        for line in log:
            replayed.emit(contract.read(line))
    assert late == events


def test_latency_monitoring_of_five_milliseconds() -> None:
    times = iter([0, 6_000_000])
    with Router(clock=lambda: next(times, 6_000_000)) as router:
        router.subscribe(lambda _: None)
        router.emit(finished())
        assert router.slow_emits == 1


def test_emit_from_any_thread_and_order_kept(router: Router) -> None:
    heard: dict[int, list[int]] = {n: [] for n in range(4)}
    router.subscribe(lambda event: heard[event.data["thread"]].append(event.data["number"]), "step")

    def agent(thread: int) -> None:
        for number in range(500):
            router.publish("step", {"thread": thread, "number": number})

    agents = [threading.Thread(target=agent, args=(n,)) for n in range(4)]
    for thread in agents:
        thread.start()
    for thread in agents:
        thread.join()
    assert heard == {n: list(range(500)) for n in range(4)}


def test_handler_removed_while_emitting(router: Router) -> None:
    heard: list[str] = []

    def first(_: Event) -> None:
        heard.append("first")
        leaving.cancel()

    leaving = router.subscribe(first)
    router.subscribe(lambda _: heard.append("second"))
    router.subscribe(lambda _: heard.append("third"))
    router.emit(finished())
    assert heard == ["first", "second", "third"]


async def test_an_answer_is_asked_for_apart_from_events(router: Router) -> None:
    @router.answer(float)
    async def within_budget(cost: float) -> bool:
        return cost < 5

    assert (await router.ask(4.9, 10), await router.ask(5.1, 10)) == (True, False)


# The defects


def test_a_wildcard_does_not_break_the_dispatch(router: Router) -> None:
    everything = router.subscribe(lambda _: None)
    router.subscribe(lambda _: None, ToolCall, priority=1)
    router.emit(finished())
    assert (everything.delivered, router.failures) == (1, 0)


@pytest.mark.parametrize("nameless", ["partial", "object"])
def test_a_failing_handler_without_a_name_is_isolated_all_the_same(router: Router, nameless: str) -> None:
    class Observer:
        def __call__(self, _: Event) -> None:
            raise ValueError

    subscription = router.subscribe(Observer() if nameless == "object" else functools.partial(Observer()))
    router.emit(finished())
    assert subscription.failures == 1
    assert subscription.name.endswith("Observer")


def test_a_once_handler_that_emits_does_not_run_twice_nor_raise(router: Router) -> None:
    runs: list[Event] = []

    @router.once(ToolCall)
    def escalate(event: ToolCall) -> None:
        runs.append(event)
        router.emit(event)

    router.emit(finished())
    assert (len(runs), router.failures) == (1, 0)


def test_the_decorator_fits_how_it_is_used(router: Router) -> None:
    @router.on("model_response_received")
    def track_latency(event: DomainEvent) -> None:
        latencies.append(event.data["duration_ms"])

    latencies: list[object] = []
    router.publish("model_response_received", {"duration_ms": 142, "tokens_used": 380})
    assert latencies == [142]


def test_a_handler_that_always_fails_is_logged_once_a_minute(router: Router, caplog: pytest.LogCaptureFixture) -> None:
    router.subscribe(lambda _: 1 // 0)
    for _ in range(1000):
        router.emit(HeartbeatTick())
    assert len(caplog.records) == 1


async def test_emit_async_raises_nothing_of_its_handlers(router: Router) -> None:
    @router.on()
    async def fails(_: Event) -> None:
        raise LookupError

    await router.emit_async(finished())
    assert router.failures == 1
