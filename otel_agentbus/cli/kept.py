"""The runs of a journal that somebody wants to see, and their events; however long the journal, no more than that."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_agentbus.events import AgentEnd, AgentStart, HeartbeatTick
from otel_agentbus.telemetry.outline import root_of
from otel_agentbus.telemetry.recent import Recent

if TYPE_CHECKING:
    from otel_agentbus.events import Event

#: How many ids of runs are remembered, to say which there are.
IDS = 100_000
#: How many events of one run are kept.
EVENTS = 200_000
#: How many events of all runs are kept: some 500 bytes each.
ALL_EVENTS = 400_000
#: How many runs more than asked for are kept while reading: which are the last is known in the end.
_SPARE = 16
_NEAR = 5
#: What is captured of the talk is not shown, and may be large.
_CONTENT = ("input", "output", "instructions", "messages", "arguments", "result")


@dataclass(slots=True)
class Run:
    """The events of one tree."""

    root: str
    began_ns: int
    events: list[Event] = field(default_factory=list)
    #: Whether it is that of an agent, and not of a call that stands alone.
    has_agent: bool = False
    #: How many events more there were than are kept.
    further: int = 0

    @property
    def rank(self) -> tuple[bool, int]:
        """Which of two is rather to be kept."""
        return self.has_agent, self.began_ns

    def in_order(self) -> Iterator[Event]:
        """Its events by their times, those of one source as they were emitted."""
        latest: dict[str | None, int] = {}
        keyed = []
        for event in self.events:
            at = latest[event.source] = max(event.time_ns or 0, latest.get(event.source, 0))
            keyed.append((at, event))
        return (event for _, event in sorted(keyed, key=lambda pair: pair[0]))


class Kept:
    """Hears the events of a journal and keeps those of the runs that are asked for.

    Args:
        wanted: a root id or its beginning or end; None for the last runs.
        last: how many of these.

    """

    def __init__(self, wanted: str | None = None, last: int = 1) -> None:
        self._wanted = wanted
        self._limit = last
        self._runs: dict[str, Run] = {}
        self._events = 0  # kept now
        self._left_out: Recent[str, bool] = Recent(IDS)
        #: The ids of all runs so far, if they are not too many; True for those of agents.
        self.ids: dict[str, bool] = {}

    def __call__(self, event: Event) -> None:
        """Keep the event, if it is of such a run."""
        root = root_of(event)
        if not root or isinstance(event, HeartbeatTick):
            return
        run = self._runs.get(root)
        if run is None:
            if root in self.ids or self._left_out.get(root):
                return
            if len(self.ids) < IDS:
                self.ids[root] = False
            else:
                self._left_out.put(root, True)
            if not self._is_wanted(root):
                return
            run = self._runs[root] = Run(root, event.time_ns or 0)
        self._keep(run, event)

    def chosen(self) -> list[Run]:
        """The runs to be shown, the earliest first. Of an id's part that several have, all of these."""
        if self._wanted is None:
            best = sorted(self._runs.values(), key=lambda run: run.rank)[-self._limit :]
            if any(run.has_agent for run in best):
                best = [run for run in best if run.has_agent]
            return sorted(best, key=lambda run: run.began_ns)
        exact = self._runs.get(self._wanted)
        return [exact] if exact is not None else list(self._runs.values())

    def near(self) -> list[str]:
        """The ids that come close to the one that there is not."""
        wanted = self._wanted or ""
        within = [root for root in self.ids if wanted in root]
        return within[:_NEAR] or difflib.get_close_matches(wanted, self.latest(1_000), _NEAR)

    def latest(self, number: int = _NEAR) -> list[str]:
        """The ids that were told last."""
        return list(self.ids)[-number:]

    def _is_wanted(self, root: str) -> bool:
        return self._wanted is None or root.startswith(self._wanted) or root.endswith(self._wanted)

    def _keep(self, run: Run, event: Event) -> None:
        if isinstance(event, (AgentStart, AgentEnd)):
            run.has_agent = True
            if run.root in self.ids:
                self.ids[run.root] = True
        for name in _CONTENT:
            if getattr(event, name, None) is not None:
                setattr(event, name, None)
        if len(run.events) < EVENTS and (self._events < ALL_EVENTS or self._make_room(run)):
            run.events.append(event)
            self._events += 1
        else:
            run.further += 1
        if len(self._runs) > self._limit + _SPARE:
            self._make_room()

    def _make_room(self, for_: Run | None = None) -> bool:
        """Forget the run that is the least to be shown, if that is not one of those that were asked for."""
        others = [run for run in self._runs.values() if run is not for_ and run.root != self._wanted]
        if len(others) < self._limit:
            return False
        least = min(others, key=lambda run: run.rank)
        self._events -= len(least.events)
        del self._runs[least.root]
        return True
