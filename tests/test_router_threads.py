"""Four threads and arbitrary histories: every event arrives once, in order, and every count is exact."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from otel_agentbus.events import DomainEvent, Event, HeartbeatTick, ToolCallStart, TurnComplete, name_of
from otel_agentbus.router import Router, Subscription

THREADS = 4


@pytest.fixture
def router() -> Iterator[Router]:
    with Router() as router:
        yield router


def in_threads(*work: Callable[[int], None]) -> None:
    """Run each in a thread of its own, all at the same time."""
    together = threading.Barrier(len(work))
    errors: list[BaseException] = []

    def run(do: Callable[[int], None], number: int) -> None:
        together.wait()
        try:
            do(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(do, number)) for number, do in enumerate(work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_four_threads_emit_and_every_handler_hears_everything_in_each_threads_order(router: Router) -> None:
    heard: list[tuple[int, int]] = []

    def keep(event: ToolCallStart) -> None:
        thread, _, number = event.tool.partition(" ")
        heard.append((int(thread), int(number)))

    plain = router.subscribe(keep)
    others = [
        router.subscribe(lambda _: None),
        router.subscribe(lambda _: None, where=lambda _: True),
        router.subscribe(lambda _: None, deliver="thread", queue_size=100_000),
        router.subscribe(lambda _: 1 // 0),
    ]

    def emit(thread: int) -> None:
        for number in range(3000):
            router.emit(ToolCallStart(tool=f"{thread} {number}"))

    in_threads(*[emit] * THREADS)
    assert router.drain(30)
    expected = THREADS * 3000
    assert plain.delivered == len(heard) == expected
    assert [(s.delivered, s.dropped, s.failures) for s in others] == [*[(expected, 0, 0)] * 3, (0, 0, expected)]
    for thread in range(THREADS):
        assert [number for t, number in heard if t == thread] == list(range(3000))


def test_counts_are_exact_while_others_come_and_go(router: Router) -> None:
    calls = Counter[int]()
    steady = [router.subscribe(lambda _, n=n: calls.update([n])) for n in range(3)]  # type: ignore[misc]  # binds n
    going = threading.Event()

    def emit(_: int) -> None:
        for _ in range(3000):
            router.emit(HeartbeatTick())

    def come_and_go(_: int) -> None:
        while not going.is_set():
            with router.subscribe(lambda _: None, priority=-1):
                pass

    def emit_then_stop(number: int) -> None:
        try:
            emit(number)
        finally:
            going.set()

    in_threads(emit, emit, emit_then_stop, come_and_go)
    assert calls == Counter({0: 9000, 1: 9000, 2: 9000})
    assert [subscription.delivered for subscription in steady] == [9000] * 3


def test_a_cancelled_handler_is_never_called_again_by_the_thread_that_cancelled_it(router: Router) -> None:
    late: list[str] = []

    def work(_: int) -> None:
        for _ in range(300):
            ended = threading.Event()
            me = threading.get_ident()

            def handler(_: Event, ended: threading.Event = ended, me: int = me) -> None:
                if ended.is_set() and threading.get_ident() == me:
                    late.append("called")

            subscription = router.subscribe(handler)
            router.emit(HeartbeatTick())
            subscription.cancel()
            ended.set()
            router.emit(HeartbeatTick())

    in_threads(*[work] * THREADS)
    assert late == []


def test_weak_owners_die_in_every_thread_without_a_deadlock(router: Router) -> None:
    class Owner:
        def __init__(self) -> None:
            self.circle = self

        def listen(self, event: Event) -> None: ...

    def work(number: int) -> None:
        for _ in range(30):
            router.subscribe(Owner().listen, weak=True)
            router.emit(HeartbeatTick())
            if not number:
                gc.collect()

    in_threads(*[work] * THREADS)
    gc.collect()
    assert router.subscriptions == ()


KINDS = st.sampled_from([HeartbeatTick, TurnComplete, ToolCallStart])
EVENTS: dict[type[Event], Event] = {
    HeartbeatTick: HeartbeatTick(),
    TurnComplete: TurnComplete(),
    ToolCallStart: ToolCallStart(tool="t"),
}


class Model:
    """What a subscription should have heard, by the plainest means."""

    def __init__(self, wants: Callable[[Event], bool], priority: int, number: int, once: bool, fails: bool) -> None:
        self.wants = wants
        self.place = (priority, number)
        self.once = once
        self.fails = fails
        self.ended = False
        self.calls = 0

    def hear(self, event: Event) -> bool:
        if self.ended or not self.wants(event):
            return False
        self.ended = self.once
        self.calls += 1
        return True


class Histories(RuleBasedStateMachine):
    """Any history of subscribing, cancelling and emitting gives the calls, the order and the counts of the model."""

    subscriptions = Bundle("subscriptions")

    def __init__(self) -> None:
        super().__init__()
        self.router = Router()
        self.models: dict[Subscription, Model] = {}
        self.order: list[tuple[int, int]] = []

    @rule(
        target=subscriptions,
        what=st.one_of(KINDS, st.sampled_from(["*", "t*", "lead_*", "heartbeat.tick"])),
        priority=st.integers(-1, 1),
        once=st.booleans(),
        fails=st.booleans(),
        folded=st.booleans(),
    )
    def subscribe(self, what: type[Event] | str, priority: int, once: bool, fails: bool, folded: bool) -> Subscription:
        wants: dict[type[Event] | str, Callable[[Event], bool]] = {
            "*": lambda _: True,
            "t*": lambda event: name_of(event).startswith("t"),
            "lead_*": lambda event: name_of(event).startswith("lead_"),
            "heartbeat.tick": lambda event: isinstance(event, HeartbeatTick),
        }
        wanted = wants[what] if isinstance(what, str) else lambda event: isinstance(event, what)
        model = Model(wanted, priority, len(self.models), once, fails)

        def handler(_: Event) -> None:
            self.order.append(model.place)
            if fails:
                raise ValueError

        where = (lambda _: True) if folded else None
        subscription = self.router.subscribe(handler, what, priority=priority, once=once, where=where)
        self.models[subscription] = model
        return subscription

    @rule(subscription=consumes(subscriptions))
    def cancel(self, subscription: Subscription) -> None:
        subscription.cancel()
        self.models[subscription].ended = True

    @rule(kind=KINDS)
    def emit(self, kind: type[Event]) -> None:
        self._emit(EVENTS[kind])

    @rule(name=st.sampled_from(["lead_won", "deal_lost", "tick"]))
    def publish(self, name: str) -> None:
        self._emit(DomainEvent(name=name))

    def _emit(self, event: Event) -> None:
        expected = [model.place for model in sorted(self.models.values(), key=lambda m: m.place) if model.hear(event)]
        self.order.clear()
        self.router.emit(event)
        assert self.order == expected

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        for subscription, model in self.models.items():
            assert subscription.ended == model.ended
            expected = (0, model.calls) if model.fails else (model.calls, 0)
            assert (subscription.delivered, subscription.failures) == expected
        assert self.router.failures == sum(model.calls for model in self.models.values() if model.fails)


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestHistories = Histories.TestCase
