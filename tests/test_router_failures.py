"""What a failing or slow handler costs its neighbours and the agent: nothing but a count and a line a minute."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterator

import pytest

from otel_agentbus.events import Error, Event, HeartbeatTick, ToolCall, TurnComplete
from otel_agentbus.router import Router, Subscription

SECOND = 10**9


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def router(clock: Clock) -> Iterator[Router]:
    with Router(clock=clock) as router:
        yield router


class Fails:
    """A callable object, which has no `__name__`."""

    def __call__(self, event: Event, text: str = "boom") -> None:
        raise ValueError(text)


@pytest.mark.parametrize("times", [1, 3], ids=["the first emit", "later ones"])
@pytest.mark.parametrize(
    "handler", [Fails(), functools.partial(Fails(), text="bang"), lambda _: 1 // 0], ids=["object", "partial", "lambda"]
)
def test_a_failing_handler_reaches_neither_its_neighbours_nor_the_agent(
    router: Router, handler: Fails, times: int
) -> None:
    before, after = router.subscribe(lambda _: None), router.subscribe(lambda _: None, priority=1)
    failing = router.subscribe(handler)
    for _ in range(times):
        router.emit(HeartbeatTick())
    assert [(s.delivered, s.failures) for s in (before, failing, after)] == [(times, 0), (0, times), (times, 0)]
    assert router.failures == times


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("warm", [False, True], ids=["the first emit", "a later one"])
def test_what_is_no_exception_passes_and_the_counts_stay_true(
    router: Router, stop: type[BaseException], warm: bool
) -> None:
    armed = not warm

    def stops(_: Event) -> None:
        if armed:
            raise stop

    first = router.subscribe(lambda _: None)
    stopping = router.subscribe(stops)
    last = router.subscribe(lambda _: None)
    if warm:
        router.emit(HeartbeatTick())
    armed = True
    with pytest.raises(stop):
        router.emit(HeartbeatTick())
    assert [s.delivered for s in (first, stopping, last)] == [1 + warm, int(warm), int(warm)]
    assert router.failures == 0


def test_a_failing_where_is_a_failure_of_the_handler(router: Router) -> None:
    subscription = router.subscribe(lambda _: None, where=lambda event: event.missing)
    router.emit(HeartbeatTick())
    assert (subscription.delivered, subscription.failures) == (0, 1)


def test_a_failure_is_logged_with_its_traceback_once_a_minute_each(
    router: Router, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    router.subscribe(Fails())
    router.subscribe(functools.partial(Fails(), text="bang"), TurnComplete)
    with caplog.at_level(logging.ERROR, "otel_agentbus.router"):
        for second in (0, 1, 59, 61, 62, 200):
            clock.now_ns = second * SECOND
            router.emit(HeartbeatTick())
        router.emit(TurnComplete())
    name = "tests.test_router_failures.Fails"
    assert [record.getMessage() for record in caplog.records] == [
        f"{name} failed on HeartbeatTick",
        f"{name} failed on HeartbeatTick (2 failures since the last line)",
        f"{name} failed on HeartbeatTick (1 failures since the last line)",
        f"{name} failed on TurnComplete",
    ]
    assert "raise ValueError(text)" in caplog.text
    assert "ValueError: bang" in caplog.text


def test_on_error_hears_every_failure(clock: Clock) -> None:
    heard: list[tuple[Subscription, Event, str]] = []
    router = Router(lambda subscription, event, error: heard.append((subscription, event, str(error))), clock=clock)
    inline, threaded = router.subscribe(Fails()), router.subscribe(Fails(), deliver="thread")
    event = HeartbeatTick()
    router.emit(event)
    assert router.drain(10)
    router.emit(event)
    assert router.drain(10)
    assert sorted(heard, key=lambda each: each[0] is threaded) == [
        (inline, event, "boom"),
        (inline, event, "boom"),
        (threaded, event, "boom"),
        (threaded, event, "boom"),
    ]
    router.close()


def test_a_failing_on_error_is_isolated_too(clock: Clock) -> None:
    def fails_as_well(*_: object) -> None:
        raise LookupError

    router = Router(fails_as_well, clock=clock)
    subscription = router.subscribe(Fails())
    router.emit(HeartbeatTick())
    router.emit(HeartbeatTick())
    assert (subscription.failures, router.failures) == (2, 4)


def test_an_on_error_that_emits_does_not_go_round_in_circles(clock: Clock) -> None:
    def emits(*_: object) -> None:
        observed.emit(Error(component="handler", message="failed"))

    observed = Router(emits, clock=clock)
    subscription = observed.subscribe(Fails())
    observed.emit(HeartbeatTick())
    assert subscription.failures == 2


def test_a_log_that_emits_or_fails_does_not_reach_the_agent(router: Router) -> None:
    class Breaks(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            router.emit(HeartbeatTick())
            raise RuntimeError(record.getMessage())

    broken = Breaks()
    logger = logging.getLogger("otel_agentbus.router")
    logger.addFilter(broken)
    try:
        subscription = router.subscribe(Fails())
        router.emit(HeartbeatTick())
    finally:
        logger.removeFilter(broken)
    assert subscription.failures == 2


def test_a_slow_emit_is_counted_and_its_handler_named(
    router: Router, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def takes(milliseconds: int) -> None:
        clock.now_ns += milliseconds * 10**6

    def slow(event: ToolCall) -> None:
        takes(round(event.duration))

    router.subscribe(lambda _: takes(1))
    router.subscribe(slow, ToolCall)
    with caplog.at_level(logging.WARNING, "otel_agentbus.router"):
        for milliseconds in (30, 20, 4):
            router.emit(ToolCall(tool="t", duration=milliseconds, success=True))
            router.emit(HeartbeatTick())
    assert router.slow_emits == 2
    (record,) = caplog.records
    name = "tests.test_router_failures.test_a_slow_emit_is_counted_and_its_handler_named.<locals>.slow"
    advice = 'deliver="thread" keeps it off the agent\'s path'
    assert record.getMessage() == f"emit of ToolCall took 31.0 ms, most of it in {name}: {advice}"


def test_a_handler_that_becomes_slow_is_found_by_sampling_and_then_watched(router: Router, clock: Clock) -> None:
    took_ms = 0

    def handler(_: Event) -> None:
        clock.now_ns += took_ms * 10**6

    subscription = router.subscribe(handler)
    for _ in range(100):
        router.emit(HeartbeatTick())
    took_ms = 6
    emitted = 100
    while not router.slow_emits:
        router.emit(HeartbeatTick())
        emitted += 1
        assert emitted < 20_000
    for _ in range(10):
        router.emit(HeartbeatTick())
    assert router.slow_emits == 11
    took_ms = 0
    router.emit(HeartbeatTick())
    took_ms = 6
    router.emit(HeartbeatTick())
    assert router.slow_emits == 11
    assert subscription.delivered == emitted + 12


def test_what_a_thread_takes_makes_no_emit_slow(router: Router, clock: Clock) -> None:
    def slow(_: Event) -> None:
        clock.now_ns += SECOND

    subscription = router.subscribe(slow, deliver="thread")
    router.emit(HeartbeatTick())
    assert router.drain(10)
    assert subscription.delivered == 1
