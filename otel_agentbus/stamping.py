"""What every event gets when it is emitted: its time, its lineage from the run that is current, its source and number.

Events of blocks come with time and lineage. Events of other producers may bring ids of their own (`turn_id`s, say): for
those a bounded memory keeps what their first event told, so that every later one carries its whole lineage, and the
loss of one moves no other.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable

from .blocks import clock, surrounding
from .events import AgentEnd, AgentStart, Event
from .invocation import Boundary, Frame, Invocation
from .router import OnError, Router

_log = logging.getLogger("otel_agentbus.bus")

#: How many foreign runs are remembered.
FOREIGN_RUNS = 4096

#: Asks the sampler about a tree: the `trace` and the `tracestate` of its events.
Decide = Callable[[Event, str], tuple[str | None, str | None]]


def _told(numbers: itertools.count[int]) -> int:
    """How many numbers were given; there is no other way to look without counting than to read "count(7)"."""
    return int(repr(numbers)[6:-1])


class Stamp:
    """Stamps the events of one bus in one process."""

    __slots__ = ("_decide", "_foreign", "_lock", "numbers", "source")

    def __init__(self, decide: Decide | None = None) -> None:
        self._decide = decide
        self.renew()

    def renew(self) -> None:
        """Become a new source: at the start, and in every child of a fork."""
        self.source = os.urandom(8).hex()
        #: The next event's number, and those after it.
        self.numbers = itertools.count()
        self._foreign: OrderedDict[str, Invocation] = OrderedDict()
        self._lock = threading.RLock()  # of the memory; events of blocks never come here

    @property
    def emitted(self) -> int:
        """How many events this source has numbered so far."""
        return _told(self.numbers)

    def __call__(self, event: Event) -> None:
        """Fill in what is unset; the number comes last, so that it has no gaps."""
        self.fill(event)
        if event.source is None:
            event.source = self.source
            event.seq = next(self.numbers)

    def fill(self, event: Event) -> None:
        """Fill in time and lineage, where they are unset."""
        if event.time_ns is None:
            event.time_ns = clock.time_ns()
        if event.root_invocation_id is None:
            self._lineage(event)

    def _lineage(self, event: Event) -> None:
        frame = surrounding()
        if isinstance(frame, Boundary):
            frame = None
        if event.invocation_id is not None:
            self._fill(event, self._run_of(event, frame))
        elif frame is not None and not isinstance(event, (AgentStart, AgentEnd)):
            self._fill(event, frame.invocation)
            if event.parent_call_id is None:
                event.parent_call_id = frame.call
        # Else no ids at all: the bridge makes one run of everything between a start and an end.

    def _run_of(self, event: Event, frame: Frame | None) -> Invocation:
        """The run that a foreign id means, as its first event told of it."""
        run_id = event.invocation_id or ""
        if frame is not None and frame.invocation.id == run_id:
            return frame.invocation
        with self._lock:
            known = self._foreign.get(run_id)
            if known is not None:
                self._foreign.move_to_end(run_id)
                return known
        new = self._new_run(event, run_id, frame)  # asks the sampler, which may do whatever it likes: no lock is held
        with self._lock:
            known = self._foreign.setdefault(run_id, new)
            if len(self._foreign) > FOREIGN_RUNS:
                self._foreign.popitem(last=False)
            return known

    def _new_run(self, event: Event, run_id: str, frame: Frame | None) -> Invocation:
        parent_id, call = event.parent_invocation_id, event.parent_call_id
        parent = self._foreign.get(parent_id) if parent_id is not None else None
        while parent is None and frame is not None:  # the named parent may be a run further up
            if parent_id in (None, frame.invocation.id):
                parent, call = frame.invocation, call or frame.call
            frame = frame.parent
        if parent is not None:
            return parent.child(run_id, agent=event.agent, parent_call_id=call)
        run = Invocation(run_id, parent_id, parent_id or run_id, event.agent, parent_call_id=call)
        if event.trace is None and self._decide is not None:
            trace, tracestate = self._decide(event, run.root_id)
            object.__setattr__(run, "trace", trace)  # before anybody else can see it
            object.__setattr__(run, "tracestate", tracestate)
        return run

    def _fill(self, event: Event, run: Invocation) -> None:
        event.root_invocation_id = run.root_id
        event.invocation_id = run.id or None
        event.parent_invocation_id = event.parent_invocation_id or run.parent_id
        event.agent = event.agent or run.agent
        event.channel = event.channel or run.channel
        event.conversation_id = event.conversation_id or run.conversation_id
        event.trace = event.trace or run.trace
        event.tracestate = event.tracestate or run.tracestate
        if event.attempt == 1:
            event.attempt = run.attempt
        if isinstance(event, (AgentStart, AgentEnd)):
            event.parent_call_id = event.parent_call_id or run.parent_call_id


class StampingRouter(Router):
    """A router that stamps what it emits, so that `bus.router` and `bus` are the same door."""

    def __init__(self, stamp: Stamp, is_valid: Callable[[Event], bool] | None, on_error: OnError | None) -> None:
        super().__init__(on_error=on_error)
        self._stamp = stamp
        self._is_valid = is_valid
        self.refused = 0
        self._stamped_before = itertools.count()

    def after_fork(self) -> None:
        """In the child: nothing was emitted yet."""
        super().after_fork()
        self.refused, self._stamped_before = 0, itertools.count()

    @property
    def stamped_before(self) -> int:
        """How many events came with a source and a number: those of others, or emitted again."""
        return _told(self._stamped_before)

    def emit(self, event: Event) -> None:
        """Stamp the event, then hand it to whoever listens; never raises, never blocks."""
        try:
            if self._is_valid is not None and not self._is_valid(event):
                return
            if event.root_invocation_id is None or event.time_ns is None:
                self._stamp.fill(event)
            if event.source is None:
                event.source = self._stamp.source
                event.seq = next(self._stamp.numbers)  # last, so that there are no gaps
            else:
                next(self._stamped_before)
        except Exception:  # noqa: BLE001 - whatever an emitter hands us as an event must not come back to it
            self.refused += 1
            _log.warning("What cannot be stamped is no event, and is dropped: %s", type(event).__name__)
        else:
            for walk in self._table.get(type(event), ()):  # the router's own way, without a call more
                walk(event)
                return
            self._emit_timed(event)
