"""Which start and which end make one span: the state machine of one source, fed with its events in order.

All that a span says follows from the source's own events in their order, so however the events of several sources are
mixed on their way, the same spans come out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    CacheMiss,
    ChannelMessage,
    DomainEvent,
    Error,
    Event,
    LlmRequest,
    LlmResponse,
    Outcome,
    ToolCall,
    ToolCallStart,
    TurnComplete,
)
from .accounts import account_of, is_completing, used_by
from .deployments import Deployments
from .ids import SpanKindName, call_of
from .places import Lineage, Place, above
from .runs import CallKey, OpenSpan, Run, Table, Writer


class Source:
    """The machine of one source.

    One that is `late` begins where a machine before it has ended and been forgotten: an end whose start it does not
    know, in a run that it does not know either, tells of a span that is over, and is counted "late".
    """

    def __init__(
        self, name: str, writer: Writer, grace_ns: int, count: Callable[[str], None], *, late: bool = False
    ) -> None:
        self._name = name
        self._writer = writer
        self._grace_ns = grace_ns
        self._count = count
        self._late = late
        self._table = Table()
        self._deployments = Deployments(writer, count, late=late)
        self._now_ns = 0
        self._unnumbered = 0
        self._open = 0
        #: The run of a producer that gives no ids at all, while it is open.
        self._anonymous: str | None = None

    # -- in ------------------------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Take the next event of this source."""
        now_ns = event.time_ns if event.time_ns is not None else time.time_ns()
        if now_ns > self._now_ns:
            self._now_ns = now_ns
        if self._table.due:
            self.expire(self._now_ns)
        handler = _HANDLERS.get(event.__class__)
        if handler is not None:
            handler(self, event, now_ns)
        else:
            self._deployments.apply(event, now_ns)

    def expire(self, now_ns: int) -> None:
        """Judge what has waited for the grace period, in event time or, where nothing comes any more, by the clock."""
        self._now_ns = max(self._now_ns, now_ns)
        for at_ns, run in self._table.due_until(now_ns):
            self._judge(run, at_ns)

    @property
    def open_spans(self) -> int:
        """How many spans have begun and not ended."""
        return self._open + self._deployments.open_spans

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open, and nothing waits for its start, its span or (a deployment) its recovery."""
        if self._open or not self._deployments.is_idle:
            return False
        return all(run.is_idle for run in self._table.active.values())

    @property
    def due_ns(self) -> int | None:
        """When there is something to judge, in the time of the events; None where nothing waits for its grace."""
        return self._table.due[0][0] if self._table.due else None

    def evict(self) -> int:
        """Interrupt the run or deployment that has been idle longest; gives the number of spans that this ended."""
        run, since_ns = self._idlest(), self._deployments.idle_since_ns
        if since_ns is not None and (run is None or since_ns < run.last_ns):
            return self._deployments.interrupt_oldest()
        return 0 if run is None else self._interrupt(run)

    def interrupt(self, root: str) -> None:
        """End what is open in the runs of this tree, as `close` does it for all."""
        for run in reversed([run for run in self._table.active.values() if run.root == root]):
            self._interrupt(run)

    @property
    def idle_since_ns(self) -> int | None:
        """When the run or deployment that has been idle longest was last heard of."""
        run = self._idlest()
        times = (None if run is None else run.last_ns, self._deployments.idle_since_ns)
        return min((since_ns for since_ns in times if since_ns is not None), default=None)

    def _idlest(self) -> Run | None:
        return next((run for run in self._table.active.values() if not run.is_idle), None)

    def close(self) -> None:
        """Nothing more will come: judge everything."""
        for at_ns, run in self._table.due_until(None):
            self._judge(run, at_ns, final=True)
        for run in reversed(list(self._table.active.values())):
            self._interrupt(run)
        self._deployments.close()

    # -- lineage -------------------------------------------------------------------------------------------------------

    def _lineage(self, event: Event, given: str | None = None) -> Lineage:
        run_id, root = event.invocation_id, event.root_invocation_id
        parent = event.parent_invocation_id or ""
        if run_id is None and isinstance(event, (AgentStart, AgentEnd)):
            run_id = root  # a run that names its root only is the root
        if run_id is None and root is None:
            if self._anonymous is not None:
                return Lineage(self._anonymous, self._anonymous)
            return Lineage(given or self._own_name(event), "")  # a call that stands alone is the root of its own tree
        if root is None:
            known = self._table.find(run_id or "") or (self._table.find(parent) if parent else None)
            root = known.root if known is not None else parent or run_id or ""
        if run_id and not parent and (known := self._table.find(run_id)) is not None:
            parent = known.parent
        return Lineage(root, run_id or "", parent)

    def _own_name(self, event: Event) -> str:
        """The local id of something that has none: its source and number."""
        if event.seq is not None:
            return f"{self._name}:{event.seq}"
        self._unnumbered += 1
        return f"{self._name}:u{self._unnumbered}"

    def _run(self, lineage: Lineage, now_ns: int) -> Run:
        return self._table.touch(lineage.invocation, lineage.root, lineage.parent, now_ns)

    # -- agents --------------------------------------------------------------------------------------------------------

    def _agent_start(self, event: AgentStart, now_ns: int) -> None:
        if event.invocation_id is None and event.root_invocation_id is None and self._anonymous is None:
            self._anonymous = self._own_name(event)
        lineage = self._lineage(event)
        place = lineage.agent(event.attempt)
        run = self._run(lineage, now_ns)
        if self._table.is_over(place) or (run.agent is not None and run.agent.place == place):
            self._count("duplicate")
            return
        if run.agent is not None:  # tried again, and nobody has ended the attempt before
            self._interrupt(run)
            run = self._run(lineage, now_ns)
        run.ended_ns = None
        run.parent = run.parent or lineage.parent
        run.agent = self._begin(place, event, lineage, now_ns)
        self._early(run, run.agent, ("agent", ""))

    def _agent_end(self, event: AgentEnd, now_ns: int) -> None:
        lineage = self._lineage(event)
        place = lineage.agent(event.attempt)
        run = self._run(lineage, now_ns)
        if self._table.is_over(place):
            self._count("duplicate")
        elif run.agent is None:
            if self._late:
                self._too_late(run)
            elif lineage.invocation:
                self._wait(run, ("agent", ""), event, now_ns)
            else:  # nothing can be told of its start any more
                self._stand_alone(run, Place(lineage.root, "agent", lineage.root), event, now_ns)
        else:
            self._end(run, run.agent, event, now_ns)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _llm_start(self, event: LlmRequest, now_ns: int) -> None:
        if event.call_id is None:
            run = self._run(self._lineage(event), now_ns)
            before = run.unkeyed_call("llm")
            if before is not None:  # one in flight without ids: the one before got no answer that was accepted
                self._finish(run, before, now_ns, None, "interrupted")
        self._call_start("llm", event.call_id, "", event, now_ns)

    def _llm_end(self, event: LlmResponse, now_ns: int) -> None:
        self._call_end("llm", event.call_id, "", event, now_ns)

    def _tool_start(self, event: ToolCallStart, now_ns: int) -> None:
        self._call_start("tool", event.tool_call_id, event.tool, event, now_ns)

    def _tool_end(self, event: ToolCall, now_ns: int) -> None:
        self._call_end("tool", event.tool_call_id, event.tool, event, now_ns)

    def _call_start(self, kind: SpanKindName, given: str | None, name: str, event: Event, now_ns: int) -> None:
        lineage = self._lineage(event, given)
        place = lineage.call(kind, given or self._own_name(event), event.attempt)
        run = self._run(lineage, now_ns)
        key = (kind, place.local)
        if key in run.calls or self._table.is_over(place):
            self._count("duplicate")
            return
        call = self._begin(place, event, lineage, now_ns)
        call.name, call.keyed = name, given is not None
        run.calls[key] = call
        if run.ended_ns is not None:
            self._table.wait(now_ns + self._grace_ns, run)
        self._early(run, call, key)

    def _call_end(self, kind: SpanKindName, given: str | None, name: str, event: Event, now_ns: int) -> None:
        lineage = self._lineage(event, given)
        run = self._run(lineage, now_ns)
        call = run.calls.get((kind, given)) if given else None
        if call is None:
            if given and self._table.is_over(lineage.call(kind, given, event.attempt)):
                self._count("duplicate")
                if is_completing(event):
                    self._add_up(run, event)
                return
            call = run.unkeyed_call(kind, name) or (None if given else run.only_call(kind, name))
        if call is not None:
            self._end(run, call, event, now_ns)
        elif self._late and run.agent is None:
            self._too_late(run)
        elif given:
            self._wait(run, (kind, given), event, now_ns)
        else:  # without an id, a start that comes now is another call's
            self._stand_alone(run, lineage.call(kind, self._own_name(event), event.attempt), event, now_ns)

    # -- beginnings and ends -------------------------------------------------------------------------------------------

    def _begin(self, place: Place, event: Event, lineage: Lineage, start_ns: int) -> OpenSpan:
        span = self._writer.begin(place, above(event, lineage), event, start_ns)
        self._open += 1
        return OpenSpan(place, span, event, start_ns, block=getattr(event, "origin", None))

    def _end(self, run: Run, open_: OpenSpan, event: Event, now_ns: int) -> None:
        duration = _duration_ns(event)
        end_ns = now_ns if duration is None else open_.start_ns + duration
        self._finish(run, open_, max(end_ns, open_.start_ns), event, _outcome(event))

    def _finish(self, run: Run, open_: OpenSpan, end_ns: int, event: Event | None, outcome: Outcome) -> None:
        if open_ is run.agent:
            run.agent = None
            run.ended_ns = end_ns
            if open_.place.invocation == self._anonymous:
                self._anonymous = None
            if run.calls:
                told_ns = end_ns if event is None or event.time_ns is None else event.time_ns
                self._table.wait(told_ns + self._grace_ns, run)
        else:
            run.calls.pop(open_.key, None)
            self._add_up(run, event)
        self._open -= 1
        self._table.over(open_.place)
        totals = run.totals if open_.place.kind == "agent" and run.id else {}
        self._writer.finish(open_, end_ns, event, outcome, totals)
        self._table.settle(run)

    def _add_up(self, run: Run, event: Event | None) -> None:
        """Add what a model call used to its run, and to those above it as far as this source tells of them."""
        if isinstance(event, LlmResponse) and run.id:
            used = used_by(account_of(event))
            for above_run in self._table.ancestors(run):
                for key, amount in used.items():
                    above_run.totals[key] = above_run.totals.get(key, 0) + amount

    def _stand_alone(self, run: Run, place: Place, event: Event, now_ns: int) -> None:
        """An end whose start is lost: back-dated by its duration."""
        start_ns = now_ns - (_duration_ns(event) or 0)
        parent = run.parent or event.parent_invocation_id or ""
        lineage = Lineage(place.root, place.invocation if run.id else "", parent)
        open_ = self._begin(place, event, lineage, start_ns)
        if place.kind == "agent" and run.id:
            run.agent = open_
        for _, moment in run.early_moments.pop((place.kind, place.local), ()):
            self._writer.moment(open_.span, moment)
        self._finish(run, open_, max(now_ns, start_ns), event, _outcome(event))

    def _too_late(self, run: Run) -> None:
        self._count("late")
        self._table.settle(run)

    # -- what came too early -------------------------------------------------------------------------------------------

    def _wait(self, run: Run, key: CallKey, event: Event, now_ns: int) -> None:
        if key in run.early_ends:
            self._count("duplicate")
            return
        run.early_ends[key] = (now_ns + self._grace_ns, event)
        self._table.wait(now_ns + self._grace_ns, run)

    def _early(self, run: Run, open_: OpenSpan, key: CallKey) -> None:
        """Something has begun: what was told of it before has its place now."""
        if run.early_moments:
            for _, moment in run.early_moments.pop(key, ()):
                self._writer.moment(open_.span, moment)
        if key in run.early_ends:
            _, event = run.early_ends.pop(key)
            self._end(run, open_, event, event.time_ns or open_.start_ns)

    def _judge(self, run: Run, at_ns: int, *, final: bool = False) -> None:
        """The grace is over for what waited until `at_ns` in this run."""
        for key, (until_ns, event) in list(run.early_ends.items()):
            if until_ns <= at_ns or final:
                del run.early_ends[key]
                lineage = self._lineage(event, key[1])
                place = lineage.call(key[0], key[1], event.attempt)
                self._stand_alone(run, place, event, event.time_ns or until_ns)
        for key, moments in list(run.early_moments.items()):
            late = [event for until_ns, event in moments if until_ns <= at_ns or final]
            moments[:] = [moment for moment in moments if moment[0] > at_ns and not final]
            for event in late:
                self._stand_moment(event)
            if not moments:
                del run.early_moments[key]
        if run.ended_ns is not None and run.agent is None:
            for call in reversed(list(run.calls.values())):
                if not call.lives and (final or call.start_ns + self._grace_ns <= at_ns):
                    self._finish(run, call, max(run.ended_ns, call.start_ns), None, "cancelled")
        self._table.settle(run)

    def _interrupt(self, run: Run) -> int:
        """End what is open at the last time that was seen in the run, never at now; what waits is judged before."""
        self._judge(run, self._now_ns, final=True)
        ending = list(run.open_spans())
        for open_ in ending:
            if not open_.place.is_elsewhere:
                self._count("interrupted")
            self._finish(run, open_, max(run.last_ns, open_.start_ns), None, "interrupted")
        return len(ending)

    # -- moments -------------------------------------------------------------------------------------------------------

    def _moment(self, event: Event, now_ns: int) -> None:
        lineage = self._lineage(event)
        if not lineage.invocation and not event.parent_call_id:
            self._stand_moment(event)
            return
        run = self._run(lineage, now_ns)
        key: CallKey = call_of(event.parent_call_id) if event.parent_call_id else ("agent", "")
        open_ = run.agent if key[0] == "agent" else run.calls.get(key)
        place = Place(lineage.root, key[0], lineage.invocation, key[1], event.attempt)
        if open_ is not None and not place.is_elsewhere:
            self._writer.moment(open_.span, event)
        elif place.is_elsewhere or self._table.is_over(place):
            self._stand_moment(event)
        else:
            run.early_moments.setdefault(key, []).append((now_ns + self._grace_ns, event))
            self._table.wait(now_ns + self._grace_ns, run)

    def _stand_moment(self, event: Event) -> None:
        lineage = self._lineage(event)
        name = self._own_name(event)
        root = lineage.root if lineage.invocation or event.parent_call_id else name
        place = Place(root, "event", lineage.invocation, name, event.attempt)
        self._writer.standing_moment(place, above(event, lineage), event)


def _duration_ns(event: Event) -> int | None:
    """What the event says of its duration, if that can be true."""
    duration = getattr(event, "duration", None)
    if not isinstance(duration, (int, float)) or not 0 <= duration < 1e9:
        return None
    return round(duration * 1e9)


def _outcome(event: Event) -> Outcome:
    outcome = getattr(event, "outcome", None)
    return outcome if outcome in ("ok", "error", "cancelled", "interrupted") else "ok"


_HANDLERS: dict[type[Event], Callable[[Source, Any, int], None]] = {
    AgentStart: Source._agent_start,
    AgentEnd: Source._agent_end,
    LlmRequest: Source._llm_start,
    LlmResponse: Source._llm_end,
    ToolCallStart: Source._tool_start,
    ToolCall: Source._tool_end,
    TurnComplete: Source._moment,
    ChannelMessage: Source._moment,
    CacheHit: Source._moment,
    CacheMiss: Source._moment,
    DomainEvent: Source._moment,
    Error: Source._moment,
}
