"""Deployments and recoveries of one source, paired by their `deploy_id`; each deployment is a tree of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from ..events import DeploymentCompleted, DeploymentFailed, DeploymentStarted, Event, RecoveryCompleted
from .places import Place
from .runs import OpenSpan, Writer

#: How many deployments are remembered, open ones and failed ones that wait for their recovery.
REMEMBERED = 1000


class Deployments:
    """Start and end make a `deployment` span; a failure and its recovery a `recovery` span below it."""

    def __init__(self, writer: Writer, count: Callable[[str], None], *, late: bool = False) -> None:
        self._writer = writer
        self._count = count
        #: Whether an end whose start is not known tells of what is over.
        self._late = late
        self._open: OrderedDict[Place, OpenSpan] = OrderedDict()
        self._failed: OrderedDict[str, DeploymentFailed] = OrderedDict()
        self._over: OrderedDict[Place, None] = OrderedDict()

    @property
    def open_spans(self) -> int:
        """How many deployments have begun and not ended."""
        return len(self._open)

    @property
    def is_idle(self) -> bool:
        """Whether none is open, and none that has failed waits for its recovery."""
        return not (self._open or self._failed)

    @property
    def idle_since_ns(self) -> int | None:
        """When the oldest of them has begun: nothing is heard of a deployment until its end."""
        return next((open_.start_ns for open_ in self._open.values()), None)

    def apply(self, event: Event, now_ns: int) -> None:
        """Take a deployment's or recovery's event; any other is nothing to it."""
        if isinstance(event, DeploymentStarted):
            self._start(event, now_ns)
        elif isinstance(event, (DeploymentCompleted, DeploymentFailed)):
            self._end(event, now_ns)
        elif isinstance(event, RecoveryCompleted):
            self._recovery(event, now_ns)

    def close(self) -> None:
        """Nothing more will come: what is open was interrupted when it was last heard of, at its start."""
        while self._open:
            self.interrupt_oldest()

    def _start(self, event: DeploymentStarted, now_ns: int) -> None:
        place = Place(event.deploy_id, "deployment", "", event.deploy_id, event.attempt)
        if place in self._open or place in self._over:
            self._count("duplicate")
            return
        self._open[place] = OpenSpan(place, self._writer.begin(place, None, event, now_ns), event, now_ns)
        if len(self._open) > REMEMBERED:
            self.interrupt_oldest()

    def interrupt_oldest(self) -> int:
        """End the one that has been open longest; gives the number of spans that this ended."""
        place, open_ = self._open.popitem(last=False)
        self._count("interrupted")
        self._remember(place)
        self._writer.finish(open_, open_.start_ns, None, "interrupted", {})
        return 1

    def _end(self, event: DeploymentCompleted | DeploymentFailed, now_ns: int) -> None:
        place = Place(event.deploy_id, "deployment", "", event.deploy_id, event.attempt)
        if place in self._over:
            self._count("duplicate")
            return
        open_ = self._open.pop(place, None)
        if open_ is None and self._late:
            self._count("late")
            return
        if open_ is None:
            open_ = OpenSpan(place, self._writer.begin(place, None, event, now_ns), event, now_ns)
        failed = isinstance(event, DeploymentFailed)
        if isinstance(event, DeploymentFailed):
            self._failed[event.deploy_id] = event
            if len(self._failed) > REMEMBERED:
                self._failed.popitem(last=False)
        self._remember(place)
        self._writer.finish(open_, max(now_ns, open_.start_ns), event, "error" if failed else "ok", {})

    def _recovery(self, event: RecoveryCompleted, now_ns: int) -> None:
        place = Place(event.deploy_id, "recovery", "", event.deploy_id, event.attempt)
        if place in self._over:
            self._count("duplicate")
            return
        if self._late and event.deploy_id not in self._failed:
            self._count("late")
            return
        self._remember(place)
        # The span is made when the recovery is told, back to the failure: nothing hangs open until then.
        failure = self._failed.pop(event.deploy_id, None)
        start_ns = now_ns if failure is None or failure.time_ns is None else min(failure.time_ns, now_ns)
        deployment = Place(event.deploy_id, "deployment", "", event.deploy_id, event.attempt)
        span = self._writer.begin(place, deployment, failure or event, start_ns)
        self._writer.finish(OpenSpan(place, span, event, start_ns), now_ns, event, "ok", {})

    def _remember(self, place: Place) -> None:
        self._over[place] = None
        if len(self._over) > REMEMBERED:
            self._over.popitem(last=False)
