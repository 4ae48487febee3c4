"""Who hears what: classes, names and globs; order; the end of subscriptions; what is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Union

import pytest

from otel_agentbus.events import (
    KINDS,
    DeploymentFailed,
    DeploymentStarted,
    DomainEvent,
    Error,
    Event,
    HeartbeatTick,
    LlmRequest,
    RecoveryCompleted,
    ToolCall,
    ToolCallStart,
    TurnComplete,
    UnknownEvent,
)
from otel_agentbus.router import Router


@pytest.fixture
def router() -> Iterator[Router]:
    with Router() as router:
        yield router


@dataclass(slots=True, kw_only=True)
class Remembered(ToolCallStart):
    """A kind of an application's own, beneath one of ours."""


@dataclass(slots=True, kw_only=True)
class MemoryRecall(Event):
    """A kind of an application's own."""

    kind: ClassVar[str] = "memory.recall"


EVERY_KIND: list[Event] = [
    LlmRequest(model_provider="p", model="m", messages_count=1),
    ToolCallStart(tool="search"),
    ToolCall(tool="search", duration=0.1, success=True),
    TurnComplete(),
    HeartbeatTick(),
    Error(component="c", message="m"),
    DeploymentStarted(deploy_id="d"),
    DeploymentFailed(deploy_id="d", reason="r"),
    RecoveryCompleted(deploy_id="d"),
    DomainEvent(name="lead_qualified"),
    DomainEvent(name="deployment.paused"),
    UnknownEvent(name="deployment.later"),
    Remembered(tool="recall"),
    MemoryRecall(),
]


@pytest.mark.parametrize(
    ("what", "heard"),
    [
        ((), EVERY_KIND),
        ((Event,), EVERY_KIND),
        (("*",), EVERY_KIND),
        ((ToolCallStart,), [EVERY_KIND[1], EVERY_KIND[12]]),
        ((Remembered,), [EVERY_KIND[12]]),
        ((ToolCall | LlmRequest,), [EVERY_KIND[0], EVERY_KIND[2]]),
        ((Union[ToolCall, LlmRequest],), [EVERY_KIND[0], EVERY_KIND[2]]),  # noqa: UP007 - both spellings are taken
        ((ToolCall, "turn.complete"), [EVERY_KIND[2], EVERY_KIND[3]]),
        (("tool.*",), [EVERY_KIND[1], EVERY_KIND[2], EVERY_KIND[12]]),
        (("deployment.*",), [EVERY_KIND[6], EVERY_KIND[7], EVERY_KIND[10], EVERY_KIND[11]]),
        (("lead_*",), [EVERY_KIND[9]]),
        (("lead_qualified",), [EVERY_KIND[9]]),
        (("LEAD_*",), []),
        (("memory.recall",), [EVERY_KIND[13]]),
        (("[dt]*.start*",), [EVERY_KIND[1], EVERY_KIND[6], EVERY_KIND[12]]),
        ((DomainEvent,), [EVERY_KIND[9], EVERY_KIND[10]]),
        ((UnknownEvent,), [EVERY_KIND[11]]),
        ((DomainEvent, "lead_*"), [EVERY_KIND[9], EVERY_KIND[10]]),
    ],
)
def test_a_subscription_hears_its_classes_their_subclasses_and_its_names(
    router: Router, what: tuple[Any, ...], heard: list[Event]
) -> None:
    events: list[Event] = []
    subscription = router.subscribe(events.append, *what)
    for event in EVERY_KIND:
        router.emit(event)
    assert events == heard
    assert subscription.delivered == len(heard)


def test_every_kind_of_the_sixteen_is_heard_by_its_tag(router: Router) -> None:
    for kind, cls in KINDS.items():
        with router.subscribe(lambda _: None, kind) as by_tag, router.subscribe(lambda _: None, cls) as by_class:
            router.emit(object.__new__(cls))
            assert (by_tag.delivered, by_class.delivered) == (1, 1), kind


def test_the_names_of_a_million_domain_events_are_not_all_remembered(router: Router) -> None:
    events: list[Event] = []
    router.subscribe(events.append, "lead_*", "deal_1")
    for number in range(3000):
        router.publish(f"deal_{number}")
        router.publish(f"lead_{number}", {"number": number})
    router.publish("lead_0")
    assert len(events) == 3002
    assert events[:3] == [
        DomainEvent(name="lead_0", data={"number": 0}),
        DomainEvent(name="deal_1"),
        DomainEvent(name="lead_1", data={"number": 1}),
    ]


def test_classes_made_without_end_do_not_fill_the_table(router: Router) -> None:
    subscription = router.subscribe(lambda _: None)
    for number in range(3000):
        router.emit(type(f"Kind{number}", (HeartbeatTick,), {"__slots__": ()})())
    assert subscription.delivered == 3000
    assert len(router._table) <= 1024


def test_what_is_no_event_is_heard_by_nobody(router: Router) -> None:
    subscription = router.subscribe(lambda _: None)
    for value in (None, "tool.end", 3, object(), HeartbeatTick):
        router.emit(value)  # type: ignore[arg-type]  # an agent's mistake must not come back to it
    assert (subscription.delivered, router.failures) == (0, 0)


def test_lower_priority_runs_first_and_equal_ones_in_order_of_subscription(router: Router) -> None:
    order: list[str] = []
    for name, priority in [("c", 0), ("e", 5), ("a", -2), ("d", 0), ("b", -1)]:
        router.subscribe(lambda _, name=name: order.append(name), priority=priority)  # type: ignore[misc]  # binds
    router.emit(HeartbeatTick())
    assert order == ["a", "b", "c", "d", "e"]


def test_decorators_return_the_function_unchanged(router: Router) -> None:
    heard: list[tuple[str, Event]] = []

    def plain(event: Event) -> None:
        heard.append(("on", event))

    assert router.on(ToolCallStart)(plain) is plain
    once = functools.partial(lambda name, event: heard.append((name, event)), "once")
    assert router.once("tool.*", priority=1)(once) is once

    class Owner:
        def listen(self, event: Event) -> None:
            heard.append(("method", event))

    method = Owner().listen
    assert router.on(priority=2)(method) is method
    events = [ToolCallStart(tool="a"), ToolCallStart(tool="b")]
    for event in events:
        router.emit(event)
    assert heard == [
        ("on", events[0]),
        ("once", events[0]),
        ("method", events[0]),
        ("on", events[1]),
        ("method", events[1]),
    ]


def test_a_builtin_method_hears_events_at_the_speed_of_c(router: Router) -> None:
    ring: list[Event] = []
    subscription = router.subscribe(ring.append)
    router.emit(HeartbeatTick())
    assert (ring, subscription.delivered) == ([HeartbeatTick()], 1)


def test_cancel_ends_a_subscription_and_may_be_repeated(router: Router) -> None:
    events: list[Event] = []
    with router.subscribe(events.append) as subscription:
        router.emit(HeartbeatTick())
    router.emit(HeartbeatTick())
    subscription.cancel()
    assert (len(events), subscription.delivered, subscription.ended) == (1, 1, True)
    assert router.subscriptions == ()


def test_a_handler_may_remove_itself_and_its_neighbour_still_runs(router: Router) -> None:
    calls: list[str] = []

    def leaves(_: Event) -> None:
        calls.append("leaves")
        leaving.cancel()

    leaving = router.subscribe(leaves)
    neighbour = router.subscribe(lambda _: calls.append("neighbour"))
    router.emit(HeartbeatTick())
    router.emit(HeartbeatTick())
    assert calls == ["leaves", "neighbour", "neighbour"]
    assert (leaving.delivered, neighbour.delivered) == (1, 2)


@pytest.mark.parametrize("warm", [False, True], ids=["the first emit", "a later one"])
@pytest.mark.parametrize("options", [{}, {"where": lambda _: True}], ids=["plain", "folded"])
def test_a_handler_that_another_one_removes_is_not_called_in_the_same_emit(
    router: Router, options: dict[str, Any], warm: bool
) -> None:
    calls: list[str] = []
    armed = not warm

    def removes(_: Event) -> None:
        if armed:
            removed.cancel()

    router.subscribe(removes)
    removed = router.subscribe(lambda _: calls.append("removed"), **options)
    last = router.subscribe(lambda _: calls.append("last"))
    router.emit(HeartbeatTick())
    before = list(calls)
    armed = True
    calls.clear()
    router.emit(HeartbeatTick())
    assert (before, calls) == ((["removed", "last"] if warm else ["last"]), ["last"])
    assert (removed.delivered, last.delivered) == (int(warm), 2)


def test_a_removed_handler_is_not_called_by_the_walk_of_an_outer_emit(router: Router) -> None:
    calls: list[str] = []

    def emits_again(event: Event) -> None:
        if isinstance(event, HeartbeatTick):
            router.subscribe(lambda _: None).cancel()  # the routes are thrown away twice before the walk goes on
            router.emit(TurnComplete())
            removed.cancel()

    router.subscribe(emits_again)
    removed = router.subscribe(lambda event: calls.append(event.kind))
    router.emit(HeartbeatTick())
    assert (calls, removed.delivered) == (["turn.complete"], 1)


def test_far_more_handlers_than_one_function_calls_run_in_order_and_can_be_removed(router: Router) -> None:
    order: list[int] = []

    def appender(number: int) -> Callable[[Event], None]:
        return lambda _: order.append(number)

    subscriptions = [router.subscribe(appender(number)) for number in range(100)]

    def removes(_: Event) -> None:
        subscriptions[50].cancel()
        subscriptions[99].cancel()

    router.emit(HeartbeatTick())
    router.subscribe(removes, priority=-1, once=True)
    router.emit(HeartbeatTick())
    router.emit(HeartbeatTick())
    left = [number for number in range(100) if number not in (50, 99)]
    assert order == [*range(100), *left, *left]
    assert [subscription.delivered for subscription in subscriptions] == [1 if n in (50, 99) else 3 for n in range(100)]


def test_a_handler_subscribed_while_an_emit_is_under_way_hears_the_next_one(router: Router) -> None:
    late: list[Event] = []

    def subscribes(_: Event) -> None:
        if not late:
            router.subscribe(late.append)

    router.subscribe(subscribes, once=True)
    router.emit(HeartbeatTick())
    assert late == []
    router.emit(HeartbeatTick())
    assert late == [HeartbeatTick()]


def test_handlers_may_emit(router: Router) -> None:
    order: list[str] = []

    def emits(event: Event) -> None:
        order.append(f"in {event.kind}")
        if isinstance(event, ToolCallStart):
            router.emit(TurnComplete())
        order.append(f"out {event.kind}")

    router.subscribe(emits)
    router.emit(ToolCallStart(tool="t"))
    assert order == ["in tool.start", "in turn.complete", "out turn.complete", "out tool.start"]


def test_where_decides_event_by_event(router: Router) -> None:
    failed: list[Event] = []
    router.subscribe(failed.append, ToolCall, where=lambda event: not event.success)
    for success in (True, False):
        router.emit(ToolCall(tool="t", duration=1, success=success))
    assert failed == [ToolCall(tool="t", duration=1, success=False)]


def test_the_same_function_subscribed_twice_is_two_subscriptions(router: Router) -> None:
    def fails(event: ToolCallStart) -> None:
        if event.tool == "bad":
            raise ValueError

    first, second = router.subscribe(fails), router.subscribe(fails, ToolCallStart, priority=1)
    router.emit(ToolCallStart(tool="good"))
    router.emit(ToolCallStart(tool="bad"))
    first.cancel()
    router.emit(ToolCallStart(tool="bad"))
    assert (first.delivered, first.failures, second.delivered, second.failures) == (1, 1, 1, 2)


async def coroutine(_: Event) -> None: ...


def generator(_: Event) -> Iterator[None]:
    yield


async def async_generator(_: Event) -> Any:
    yield


@pytest.mark.parametrize(
    ("handler", "what", "options", "sentence"),
    [
        (3, (), {}, "a handler must be callable, and 3 is not"),
        (generator, (), {}, "tests.test_router.generator is a generator function: calling it would run nothing of it"),
        (async_generator, (), {}, "async_generator is a generator function: calling it would run nothing of it"),
        (print, (int,), {}, "cannot subscribe to <class 'int'>: give an event class, a union of them, or a name"),
        (print, (ToolCall | int,), {}, "cannot subscribe to <class 'int'>"),
        (print, (HeartbeatTick(),), {}, "cannot subscribe to HeartbeatTick"),
        (print, ("",), {}, 'cannot subscribe to "": a name is a tag such as "tool.end"'),
        (print, (), {"priority": "high"}, "priority must be an int (lower runs first), not 'high'"),
        (print, (), {"deliver": "process"}, 'deliver must be "inline", "thread" or "task", not \'process\''),
        (coroutine, (), {"deliver": "inline"}, "coroutine is async: deliver it as \"task\", not 'inline'"),
        (coroutine, (), {"deliver": "thread"}, "coroutine is async: deliver it as \"task\", not 'thread'"),
        (print, (), {"queue_size": 0}, "queue_size must be an int of at least 1, not 0"),
        (print, (), {"when_full": "block"}, 'when_full must be "drop_oldest" or "drop_newest", not \'block\''),
        (print, (), {"where": "tool"}, "where must be a plain function of the event, not 'tool'"),
        (print, (), {"where": coroutine}, "where must be a plain function of the event"),
        ([].append, (), {"weak": True}, "builtins.list.append cannot be held weakly: a list takes no weak references"),
    ],
)
def test_a_mistake_is_refused_where_it_is_made_with_one_clear_sentence(
    router: Router, handler: Any, what: tuple[Any, ...], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises((TypeError, ValueError)) as refused:
        router.subscribe(handler, *what, **options)
    assert sentence in str(refused.value)
    assert router.subscriptions == ()


def test_a_subscription_says_what_it_is(router: Router) -> None:
    subscription = router.subscribe(functools.partial(print, end=""), ToolCall | LlmRequest, "lead_*")
    assert repr(subscription) == (
        "<Subscription of builtins.print to ToolCall, LlmRequest, lead_* (inline): 0 delivered, 0 dropped, 0 failed>"
    )
    subscription.cancel()
    assert "(inline, ended)" in repr(subscription)


def test_a_closed_router_calls_nobody(router: Router) -> None:
    events: list[Event] = []
    router.subscribe(events.append)
    router.close()
    router.emit(HeartbeatTick())
    assert (events, router.subscriptions) == ([], ())
