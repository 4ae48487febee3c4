"""What is open in one source: its runs, their calls, what waits for its start, and what has ended."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..events import Event, Outcome
from .ids import SpanKindName
from .places import Place

#: How many finished calls, and how many finished runs, are remembered: what tells of them again is a duplicate.
REMEMBERED_CALLS, REMEMBERED_RUNS = 65_536, 4_096
#: How far upwards a run's callers are followed; a lineage that is longer (or a circle) is somebody's mistake.
DEPTH = 64

#: The key of a call in its run: its kind and its local id.
CallKey = tuple[SpanKindName, str]


@dataclass(slots=True, eq=False)
class OpenSpan:
    """A span that has begun: its place, its beginning, and how it can be found again."""

    place: Place
    span: Any  # the tracer's span
    start: Event
    start_ns: int
    name: str = ""  # of a tool, for those that come without ids
    keyed: bool = True
    #: The block of this process that will end it; None for events that nobody vouches for.
    block: Any = None

    @property
    def key(self) -> CallKey:
        """Its key among the calls of its run."""
        return self.place.kind, self.place.local

    @property
    def lives(self) -> bool:
        """Whether a block of this process is still inside it."""
        return self.block is not None and not self.block.ended


@dataclass(slots=True, eq=False)
class Run:
    """One invocation as one source tells of it. The stray calls of a source share a run without an id."""

    id: str
    root: str
    parent: str = ""
    agent: OpenSpan | None = None
    calls: dict[CallKey, OpenSpan] = field(default_factory=dict)
    #: Ends whose start has not come, with the time until which they wait.
    early_ends: dict[CallKey, tuple[int, Event]] = field(default_factory=dict)
    #: Moments whose span has not come.
    early_moments: dict[CallKey, list[tuple[int, Event]]] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    last_ns: int = 0
    #: When the agent's end was applied; what is open then, and nobody's, is judged when the grace is over.
    ended_ns: int | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing in it is open or waiting."""
        return self.agent is None and not (self.calls or self.early_ends or self.early_moments)

    def open_spans(self) -> Iterator[OpenSpan]:
        """What is open, innermost last begun first."""
        yield from reversed(list(self.calls.values()))
        if self.agent is not None:
            yield self.agent

    def unkeyed_call(self, kind: SpanKindName, name: str = "") -> OpenSpan | None:
        """The oldest open call without an id: first in, first out, by the tool's name."""
        return next((c for c in self.calls.values() if c.place.kind == kind and not c.keyed and c.name == name), None)

    def only_call(self, kind: SpanKindName, name: str = "") -> OpenSpan | None:
        """The one open call of that kind (and tool), where there is exactly one."""
        found = [c for c in self.calls.values() if c.place.kind == kind and c.name == name]
        return found[0] if len(found) == 1 else None


class Writer(Protocol):
    """Makes the spans that the state machine has found."""

    def begin(self, place: Place, parent: Place | None, event: Event, start_ns: int) -> Any:
        """Start the span at this place, said by its start event, or by its end event where it stands alone."""

    def moment(self, span: Any, event: Event) -> None:
        """Add what happened as an event of the span."""

    def standing_moment(self, place: Place, parent: Place | None, event: Event) -> None:
        """What happened where no span can take it: a span without length of its own, or nothing for small things."""

    def finish(
        self, open_: OpenSpan, end_ns: int, end: Event | None, outcome: Outcome, totals: Mapping[str, float]
    ) -> None:
        """End the span, with what its end event says."""


class Table:
    """The runs of one source: active ones, longest idle first, and a bounded memory of what is over."""

    def __init__(self) -> None:
        self.active: OrderedDict[str, Run] = OrderedDict()
        self._finished: OrderedDict[str, Run] = OrderedDict()
        self._over: OrderedDict[Place, None] = OrderedDict()
        #: What waits, soonest first: until when, a tie-breaker, and the run in which it waits.
        self.due: list[tuple[int, int, Run]] = []
        self._count = itertools.count()

    def wait(self, until_ns: int, run: Run) -> None:
        """Look at this run again when its time has come."""
        heapq.heappush(self.due, (until_ns, next(self._count), run))

    def due_until(self, now_ns: int | None) -> Iterator[tuple[int, Run]]:
        """The runs whose time has come by now (or all), with that time."""
        while self.due and (now_ns is None or self.due[0][0] <= now_ns):
            at_ns, _, run = heapq.heappop(self.due)
            yield at_ns, run

    def find(self, run_id: str) -> Run | None:
        """A run that is active or remembered."""
        return self.active.get(run_id) or self._finished.get(run_id)

    def touch(self, run_id: str, root: str, parent: str, now_ns: int) -> Run:
        """The run of an event, known or new; it and the runs above it have been active now."""
        run = self.active.get(run_id)
        if run is None:
            run = self._finished.pop(run_id, None) or Run(run_id, root, parent)
            self.active[run_id] = run
        above: Run | None = run
        for _ in range(DEPTH):  # as `ancestors` does it, for every event
            if above is None:
                break
            if above.last_ns < now_ns:
                above.last_ns = now_ns
            if above.id in self.active:
                self.active.move_to_end(above.id)
            above = self.find(above.parent) if above.parent and above.parent != above.id else None
        return run

    def settle(self, run: Run) -> None:
        """Move a run in which nothing is open to the memory of finished ones."""
        if run.is_idle and self.active.pop(run.id, None) is not None:
            self._finished[run.id] = run
            if len(self._finished) > REMEMBERED_RUNS:
                self._finished.popitem(last=False)

    def ancestors(self, run: Run) -> Iterator[Run]:
        """The run itself and those above it, as far as this source knows them."""
        above: Run | None = run
        for _ in range(DEPTH):
            if above is None:
                return
            yield above
            above = self.find(above.parent) if above.parent and above.parent != above.id else None

    def over(self, place: Place) -> None:
        """Remember that this span has ended."""
        self._over[place] = None
        if len(self._over) > REMEMBERED_CALLS:
            self._over.popitem(last=False)

    def is_over(self, place: Place) -> bool:
        """Whether this span has ended before."""
        return place in self._over
