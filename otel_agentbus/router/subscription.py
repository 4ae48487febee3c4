"""One handler's subscription: its options, its counts, its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict

from otel_agentbus.delivery import (
    AsTask,
    Handler,
    Inline,
    InThread,
    Tally,
    is_async,
    is_generator,
    name_of_handler,
    weakly,
)

from .failures import Throttle
from .interest import Interest
from .route import Cell

if TYPE_CHECKING:
    from types import TracebackType

    from otel_agentbus.events import Event

    from .routing import Router

Deliver = Literal["inline", "thread", "task"]
WhenFull = Literal["drop_oldest", "drop_newest"]


class Options(TypedDict, total=False):
    """How a handler wants to be called; see `Router.subscribe`."""

    priority: int
    once: bool
    weak: bool
    where: Callable[[Any], object] | None
    deliver: Deliver | None
    queue_size: int
    when_full: WhenFull


class Subscription:
    """What `subscribe` gives: cancel it, or use it as a context; it counts what became of its events."""

    def __init__(self, router: Router, handler: Handler, interest: Interest, options: Options) -> None:
        deliver = _checked(handler, options)
        #: The handler's name, for people.
        self.name = name_of_handler(handler)
        self.priority = options.get("priority", 0)
        #: Whether the handler hears no further events.
        self.ended = False
        #: Walks of routes that are no longer in use; the router books them.
        self.booked_walks = 0
        #: Walks that passed this subscription without a call that returned.
        self.missed = Tally()
        #: Calls that raised.
        self.failed = Tally()
        self.failure_log = Throttle()
        self.slow_log = Throttle()
        self._router = router
        self._interest = interest
        self.deliver = deliver
        self._fold(handler, options)

    def _fold(self, handler: Handler, options: Options) -> None:
        weak, once, where = options.get("weak", False), options.get("once", False), options.get("where")
        target = weakly(handler, partial(self._router.bury, self)) if weak else lambda: handler
        self.delivery: Inline | InThread | AsTask
        if self.deliver == "inline":
            self.delivery = Inline(None if weak else handler, target)
        else:
            self.delivery = (InThread if self.deliver == "thread" else AsTask)(
                target,
                partial(self._router.report, self),
                name=self.name,
                size=options.get("queue_size", 1000),
                keep_oldest=options.get("when_full", "drop_oldest") == "drop_newest",
            )
        call: Handler = self.delivery.offer
        if once:
            call = _once(call, self._use_up)
        if where is not None:
            call = _where(where, call)
        self._call = call
        self._bare = handler if self.deliver == "inline" and not weak and not once and where is None else None

    def cell_for(self, cls: type) -> Cell | None:
        """The place in the route of a class, if its events are wanted."""
        wanted = self._interest.in_class(cls)
        if wanted is False:
            return None
        if wanted is None:
            return Cell(self, _where(self._interest.in_name, self._call), bare=False)
        return Cell(self, self._call, bare=False) if self._bare is None else Cell(self, self._bare, bare=True)

    @property
    def delivered(self) -> int:
        """How many calls of the handler returned; one that is under way inline is counted already."""
        return self.delivery.delivered + self._router.walks_of(self) - self.missed.value

    @property
    def dropped(self) -> int:
        """How many events were meant for the handler and will never be handled to their end."""
        return self.delivery.dropped

    @property
    def failures(self) -> int:
        """How many calls of the handler, or of its `where`, raised."""
        return self.failed.value

    def cancel(self) -> None:
        """End it: the handler is not called again, also not for what waits in its queue."""
        self._router.remove(self)
        self.delivery.cancel()

    def _use_up(self) -> None:
        self._router.remove(self)
        self.delivery.retire()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __repr__(self) -> str:
        state = ", ended" if self.ended else ""
        return (
            f"<Subscription of {self.name} to {self._interest} ({self.deliver}{state}): "
            f"{self.delivered} delivered, {self.dropped} dropped, {self.failures} failed>"
        )


def _where(test: Callable[[Any], object], call: Handler) -> Handler:
    def tested(event: Event) -> None:
        if test(event):
            call(event)

    return tested


def _once(call: Handler, use_up: Callable[[], None]) -> Handler:
    first = threading.Lock()

    def claimed(event: Event) -> None:
        if first.acquire(blocking=False):
            use_up()
            call(event)

    return claimed


def _checked(handler: Handler, options: Options) -> Deliver:
    """How the handler is to be called; wrong options are refused here, where the mistake stands."""
    if not callable(handler):
        raise TypeError(f"a handler must be callable, and {handler!r} is not")
    if is_generator(handler):
        raise TypeError(f"{name_of_handler(handler)} is a generator function: calling it would run nothing of it")
    deliver = options.get("deliver") or ("task" if is_async(handler) else "inline")
    if deliver not in ("inline", "thread", "task"):
        raise ValueError(f'deliver must be "inline", "thread" or "task", not {deliver!r}')
    if is_async(handler) and deliver != "task":
        raise ValueError(f'{name_of_handler(handler)} is async: deliver it as "task", not {deliver!r}')
    _check_values(options)
    return deliver


def _check_values(options: Options) -> None:
    priority, size = options.get("priority", 0), options.get("queue_size", 1000)
    where, when_full = options.get("where"), options.get("when_full", "drop_oldest")
    if not isinstance(priority, int):
        raise TypeError(f"priority must be an int (lower runs first), not {priority!r}")
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"queue_size must be an int of at least 1, not {size!r}")
    if when_full not in ("drop_oldest", "drop_newest"):
        raise ValueError(f'when_full must be "drop_oldest" or "drop_newest", not {when_full!r}')
    if where is not None and (not callable(where) or is_async(where)):
        raise TypeError(f"where must be a plain function of the event, not {where!r}")
