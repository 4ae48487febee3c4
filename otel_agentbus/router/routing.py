"""The router: a table of routes, walked by emit without a lock, and thrown away whole when somebody (un)subscribes."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from typing_extensions import Unpack

from otel_agentbus.delivery import (
    Handler,
    InThread,
    Queued,
    Receipts,
    answer_of,
    is_generator,
    name_of_handler,
)
from otel_agentbus.errors import NoAnswer
from otel_agentbus.events import JSON, DomainEvent, Event

from .failures import Failures, OnError
from .interest import Interest, What
from .route import Cell, Route, Walk, cut_short, silence
from .subscription import Deliver, Options, Subscription, WhenFull

if TYPE_CHECKING:
    from types import TracebackType

H = TypeVar("H", bound=Handler)

#: One emit out of so many of each class is timed; so are the first after a change, and any after a slow one.
LAPS = 5000
#: An emit that takes longer is slow.
SLOW_NS = 5_000_000
#: Routes of so many classes are kept; programs that make classes as they go must not fill the memory.
CLASSES = 1024


class Router:
    """Who hears what, in one process. `emit` never raises and takes no lock.

    An inline handler runs where the event is emitted, before `emit` returns: what it takes, the agent waits. One that
    blocks belongs into `deliver="thread"`; a handler that hangs there, or in a task, never reaches the agent.
    `on_error(subscription, event, exception)` hears every failure of a handler.
    """

    def __init__(
        self,
        on_error: OnError | None = None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._clock = clock
        self._failures = Failures(on_error, clock)
        self._subscriptions: tuple[Subscription, ...] = ()
        self._leaving: tuple[Subscription, ...] = ()
        self._responders: dict[type, Handler] = {}
        self._table: dict[type, Iterator[Walk]] = {}
        self._routes: dict[type, Route] = {}
        self._walked: list[weakref.ref[FunctionType]] = []
        self._buried: deque[Subscription] = deque()
        self._lock = threading.RLock()  # a finaliser or a signal in the middle of our own code may emit or unsubscribe
        _routers.add(self)

    # Emitting

    def emit(self, event: Event) -> None:
        """Hand the event to everyone who wants it."""
        try:
            for walk in self._table[event.__class__]:
                walk(event)
                return
        except KeyError:
            pass  # nobody has emitted this class since somebody (un)subscribed
        self._emit_timed(event)

    async def emit_async(self, event: Event) -> None:
        """Emit, then wait until the async handlers of this event have handled it; failures stay with the handlers.

        A handler that hangs is waited for: give the wait a timeout of your own if that matters.
        """
        with Receipts(event) as receipts:
            self.emit(event)
        await receipts.settled()

    def publish(self, name: str, data: dict[str, JSON] | None = None) -> None:
        """Emit an event of your own domain ("lead_qualified")."""
        self.emit(DomainEvent(name=name, data=data if data is not None else {}))

    def _emit_timed(self, event: Event) -> None:
        """Do what a walk does, and look at the clock after each call."""
        route = self._route_for(event.__class__)
        started = last = self._clock()
        longest, culprit = 0, None
        for position, cell in enumerate(route.cells):
            try:
                (cell.passed_over if cell.subscription.ended else cell.call)(event)
            except Exception as error:  # noqa: BLE001 - isolation: a failing handler must not reach the agent
                self._failed(cell, event, error)
            except BaseException:
                cut_short(route.cells, position)
                raise
            now = self._clock()
            if now - last > longest:
                longest, culprit = now - last, cell.subscription
            last = now
        slow = last - started > SLOW_NS
        if slow and culprit is not None:
            self._failures.report_slow(culprit, event, last - started)
        with self._lock:
            if self._routes.get(event.__class__) is route and route.ended:
                route.wind(0 if slow else LAPS)
                self._table[event.__class__] = route.countdown

    # Subscribing

    def subscribe(
        self,
        handler: Handler,
        *what: What,
        priority: int = 0,
        once: bool = False,
        weak: bool = False,
        where: Callable[[Any], object] | None = None,
        deliver: Deliver | None = None,
        queue_size: int = 1000,
        when_full: WhenFull = "drop_oldest",
    ) -> Subscription:
        """Call the handler with every event that it wants.

        Args:
            handler: takes the event; what it returns is ignored, what it raises is counted and logged.
            what: event classes (their subclasses too), unions, names and globs ("tool.*", "lead_*"); none means all.
            priority: lower runs first; equal ones run in the order of subscription.
            once: for the first event only, exactly once.
            weak: end with the handler's owner, or with the handler if it is a function.
            where: only for events for which this is true; it runs inline.
            deliver: "inline", "thread" or "task"; by default async handlers are tasks and all others inline.
            queue_size: how many events may wait for a thread or a task.
            when_full: which event is then dropped.

        """
        options: Options = {
            "priority": priority,
            "once": once,
            "weak": weak,
            "where": where,
            "deliver": deliver,
            "queue_size": queue_size,
            "when_full": when_full,
        }
        subscription = Subscription(self, handler, Interest(what), options)
        with self._lock:
            self._change(lambda before: sorted((*before, subscription), key=lambda each: each.priority))
        return subscription

    def on(self, *what: What, **options: Unpack[Options]) -> Callable[[H], H]:
        """Subscribe the decorated handler, which stays what it is."""

        def decorate(handler: H) -> H:
            self.subscribe(handler, *what, **options)
            return handler

        return decorate

    def once(self, *what: What, **options: Unpack[Options]) -> Callable[[H], H]:
        """Subscribe the decorated handler for the first event only."""
        chosen: Options = {**options, "once": True}
        return self.on(*what, **chosen)

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Who hears events at present, in the order of their calls."""
        self._bury_the_dead()
        return self._subscriptions

    def remove(self, subscription: Subscription) -> None:
        """Route no more events to it; `Subscription.cancel` does this and lets go of what waits."""
        with self._lock:
            subscription.ended = True
            if subscription in self._subscriptions:
                self._leaving = (*(each for each in self._leaving if not _rests(each)), subscription)
                self._change(lambda before: [each for each in before if each is not subscription])
            for reference in self._walked:
                walk = reference()
                if walk is not None:
                    silence(walk, subscription)

    def bury(self, subscription: Subscription) -> None:
        """Let go of a subscription whose handler is gone. The garbage collector calls this: it must not wait."""
        subscription.ended = True
        self._buried.append(subscription)
        self._table = {}  # the next emit finds no route, and removes it

    def _bury_the_dead(self) -> None:
        while self._buried:
            try:
                self._buried.popleft().cancel()
            except IndexError:
                return  # another thread was quicker

    def _change(self, change: Callable[[tuple[Subscription, ...]], list[Subscription]]) -> None:
        while True:
            before = self._subscriptions
            after = tuple(change(before))
            if self._subscriptions is before:  # else a finaliser or a signal (un)subscribed in this very thread
                self._subscriptions = after
                return self._forget_routes()

    # Routes

    def _route_for(self, cls: type) -> Route:
        """The route of a class, with this walk counted; it is computed where there is none."""
        with self._lock:
            self._bury_the_dead()
            while True:
                routes = self._routes
                route = routes.get(cls)
                route = self._new_route(cls) if route is None else route
                if routes is self._routes:
                    break  # else something in our own thread (un)subscribed meanwhile
            if cls not in routes:
                if len(routes) >= CLASSES:
                    self._forget_routes()
                if isinstance(route.walk, FunctionType):
                    self._walked.append(weakref.ref(route.walk))
                self._routes[cls] = route
            self._table[cls] = route.countdown
            route.count_walk()
            return route

    def _new_route(self, cls: type) -> Route:
        cells = (subscription.cell_for(cls) for subscription in self._subscriptions)
        return Route([cell for cell in cells if cell is not None], self._failed)

    def _forget_routes(self) -> None:
        routes, self._routes, self._table = self._routes, {}, {}
        for route in routes.values():
            route.retire()
        self._walked = [reference for reference in self._walked if reference() is not None]

    def walks_of(self, subscription: Subscription) -> int:
        """How often a route that calls this subscription's own handler has been walked."""
        with self._lock:
            cells = ((route, cell) for route in self._routes.values() for cell in route.cells)
            walks = sum(route.walks for route, cell in cells if cell.bare and cell.subscription is subscription)
            return subscription.booked_walks + walks

    # Failures

    @property
    def failures(self) -> int:
        """How many calls of handlers raised."""
        return self._failures.count.value

    @property
    def slow_emits(self) -> int:
        """How many of the emits that were timed took more than 5 ms."""
        return self._failures.slow.value

    def report(self, subscription: Subscription, event: object, error: BaseException) -> None:
        """A thread's or a task's call of this subscription's handler raised."""
        self._failures.report(subscription, event, error)

    def _failed(self, cell: Cell, event: Event, error: Exception) -> None:
        cell.passed_over()
        self._failures.report(cell.subscription, event, error)

    # Asking

    def answer(self, kind: type) -> Callable[[H], H]:
        """Let the decorated function, sync or async, answer requests of this class and its subclasses."""
        if not isinstance(kind, type):
            raise TypeError(f"answer takes the class of the requests, not {kind!r}")

        def decorate(responder: H) -> H:
            if not callable(responder) or is_generator(responder):
                raise TypeError(f"a responder must be a function that returns its answer, not {responder!r}")
            if kind in self._responders:
                taken = name_of_handler(self._responders[kind])
                raise ValueError(f"{kind.__name__} is answered by {taken} already, and a request has one answer")
            self._responders[kind] = responder
            return responder

        return decorate

    async def ask(self, request: object, timeout: float | None = None) -> Any:
        """What the responder of the request's class returns or raises. No handler hears the request.

        Raises:
            NoAnswer: nobody answers requests of this class.
            TimeoutError: the responder took longer than `timeout` seconds.

        """
        for kind in type(request).__mro__:
            if kind in self._responders:
                return await answer_of(self._responders[kind], request, timeout)
        raise NoAnswer(f"nobody answers {type(request).__name__}: register a responder with `router.answer`")

    # Ending

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until all that was queued for threads has been handled; false if the time was not enough."""
        ends = None if timeout is None else time.monotonic() + timeout
        drained = True
        for subscription in (*self._subscriptions, *self._leaving):
            if isinstance(subscription.delivery, InThread):
                left = None if ends is None else max(0.0, ends - time.monotonic())
                drained = subscription.delivery.drained(left) and drained
        return drained

    def close(self) -> None:
        """Cancel all subscriptions, end their threads, forget the responders; what still waits is dropped."""
        for subscription in (*self._subscriptions, *self._leaving):
            subscription.cancel()
        self._responders.clear()
        self._leaving = tuple(each for each in self._leaving if not _rests(each))  # whose handlers hold what they heard

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def after_fork(self) -> None:
        """Start afresh in a forked child: its threads are gone, and locks may be held by them for ever."""
        self._lock = threading.RLock()
        for subscription in (*self._subscriptions, *self._leaving):
            subscription.delivery.after_fork()


def _rests(subscription: Subscription) -> bool:
    return not isinstance(subscription.delivery, Queued) or subscription.delivery.resting


_routers: weakref.WeakSet[Router] = weakref.WeakSet()


def _after_fork() -> None:
    for router in _routers:
        router.after_fork()


os.register_at_fork(after_in_child=_after_fork)
