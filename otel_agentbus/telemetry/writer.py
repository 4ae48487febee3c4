"""Makes OpenTelemetry spans of what the state machine found: explicit parents, derived ids, times of the events."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TraceState,
)

from ..events import (
    AgentEnd,
    AgentStart,
    DeploymentCompleted,
    DeploymentFailed,
    DeploymentStarted,
    Event,
    LlmRequest,
    LlmResponse,
    Outcome,
    RecoveryCompleted,
    ToolCall,
    ToolCallStart,
)
from . import names
from .accounts import usage_totals
from .asking import Begin, decided
from .conventions import Conventions
from .current import SPAN_KEY, link_of, span_context
from .ids import Ids
from .origin import RANDOM, SAMPLED, Origin, read_origin
from .places import Place, span_data
from .runs import OpenSpan
from .tracer import Prepared, start_prepared

#: How many trees' decisions are remembered, of those that no caller has decided; how many parents.
REMEMBERED = 4096

#: What stands for a span that somebody else exports: it has no ids of its own, for nobody asks it.
ELSEWHERE: Final = NonRecordingSpan(INVALID_SPAN.get_span_context())

#: How each event names the span that it begins (or, standing alone, ends).
_BEGINNINGS: dict[type[Event], str] = {
    AgentStart: "agent_start",
    AgentEnd: "agent_start_from_end",
    LlmRequest: "llm_start",
    LlmResponse: "llm_start_from_end",
    ToolCallStart: "tool_start",
    ToolCall: "tool_start_from_end",
    DeploymentStarted: "deployment_start",
    DeploymentCompleted: "deployment_start_from_end",
    DeploymentFailed: "deployment_start_from_end",
    RecoveryCompleted: "recovery_start_from_end",
}
#: How each event ends a span; an agent's end needs its run's totals besides.
_ENDINGS: dict[type[Event], str] = {
    LlmResponse: "llm_end",
    ToolCall: "tool_end",
    DeploymentCompleted: "deployment_end",
    DeploymentFailed: "deployment_end",
    RecoveryCompleted: "recovery_end",
}


def begin_with(conventions: Conventions) -> Begin:
    """What a start event (or an end event that stands alone) says of its span: name and attributes."""
    beginnings = {kind: getattr(conventions, say) for kind, say in _BEGINNINGS.items()}

    def begin(event: Event) -> tuple[str, dict[str, Any]]:
        say = beginnings.get(event.__class__)
        if say is None:
            return conventions.moment_span(event) or (event.kind, {})
        found: tuple[str, dict[str, Any]] = say(event)
        return found

    return begin


class SpanWriter:
    """Writes with one tracer, in one flavour of the conventions, showing content as the capture mode says."""

    def __init__(
        self,
        tracer: Tracer,
        ids: Ids,
        conventions: Conventions,
        capture: str = "NO_CONTENT",
        remembered: int = REMEMBERED,
    ) -> None:
        self._tracer = tracer
        self._ids = ids
        self._conventions = conventions
        self._begin = begin_with(conventions)
        self._endings = {kind: getattr(conventions, say) for kind, say in _ENDINGS.items()}
        self._on_span = capture in ("SPAN_ONLY", "SPAN_AND_EVENT")
        self._in_event = capture in ("EVENT_ONLY", "SPAN_AND_EVENT")
        self._decisions: OrderedDict[str, Origin] = OrderedDict()
        #: How many spans have ended that are to be exported.
        self.ended = 0
        #: How many have ended that are not: the sampler has left them out.
        self.unsampled = 0
        #: How many have begun, and how many of them ended, that others export.
        self.elsewhere = self.elsewhere_ended = 0
        #: How many spans without length were made.
        self.moments = 0
        #: Siblings stand under one parent.
        self._above = lru_cache(maxsize=remembered)(self._parent_span)
        self._remembered = remembered

    # -- beginning -----------------------------------------------------------------------------------------------------

    def begin(self, place: Place, parent: Place | None, event: Event, start_ns: int) -> Span:
        """Start the span at this place, said by its start event, or by its end event where it stands alone."""
        if place.is_elsewhere:
            self.elsewhere += 1
            return ELSEWHERE
        name, attributes = self.named(place, event)
        if self._on_span:
            attributes = {**self._conventions.content_attributes(event), **attributes}
        kind = SpanKind.CLIENT if place.kind == "llm" else SpanKind.INTERNAL
        return self._start(place, parent, event, name, attributes, kind, start_ns)

    def named(self, place: Place, event: Event) -> tuple[str, dict[str, Any]]:
        """The name and the start attributes that this event gives to a span."""
        if place.kind == "recovery" and isinstance(event, DeploymentFailed):
            return self._conventions.recovery_start(event)
        return self._begin(event)

    def _start(
        self,
        place: Place,
        parent: Place | None,
        event: Event,
        name: str,
        attributes: dict[str, Any],
        kind: SpanKind,
        start_ns: int,
    ) -> Span:
        origin = read_origin(_trace_of(place, event)) or self._decide(place.root, event)
        state = event.tracestate
        data = span_data(event) if event.attributes else {}
        above = self._above(origin, parent, state, bool(data.get("parent_remote")))
        base = getattr(getattr(event, "origin", None), "base", None)
        context = Context({**base, SPAN_KEY: above} if base else {SPAN_KEY: above})
        if origin.sampled:
            decision = Decision.RECORD_AND_SAMPLE
        else:
            decision = Decision.RECORD_ONLY if origin.recorded else Decision.DROP
        prepared = Prepared(
            origin.trace_id,
            self._ids.span_id(*place),
            bool(origin.flags & RANDOM),
            decision,
            TraceState.from_header([state]) if state else None,
        )
        links = self._links(place, data, origin, state) if data or place.kind == "recovery" else ()
        return start_prepared(self._tracer, prepared, name, context, kind, attributes, links, start_ns)

    def _parent_span(self, origin: Origin, parent: Place | None, state: str | None, remote: bool) -> Span:
        if parent is not None:
            above = span_context(origin, self._ids.span_id(*parent), state, remote=remote)
        else:
            above = span_context(origin, origin.span_id, state, remote=origin.remote)
        return NonRecordingSpan(above) if above.is_valid else INVALID_SPAN

    def _links(self, place: Place, data: dict[str, Any], origin: Origin, state: str | None) -> list[Link]:
        links = links_in(data)
        if place.kind == "recovery":
            failed = Place(place.root, "deployment", "", place.local, place.attempt)
            links.append(Link(span_context(origin, self._ids.span_id(*failed), state)))
        return links

    def _decide(self, root: str, event: Event) -> Origin:
        """The decision for a tree that came without one: asked here, once a tree, and remembered."""
        origin = self._decisions.get(root)
        if origin is None:
            trace_id = self._ids.trace_id(root)
            text, _ = decided(self._tracer, Context(), trace_id, event, self._begin, None)
            origin = self._decisions[root] = read_origin(text) or Origin(trace_id)
            if len(self._decisions) > self._remembered:
                self._decisions.popitem(last=False)
        return origin

    # -- in between ----------------------------------------------------------------------------------------------------

    def moment(self, span: Span, event: Event) -> None:
        """Add what happened as an event of the span."""
        found = self._conventions.moment(event)
        if found is not None and span.is_recording():
            span.add_event(found[0], found[1], timestamp=event.time_ns)

    def standing_moment(self, place: Place, parent: Place | None, event: Event) -> None:
        """An error or a domain event where no span can take it: a span without length; smaller things are metrics."""
        found = self._conventions.moment_span(event)
        if found is None:
            return
        at_ns = event.time_ns or 0
        span = self._start(place, parent, event, found[0], dict(found[1]), SpanKind.INTERNAL, at_ns)
        self.moments += 1
        try:
            self._say_error(span, event, at_ns)
        finally:
            self._end(span, at_ns)

    # -- ending --------------------------------------------------------------------------------------------------------

    def finish(
        self, open_: OpenSpan, end_ns: int, end: Event | None, outcome: Outcome, totals: Mapping[str, float]
    ) -> None:
        """End the span with what its end event says; without one, with its outcome."""
        span: Span = open_.span
        if span is ELSEWHERE:
            self.elsewhere_ended += 1
            return
        try:
            if not span.is_recording():
                return
            if end is None:
                span.set_attributes(self._conventions.outcome_attributes(outcome) | usage_totals(totals))
            else:
                self._finish_with(span, open_, end, end_ns, totals)
        finally:  # whatever its end event says, it ends
            self._end(span, end_ns)

    def _end(self, span: Span, end_ns: int) -> None:
        if span.get_span_context().trace_flags & SAMPLED:
            self.ended += 1
        else:
            self.unsampled += 1
        span.end(end_ns)

    def _finish_with(self, span: Span, open_: OpenSpan, end: Event, end_ns: int, totals: Mapping[str, float]) -> None:
        attributes: dict[str, Any]
        if isinstance(end, AgentEnd):
            attributes = self._conventions.agent_end(end, totals)
        else:
            say = self._endings.get(end.__class__)
            attributes = {} if say is None else say(end)
        if self._on_span:
            attributes = {**self._conventions.content_attributes(end), **attributes}
        if names.SPAN_DATA in end.attributes:
            self._say_user_data(span, end, attributes)
        span.set_attributes(attributes)
        if names.ERROR_TYPE in attributes:
            self._say_error(span, end, end_ns)
        if self._in_event:
            details = self._conventions.details(open_.start if open_.start is not end else None, end)
            if details is not None:
                span.add_event(details[0], details[1], timestamp=end_ns)

    def _say_error(self, span: Span, event: Event, at_ns: int) -> None:
        error = self._conventions.error_of(event)
        if error is None:
            return
        span.set_status(Status(StatusCode.ERROR, error[1]))
        exception = self._conventions.exception(event)
        if exception is not None:
            span.add_event(exception[0], exception[1], timestamp=at_ns)

    def _say_user_data(self, span: Span, end: Event, attributes: dict[str, Any]) -> None:
        """What user code said about the current span: it is the span's own, so it stands last and wins."""
        data: Any = span_data(end)
        if name := data.get("name"):
            span.update_name(str(name))
        for entry in _listed(data, "events"):
            match entry:
                case [label, int() | None as at_ns, dict() | None as said]:
                    span.add_event(str(label), said, timestamp=at_ns)
        for link in links_in(data):
            span.add_link(link.context, link.attributes)
        match _listed(data, "status"):
            case [StatusCode.ERROR.name, description]:
                attributes.setdefault(names.ERROR_TYPE, "_OTHER")
                span.set_status(Status(StatusCode.ERROR, description))
            case [StatusCode.OK.name, *_] if names.ERROR_TYPE not in attributes:
                span.set_status(Status(StatusCode.OK))


def _trace_of(place: Place, event: Event) -> str | None:
    """The trace that the event's tree is in. A deployment is no part of the run that does it, but a tree of its own."""
    apart = place.kind in ("deployment", "recovery") and event.root_invocation_id is not None
    return None if apart else event.trace


def _listed(data: Any, key: str) -> list[Any]:
    """One list of what user code said; it may have come a long way, and be anything."""
    found = data.get(key)
    return found if isinstance(found, list) else []


def links_in(data: Any) -> list[Link]:
    """The links among an event's span data."""
    found = (_link(entry) for entry in _listed(data, "links"))
    return [link for link in found if link is not None]


def _link(entry: Any) -> Link | None:
    try:
        text, attributes = entry
        return link_of(text, attributes)
    except (TypeError, ValueError):
        return None
