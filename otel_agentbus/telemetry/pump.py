"""The background: takes events from the ring and hands them to the bridges, in short slices.

A thread that computes for long holds the interpreter for its whole switch interval (5 ms), which an event loop feels.
So it works for a quarter of a millisecond, then yields; when the ring is empty it lets time pass for the bridges and
sleeps. Whoever calls `drain()` waits for what is in the ring, but no longer than told: what a foreign span processor
does with it (block, say) happens in this thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..events import Event

_log = logging.getLogger("otel_agentbus.pump")

SLICE_NS = 250_000
PAUSE_S = 0.0005
IDLE_S = 0.05
#: The longest time that anything is waited for: "for ever" is more than a thread can be told.
LONGEST_S = 86_400.0


def remaining(deadline: float) -> float:
    """The seconds until then: none where it is past."""
    return min(max(deadline - time.monotonic(), 0), LONGEST_S)


@dataclass(slots=True)
class _Drain:
    """Somebody waits for the ring to be handed over; after `until`, the rest of it is left."""

    then: Callable[[], object] | None
    until: float | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Pump:
    """One ring, one background thread, any number of sinks; `idle` is called where the ring is empty.

    `prepare` sees each event before the sinks, and gives them the event that they are to take.

    `idle` lets time pass for the sinks.
    """

    def __init__(
        self,
        size: int,
        sinks: tuple[Callable[[Event], None], ...],
        idle: Callable[[], object],
        prepare: Callable[[Event], Event] | None = None,
    ) -> None:
        self.ring: deque[Event] = deque()
        self.size = size
        self.dropped = 0
        #: How many were left when the time at the end was over.
        self.left = 0
        #: How many events the sinks were given.
        self.handed_over = 0
        self._sinks = sinks
        self._prepare = prepare
        self._idle = idle
        self._drains: deque[_Drain] = deque()
        self._renew()

    def _renew(self) -> None:
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def keep(self, event: Event) -> None:
        """Take an event."""
        if len(self.ring) >= self.size:
            self.make_room()
        self.ring.append(event)

    def make_room(self) -> None:
        """Over the bound the oldest is dropped, and counted."""
        try:
            self.ring.popleft()
            self.dropped += 1
        except IndexError:  # taken meanwhile
            pass

    def start(self) -> None:
        """Start the thread. Not at import, not at exit (no thread can be started then): at connect and after a fork."""
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._run, name="otel-agentbus-pump", daemon=True)
            self._thread.start()

    def after_fork(self) -> None:
        """In the child: nothing of the parent's is ours, not its events nor its locks."""
        self.ring.clear()
        self._drains.clear()
        self.dropped = self.handed_over = self.left = 0
        self._renew()
        self.start()

    def drain(self, deadline: float, then: Callable[[], object] | None = None, *, last: bool = False) -> bool:
        """Have what is in the ring handed over, and `then` this done; whether that was by the (monotonic) deadline.

        The `last` time, what is in the ring at the deadline is left, and counted.
        """
        drain = _Drain(then, deadline if last else None)
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._work_off(drain)
        elif thread is threading.current_thread():
            return False  # from within a sink: what it waits for waits for it
        else:
            self._drains.append(drain)
            self._wake.set()
        return drain.done.wait(remaining(deadline))

    def stop(self) -> None:
        """Let the thread end; it is a daemon, nobody waits for it."""
        self._stopping = True
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn()
            except BaseException:  # noqa: BLE001 - here is no program to end: a sink that says so must not end the others
                _log.exception("Background work failed")
        while self._drains:
            self._work_off(self._drains.popleft())

    def _turn(self) -> None:
        if self._drains:
            self._work_off(self._drains.popleft())
        elif self._slice():
            time.sleep(PAUSE_S)
        else:
            self._isolated(self._idle)
            self._wake.wait(IDLE_S)
            self._wake.clear()

    def _slice(self) -> bool:
        """Work for one slice; whether there is more."""
        until = time.perf_counter_ns() + SLICE_NS
        while self.ring:
            self._take()
            if time.perf_counter_ns() >= until:
                return bool(self.ring)
        return False

    def _work_off(self, drain: _Drain) -> None:
        try:
            for _ in range(len(self.ring)):  # not for ever, where others go on emitting
                if drain.until is not None and time.monotonic() >= drain.until:
                    self._leave()
                    break
                self._take()
            if drain.then is not None:
                self._isolated(drain.then)
        finally:
            drain.done.set()

    def _leave(self) -> None:
        for _ in range(len(self.ring)):
            try:
                self.ring.popleft()
                self.left += 1
            except IndexError:  # the bound has dropped it meanwhile
                break

    def _take(self) -> None:
        try:
            event = self.ring.popleft()
        except IndexError:  # the bound has dropped it meanwhile
            return
        self.handed_over += 1
        if self._prepare is not None:
            event = self._prepared(self._prepare, event)
        for sink in self._sinks:
            try:
                sink(event)
            except Exception:  # noqa: BLE001 - one sink's failure is not the other's
                _log.exception("A sink failed on %s", event.kind)

    def _prepared(self, prepare: Callable[[Event], Event], event: Event) -> Event:
        try:
            return prepare(event)
        except Exception:  # noqa: BLE001 - what an event costs may fail; what it tells must not be lost with that
            _log.exception("Preparing failed on %s", event.kind)
            return event

    def _isolated(self, function: Callable[[], object]) -> None:
        try:
            function()
        except Exception:  # noqa: BLE001 - the thread outlives whatever a provider raises
            _log.exception("Background work failed")
