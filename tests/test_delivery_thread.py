"""Delivery in a thread of the handler's own: it may be slow, block and hang, and the agent does not notice."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from otel_agentbus.delivery import queued
from otel_agentbus.events import DomainEvent, Event, HeartbeatTick
from otel_agentbus.router import Router


@pytest.fixture
def router() -> Iterator[Router]:
    with Router() as router:
        yield router


def tick(number: int) -> DomainEvent:
    """An event that can be told from others."""
    return DomainEvent(name=f"tick {number}")


class Gate:
    """A handler that says when it has been reached, and waits until it is let go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self.heard: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.heard.append(event)
        self.thread = threading.current_thread()
        self.reached.set()
        assert self.open.wait(30)


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if name in thread.name]


def test_the_handler_runs_in_one_thread_of_its_own_in_order(router: Router) -> None:
    ran_in: set[str] = set()
    heard: list[Event] = []

    def handler(event: Event) -> None:
        ran_in.add(threading.current_thread().name)
        heard.append(event)

    subscription = router.subscribe(handler, deliver="thread")
    events = [tick(number) for number in range(100)]
    for event in events:
        router.emit(event)
    assert router.drain(10)
    assert heard == events
    assert ran_in == {f"agentbus {subscription.name}"}
    assert (subscription.delivered, subscription.dropped) == (100, 0)


def test_no_thread_is_started_before_the_first_event_and_it_ends_with_the_subscription(router: Router) -> None:
    subscription = router.subscribe(lambda _: None, deliver="thread")
    assert threads_of(subscription.name) == []
    router.emit(HeartbeatTick())
    (thread,) = threads_of(subscription.name)
    assert thread.daemon
    subscription.cancel()
    thread.join(10)
    assert not thread.is_alive()


def test_a_once_handlers_thread_ends_after_its_event(router: Router) -> None:
    gate = Gate()
    subscription = router.subscribe(gate, deliver="thread", once=True)
    router.emit(HeartbeatTick())
    assert gate.reached.wait(10)
    assert not router.drain(0.01)
    gate.open.set()
    gate.thread.join(10)
    assert not gate.thread.is_alive()
    assert router.drain(0)
    assert subscription.delivered == 1


def test_an_idle_thread_ends_and_the_next_event_starts_a_new_one(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued, "IDLE_SECONDS", 0.001)
    ran_in: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
    subscription = router.subscribe(lambda _: ran_in.put(threading.current_thread()), deliver="thread")
    for _ in range(20):
        router.emit(HeartbeatTick())
        thread = ran_in.get(timeout=10)
        thread.join(10)
        assert not thread.is_alive()
    assert subscription.delivered == 20


def test_a_thread_that_is_about_to_end_loses_no_event(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued, "IDLE_SECONDS", 0)
    heard: list[Event] = []
    subscription = router.subscribe(heard.append, deliver="thread", queue_size=10_000)
    events = [tick(number) for number in range(5000)]
    for event in events:
        router.emit(event)
    assert router.drain(30)
    assert heard == events
    assert (subscription.delivered, subscription.dropped) == (5000, 0)


@pytest.mark.parametrize(
    ("when_full", "kept"), [("drop_oldest", [0, *range(90, 100)]), ("drop_newest", [0, *range(1, 11)])]
)
def test_a_full_queue_drops_by_the_policy_and_counts_exactly(router: Router, when_full: str, kept: list[int]) -> None:
    gate = Gate()
    subscription = router.subscribe(gate, deliver="thread", queue_size=10, when_full=when_full)  # type: ignore[arg-type]  # a str
    router.emit(tick(0))
    assert gate.reached.wait(10)
    for number in range(1, 100):
        router.emit(tick(number))
    assert subscription.dropped == 89
    gate.open.set()
    assert router.drain(10)
    assert gate.heard == [tick(number) for number in kept]
    assert (subscription.delivered, subscription.dropped) == (11, 89)


def test_drops_are_exact_though_four_threads_emit(router: Router) -> None:
    subscriptions = [
        router.subscribe(lambda _: None, deliver="thread", queue_size=2, when_full=when_full)
        for when_full in ("drop_oldest", "drop_newest")
    ]

    def emit() -> None:
        for number in range(2000):
            router.emit(tick(number))

    threads = [threading.Thread(target=emit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert router.drain(30)
    assert [subscription.delivered + subscription.dropped for subscription in subscriptions] == [8000, 8000]


def test_a_hanging_handler_never_reaches_the_agent_nor_its_neighbours(router: Router) -> None:
    gate = Gate()
    hanging = router.subscribe(gate, deliver="thread", queue_size=3)
    neighbour, other_thread = router.subscribe(lambda _: None), router.subscribe(lambda _: None, deliver="thread")
    for number in range(10):
        router.emit(tick(number))
    assert gate.reached.wait(10)
    assert not router.drain(0.01)
    assert neighbour.delivered == 10
    assert hanging.delivered == 0
    router.close()
    assert hanging.dropped == 9
    assert other_thread.delivered + other_thread.dropped == 10
    gate.open.set()


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_failing_handler_is_counted_and_its_thread_goes_on(router: Router, error: type[BaseException]) -> None:
    def fails(event: Event) -> None:
        if event == tick(0):
            raise error

    subscription = router.subscribe(fails, deliver="thread")
    for number in range(3):
        router.emit(tick(number))
    assert router.drain(10)
    assert (subscription.delivered, subscription.failures, subscription.dropped) == (2, 1, 0)


def test_what_waits_when_a_subscription_is_cancelled_is_dropped_and_counted(router: Router) -> None:
    gate = Gate()
    subscription = router.subscribe(gate, deliver="thread")
    for number in range(5):
        router.emit(tick(number))
    assert gate.reached.wait(10)
    subscription.cancel()
    gate.open.set()
    gate.thread.join(10)
    assert (gate.heard, subscription.delivered, subscription.dropped) == ([tick(0)], 1, 4)


def test_a_handler_may_emit_drain_and_cancel_itself_in_its_thread(router: Router) -> None:
    heard: list[Event] = []
    drained: list[bool] = []

    def handler(event: Event) -> None:
        heard.append(event)
        if event == tick(0):
            router.emit(tick(1))
        else:
            drained.append(router.drain(10))
            subscription.cancel()

    subscription = router.subscribe(handler, deliver="thread")
    router.emit(tick(0))
    assert router.drain(10)
    router.emit(tick(2))
    assert (heard, drained) == ([tick(0), tick(1)], [True])


def test_where_no_thread_can_be_started_events_are_dropped_and_the_next_one_tries_again(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_threads_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    heard: list[Event] = []
    subscription = router.subscribe(heard.append, deliver="thread")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_threads_left)
        router.emit(tick(0))
    assert router.drain(0)
    router.emit(tick(1))
    assert router.drain(10)
    assert (heard, subscription.dropped, subscription.failures) == ([tick(1)], 1, 0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # 3.12 warns of what is tested here
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_starts_a_thread_of_its_own_and_leaves_the_queue_to_its_parent(router: Router) -> None:
    gate = Gate()
    heard: list[Event] = []
    blocked = router.subscribe(gate, deliver="thread")
    free = router.subscribe(heard.append, deliver="thread")
    for number in range(3):
        router.emit(tick(number))
    assert gate.reached.wait(10)
    assert not router.drain(0)
    while free.delivered < 3:
        free.delivery.drained(1)  # type: ignore[union-attr]  # it is delivered in a thread
    reading, writing = os.pipe()
    with router._lock:  # the child must not inherit a lock that somebody holds
        child = os.fork()
    if child == 0:
        status = 1
        try:
            gate.open.set()
            gate.heard.clear()
            router.emit(tick(7))
            drained = router.drain(10)
            os.write(writing, repr((drained, gate.heard, blocked.dropped, heard[3:])).encode())
            status = 0
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        told = said.read().decode()
    assert os.waitpid(child, 0)[1] == 0, told
    assert told == repr((True, [tick(7)], 0, [tick(7)]))
    gate.open.set()
    assert router.drain(10)
    assert [len(gate.heard), blocked.delivered, blocked.dropped] == [3, 3, 0]
    assert heard == [tick(0), tick(1), tick(2)]


def test_a_process_with_a_hanging_handler_ends() -> None:
    program = """
import threading
from otel_agentbus.events import HeartbeatTick
from otel_agentbus.router import Router
reached = threading.Event()
router = Router()
router.subscribe(lambda _: (reached.set(), threading.Event().wait()), deliver="thread")
router.emit(HeartbeatTick())
assert reached.wait(10)
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
