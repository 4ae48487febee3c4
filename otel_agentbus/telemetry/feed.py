"""Feeds the span bridge no faster than our own exporter takes spans; what has to wait is bounded and counted.

The SDK's batch processor drops the oldest spans when its queue is full, and tells nobody. So events wait here while the
exporter is a full queue behind. The metrics have had them by then: they depend on no span.
"""

from __future__ import annotations

import time
from collections import deque

from ..events import Event
from .outlet import Outlet
from .pump import SLICE_NS
from .spans import SpanBridge

PAUSE_S = 0.002


class SpanFeed:
    """A span bridge, and the events that wait for room in its exporter's queue. Used by the pump's thread only."""

    def __init__(self, bridge: SpanBridge, outlet: Outlet, size: int) -> None:
        self.bridge = bridge
        self.dropped = 0
        self._outlet = outlet
        self._size = size
        self._waiting: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __call__(self, event: Event) -> None:
        """Hand the event to the bridge, or keep it until there is room."""
        if not self._waiting and self._outlet.has_room(self.bridge.ended):
            self.bridge(event)
            return
        if len(self._waiting) >= self._size:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(event)
        self._hand_over()

    def idle(self) -> bool:
        """Hand over what waits, as far as there is room and for no longer than a slice; whether that was not all."""
        if self._waiting:
            return self._hand_over(time.perf_counter_ns() + SLICE_NS) and bool(self._waiting)
        self.bridge.tick()
        return False

    def _hand_over(self, until_ns: int = 0) -> bool:
        """Whether there is room for more; one event at least is handed over where there was."""
        while self._waiting and self._outlet.has_room(self.bridge.ended):
            self.bridge(self._waiting.popleft())
            if time.perf_counter_ns() >= until_ns:
                return True
        return not self._waiting

    def flush(self, deadline: float) -> None:
        """Hand over what waits as the exporter makes room, until the deadline; then what waits behind a gap."""
        while self._waiting and (self._hand_over() or time.monotonic() < deadline):
            if not self._outlet.has_room(self.bridge.ended):
                time.sleep(PAUSE_S)
        self.bridge.flush()

    def close(self, deadline: float) -> None:
        """The same; what still waits then is lost, and all that is open is judged."""
        self.flush(deadline)
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self.bridge.close()

    def health(self) -> dict[str, int]:
        """What waits here, what was left out and why, and what became of the spans."""
        here = {"queued": len(self._waiting), "dropped": self.dropped}
        return {**self.bridge.health(), **self._outlet.spans(self.bridge.ended), **here}
