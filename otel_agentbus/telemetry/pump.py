"""The background: takes events from the ring and hands them to the bridges, in short slices.

A thread that computes for long holds the interpreter for its whole switch interval (5 ms), which an event loop feels.
So it works for a quarter of a millisecond, then yields; when the ring is empty it lets time pass for the bridges and
sleeps. `drain()` does the same work in the caller's thread, so that a flush needs no thread that may be gone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from ..events import Event

_log = logging.getLogger("otel_agentbus.pump")

SLICE_NS = 250_000
PAUSE_S = 0.0005
IDLE_S = 0.05


class Pump:
    """One ring, one background thread, any number of sinks."""

    def __init__(self, size: int, sinks: tuple[Callable[[Event], None], ...], idle: Callable[[], None]) -> None:
        self.ring: deque[Event] = deque()
        self.size = size
        self.dropped = 0
        self._sinks = sinks
        self._idle = idle
        self._jobs: deque[tuple[Callable[[], object], threading.Event]] = deque()
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.Lock()
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
        self._jobs.clear()
        self.dropped = 0
        self._renew()
        self.start()

    def drain(self, deadline: float) -> bool:
        """Hand over all that is in the ring, in this thread; whether that was done by the (monotonic) deadline."""
        remaining = deadline - time.monotonic()
        if not self._lock.acquire(timeout=max(remaining, 0)):
            return False
        try:
            while self.ring:
                if time.monotonic() > deadline:
                    return False
                self._take()
        finally:
            self._lock.release()
        return True

    def run(self, job: Callable[[], object], deadline: float) -> bool:
        """Run something that may block (an exporter's flush) in the background; whether it was done by the deadline."""
        done = threading.Event()
        if self._thread is None or not self._thread.is_alive():
            return False
        self._jobs.append((job, done))
        self._wake.set()
        return done.wait(max(deadline - time.monotonic(), 0))

    def stop(self) -> None:
        """Let the thread end when its jobs are done; it is a daemon, nobody waits for it."""
        self._stopping = True
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            if self._slice():
                time.sleep(PAUSE_S)
                continue
            self._work_off_jobs()
            self._isolated(self._idle)
            self._wake.wait(IDLE_S)
            self._wake.clear()
        self._work_off_jobs()

    def _slice(self) -> bool:
        """Work for one slice; whether there is more."""
        with self._lock:
            until = time.perf_counter_ns() + SLICE_NS
            while self.ring:
                self._take()
                if time.perf_counter_ns() >= until:
                    return bool(self.ring)
        return False

    def _take(self) -> None:
        try:
            event = self.ring.popleft()
        except IndexError:  # the bound has dropped it meanwhile
            return
        for sink in self._sinks:
            try:
                sink(event)
            except Exception:  # noqa: BLE001 - one sink's failure is not the other's
                _log.exception("A sink failed on %s", event.kind)

    def _work_off_jobs(self) -> None:
        while self._jobs:
            job, done = self._jobs.popleft()
            self._isolated(job)
            done.set()

    def _isolated(self, function: Callable[[], object]) -> None:
        try:
            function()
        except Exception:  # noqa: BLE001 - the thread outlives whatever a provider raises
            _log.exception("Background work failed")
