"""The background: slices, the ring's bound, drains from other threads, and idleness that costs nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_agentbus.events import DomainEvent, Event
from otel_agentbus.telemetry.pump import Pump
from otel_agentbus.testing import wait_until

LONG = 30.0


def numbered(number: int) -> DomainEvent:
    return DomainEvent(name=str(number), seq=number)


def soon() -> float:
    return time.monotonic() + LONG


@contextmanager
def running(
    *sinks: Callable[[Event], None], size: int = 1_000_000, idle: Callable[[], None] = lambda: None
) -> Iterator[Pump]:
    pump = Pump(size, sinks, idle)
    pump.start()
    try:
        yield pump
    finally:
        pump.stop()


def test_events_go_to_every_sink_in_order() -> None:
    one: list[Event] = []
    other: list[Event] = []
    events = [numbered(number) for number in range(1000)]
    with running(one.append, other.append) as pump:
        for event in events:
            pump.keep(event)
        assert pump.drain(soon())
    assert one == other == events


def test_without_any_drain_the_thread_hands_over_by_itself() -> None:
    seen: list[Event] = []
    with running(seen.append) as pump:
        pump.keep(numbered(1))
        assert wait_until(lambda: len(seen) == 1, LONG)


def test_a_failing_sink_costs_the_others_nothing() -> None:
    seen: list[Event] = []

    def failing(event: Event) -> None:
        raise RuntimeError(event)

    with running(failing, seen.append) as pump:
        pump.keep(numbered(1))
        pump.keep(numbered(2))
        assert pump.drain(soon())
    assert [event.seq for event in seen] == [1, 2]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_sink_that_ends_the_program_ends_not_even_the_thread(error: type[BaseException]) -> None:
    seen: list[int | None] = []

    def ending(event: Event) -> None:
        seen.append(event.seq)
        if event.seq == 1:
            raise error

    with running(ending) as pump:
        pump.keep(numbered(1))
        assert wait_until(lambda: seen == [1], LONG)
        pump.keep(numbered(2))
        assert pump.drain(soon())
    assert seen == [1, 2]


def test_a_drain_that_a_sink_ends_is_not_waited_for() -> None:
    def ending(event: Event) -> None:
        raise SystemExit

    with running(ending) as pump:
        pump.keep(numbered(1))
        assert pump.drain(soon())


def test_over_the_bound_the_oldest_are_dropped_and_counted() -> None:
    seen: list[int | None] = []
    pump = Pump(100, (lambda event: seen.append(event.seq),), lambda: None)
    for number in range(250):
        pump.keep(numbered(number))
    assert pump.drain(soon())  # there is no thread yet: it is done here
    assert seen == list(range(150, 250))
    assert pump.dropped == 150


def test_what_eight_threads_keep_is_handed_over_or_counted_as_dropped() -> None:
    seen: list[Event] = []
    with running(seen.append, size=50) as pump:
        barrier = threading.Barrier(8)

        def keep_many() -> None:
            barrier.wait()
            for number in range(2000):
                pump.keep(numbered(number))

        threads = [threading.Thread(target=keep_many) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pump.drain(soon())
    assert len(seen) + pump.dropped == 16_000


def test_the_thread_works_in_slices_and_yields_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]
    pauses: list[int] = []
    seen: list[int] = []

    def slow(event: Event) -> None:
        now[0] += 100_000
        seen.append(1)

    def sleep(seconds: float) -> None:
        pauses.append(len(seen))

    monkeypatch.setattr("otel_agentbus.telemetry.pump.time.perf_counter_ns", lambda: now[0])
    pump = Pump(1000, (slow,), lambda: None)
    for number in range(10):
        pump.keep(numbered(number))
    monkeypatch.setattr("otel_agentbus.telemetry.pump.time.sleep", sleep)
    while pump.ring:
        pump._turn()
    assert pauses == [3, 6, 9]  # three events of 0.1 ms make a slice of 0.25 ms


def test_many_callers_may_drain_while_the_thread_works() -> None:
    seen: list[Event] = []
    done: list[bool] = []
    with running(seen.append) as pump:

        def keep_and_drain() -> None:
            for number in range(50):
                for _ in range(20):
                    pump.keep(numbered(number))
                done.append(pump.drain(soon()))

        threads = [threading.Thread(target=keep_and_drain) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 4 * 50 * 20
    assert done == [True] * 200


def test_a_drain_ends_though_others_go_on_emitting() -> None:
    over = threading.Event()
    with running(lambda event: None) as pump:

        def keep_on() -> None:
            while not over.is_set():
                pump.keep(numbered(1))

        threads = [threading.Thread(target=keep_on, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            assert [pump.drain(soon()) for _ in range(3)] == [True] * 3
        finally:
            over.set()
            for thread in threads:
                thread.join()


def test_what_is_to_be_done_after_a_drain_is_done_when_all_was_handed_over() -> None:
    seen: list[object] = []
    with running(lambda event: seen.append(event.seq)) as pump:
        pump.keep(numbered(1))
        pump.keep(numbered(2))
        assert pump.drain(soon(), lambda: seen.append("then"))

        def failing() -> None:
            raise RuntimeError("then")

        assert pump.drain(soon(), failing)
    assert seen == [1, 2, "then"]


def test_a_sink_that_hangs_is_waited_for_no_longer_than_told() -> None:
    let_go = threading.Event()
    seen: list[Event] = []

    def hanging(event: Event) -> None:
        let_go.wait(LONG)
        seen.append(event)

    with running(hanging) as pump:
        pump.keep(numbered(1))
        assert not pump.drain(time.monotonic() + 0.05)
        let_go.set()
        assert pump.drain(soon())
    assert len(seen) == 1


def test_a_sink_that_drains_is_told_at_once_that_it_cannot() -> None:
    found: list[bool] = []
    with running(lambda event: found.append(pump.drain(soon()))) as pump:
        pump.keep(numbered(1))
        assert pump.drain(soon())
    assert found == [False]


def test_the_bridges_are_told_that_time_passes_only_when_the_ring_is_empty() -> None:
    idle = threading.Event()
    waiting: list[int] = []

    def passing() -> None:
        waiting.append(len(pump.ring))
        idle.set()

    with running(lambda event: None, idle=passing) as pump:
        assert idle.wait(LONG)
    assert waiting[0] == 0


def test_a_failing_idle_does_not_end_the_thread() -> None:
    calls: list[int] = []

    def failing() -> None:
        calls.append(1)
        raise RuntimeError("idle")

    with running(lambda event: None, idle=failing) as pump:
        assert wait_until(lambda: len(calls) >= 2, LONG)
        assert pump.drain(soon())


@pytest.mark.skipif(sys.platform != "linux", reason="the processor time of one thread is read from /proc")
def test_an_idle_thread_is_no_busy_one() -> None:
    calls: list[int] = []
    with running(lambda event: None, idle=lambda: calls.append(1)) as pump:
        thread = pump._thread
        assert thread is not None
        stat = Path(f"/proc/self/task/{thread.native_id}/stat")

        def ticks() -> int:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])

        before = ticks()
        assert wait_until(lambda: len(calls) >= 10, LONG)  # half a second
        assert ticks() - before <= 10  # of at least 50


def test_a_stopped_pump_hands_over_in_the_thread_of_whoever_drains_it() -> None:
    seen: list[str] = []
    pump = Pump(10, (lambda event: seen.append(threading.current_thread().name),), lambda: None)
    pump.start()
    thread = pump._thread
    assert thread is not None
    pump.stop()
    thread.join(LONG)
    pump.keep(numbered(1))
    assert pump.drain(soon())
    assert seen == [threading.current_thread().name]
    pump.start()
    assert pump._thread is thread  # what is stopped stays so


def test_starting_twice_is_starting_once() -> None:
    with running(lambda event: None) as pump:
        thread = pump._thread
        pump.start()
        assert pump._thread is thread
        assert thread is not None
        assert thread.daemon
