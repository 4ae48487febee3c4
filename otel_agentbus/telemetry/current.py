"""The caller's side of spans: one sampling decision a tree, and the derived span of a block made current in its code.

Spans of other instrumentation (HTTP, databases) then nest under the span that the pump will make, and what user code
sets on the current span travels in the block's end event to the real one.
"""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from opentelemetry.context import Context, attach, get_current
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .origin import RANDOM, SAMPLED, Origin, read_origin
from .tracer import can_prepare

if TYPE_CHECKING:
    from opentelemetry.util.types import Attributes, AttributeValue

    from ..events import Event
    from .ids import Ids

#: The key under which a context has its current span.
SPAN_KEY = next(iter(set_span_in_context(INVALID_SPAN, Context())))
_W3C = TraceContextTextMapPropagator()

#: The key under which an end event carries what is no plain attribute: span events, status, name and links.
SPAN_DATA = "agentbus.span"


#: How many attributes, events and links user code may put on one block's span: somewhat more than a span may have.
NOTES = 1100

#: What samplers may see of the attributes that a program gives.
_PLAIN = frozenset({str, int, float, bool})

#: What a start event says of its span: the name, and the attributes that samplers see.
Begin = Callable[["Event"], tuple[str, dict[str, Any]]]


class Block(Protocol):
    """A block of a program, as far as its span is concerned."""

    kind: Literal["agent", "llm", "tool"]
    ended: bool
    span: Any
    base: Any
    invocation: Any

    @property
    def local_id(self) -> str:
        """The part of the span id that is its own."""


class BlockSpan(Span):
    """The span of a block, in the caller: its ids, and a notebook for what user code says about it."""

    __slots__ = ("_attributes", "_context", "_data", "_ids", "_origin", "block", "entered")

    #: The context in which this span is current, until it is left.
    entered: Context | None

    def __init__(self, block: Block, ids: Ids, origin: Origin) -> None:
        self.block = block
        self._ids = ids
        self._origin = origin
        self._context: SpanContext | None = None
        self._attributes: dict[str, Any] | None = None
        self._data: dict[str, Any] | None = None

    def get_span_context(self) -> SpanContext:
        """The ids of the span that will be exported; derived when first asked for."""
        context = self._context
        if context is None:
            run, block = self.block.invocation, self.block
            span_id = self._ids.span_id(run.root_id, block.kind, run.id, block.local_id, run.attempt)
            context = self._context = span_context(self._origin, span_id, run.tracestate)
        return context

    def is_recording(self) -> bool:
        return self._origin.recorded and not self.block.ended

    def end(self, end_time: int | None = None) -> None:
        """Nothing: the block ends it."""

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        if self.is_recording() and isinstance(key, str):
            if self._attributes is None:
                self._attributes = {}
            if len(self._attributes) < NOTES or key in self._attributes:
                self._attributes[key] = _plain(value)

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        for key, value in _plain_all(attributes).items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        if self.is_recording():
            self._note("events", [name, timestamp or time.time_ns(), _plain_all(attributes)])

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        if self.is_recording() and isinstance(context, SpanContext) and context.is_valid:
            origin = Origin(context.trace_id, context.span_id, int(context.trace_flags), remote=context.is_remote)
            self._note("links", [str(origin), _plain_all(attributes)])

    def update_name(self, name: str) -> None:
        if self.is_recording():
            self._said()["name"] = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if self.is_recording():
            if isinstance(status, Status):
                code, description = status.status_code, status.description
            else:
                code = status
            data = self._said()
            if code in (StatusCode.OK, StatusCode.ERROR) and data.get("status", [""])[0] != StatusCode.OK.name:
                data["status"] = [code.name, description]

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        kind = type(exception)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        said = {"exception.type": name, "exception.escaped": str(escaped)}
        try:
            said["exception.message"] = str(exception)
            said["exception.stacktrace"] = "".join(traceback.format_exception(exception))
        except Exception:  # noqa: BLE001 - a broken __str__ of the program's must not become our exception
            pass
        self.add_event("exception", {**said, **_plain_all(attributes)}, timestamp)

    def _note(self, kind: str, entry: list[Any]) -> None:
        entries = self._said().setdefault(kind, [])
        if len(entries) < NOTES:
            entries.append(entry)

    def _said(self) -> dict[str, Any]:
        if self._data is None:
            self._data = {}
        return self._data

    def taken_into(self, end: Event) -> None:
        """Put what user code said into the end event."""
        end.attributes = {**end.attributes, **(self._attributes or {})}
        if self._data:
            end.attributes[SPAN_DATA] = self._data


def _plain(value: Any) -> Any:
    """The value as it is now: what the program appends later is not part of it."""
    return list(value) if value.__class__ is list or value.__class__ is tuple else value


def _plain_all(attributes: Attributes) -> dict[str, Any]:
    try:
        return {key: _plain(value) for key, value in (attributes or {}).items() if isinstance(key, str)}
    except Exception:  # noqa: BLE001 - a mapping of the program's own that fails costs its attributes only
        return {}


def span_context(origin: Origin, span_id: int, tracestate: str | None, *, remote: bool = False) -> SpanContext:
    """The context of a span of this tree."""
    state = TraceState.from_header([tracestate]) if tracestate else None
    return SpanContext(origin.trace_id, span_id, remote, TraceFlags(origin.flags), state)


def living(context: Context) -> Context:
    """The context as it was before the blocks that have ended, where they ended elsewhere or in another order."""
    while type(span := context.get(SPAN_KEY)) is BlockSpan and span.block.ended:
        context = span.block.base
    return context


class CallerTracing:
    """Asks the sampler in the caller, and makes the spans of blocks current there."""

    def __init__(self, tracer: Callable[[], Tracer | None], ids: Ids, begin: Begin) -> None:
        self._tracer = tracer
        self._ids = ids
        self._begin = begin
        #: Who makes the spans since a tracer has been found that takes no ids from us.
        self.instead: CallerTracing | None = None

    def ambient(self) -> Any:
        """The living block whose span is current here, or None."""
        span = get_current_span()
        return span.block if isinstance(span, BlockSpan) and not span.block.ended else None

    def decide(self, start: Event, root_id: str) -> tuple[str | None, str | None]:
        """Ask the sampler once for the whole tree that begins with `start`; None where no tracer is there to ask."""
        tracer = self._tracer()
        if tracer is None or not can_prepare(tracer):
            return None, None
        here = living(get_current())
        outer = get_current_span(here)
        above = outer.get_span_context()
        # A span of ours that is current where no run is must have leaked there: it is no parent.
        is_root = not above.is_valid or isinstance(outer, BlockSpan)
        context = Context() if is_root else here
        trace_id = self._ids.trace_id(root_id) if is_root else above.trace_id
        return decided(tracer, context, trace_id, start, self._begin, None if is_root else above)

    def open(self, block: Block, start: Event) -> Any:
        """Make the block's span current here; without a decision there is none."""
        origin = read_origin(block.invocation.trace)
        if origin is None:
            return None if self.instead is None else self.instead.open(block, start)
        span = BlockSpan(block, self._ids, origin)
        previous = get_current()
        above = previous.get(SPAN_KEY)
        if type(above) is BlockSpan and above.block.ended:
            previous = living(previous)
        block.base = previous
        entered = span.entered = Context({**previous, SPAN_KEY: span})  # set_span_in_context, at two thirds of its cost
        attach(entered)
        return span

    def close(self, block: Block, end: Event) -> None:
        """Make current again what was, where the block's span still is; never by token, which another context has."""
        span = block.span
        if not isinstance(span, BlockSpan):
            return
        here, before = get_current(), block.base
        above = before.get(SPAN_KEY)
        if type(above) is BlockSpan and above.block.ended:
            before = living(before)
        if here is span.entered:
            attach(before)
        elif here.get(SPAN_KEY) is span:
            attach(set_span_in_context(get_current_span(before), here))
        span.entered = None
        if span._attributes or span._data:
            span.taken_into(end)

    def inject(self, carrier: MutableMapping[str, str]) -> None:
        """Write the W3C trace context that is current here into a carrier."""
        _W3C.inject(carrier)

    def link(self, traceparent: str | None) -> Any:
        """A link to the span that a traceparent names, as it travels in an event; None where it names none."""
        return None if read_origin(traceparent) is None else [traceparent, {}]

    def continued(self, traceparent: str | None) -> str | None:
        """The `trace` of a tree that goes on here: its trace and its decision, none where the carrier had none."""
        origin = read_origin(traceparent)
        return None if origin is None else str(origin)

    def enter_remote(self, traceparent: str | None, tracestate: str | None) -> Callable[[], None] | None:
        """Make the remote span current here; gives back how to leave it."""
        if read_origin(traceparent) is None:
            return None
        previous = get_current()
        carrier = {"traceparent": traceparent or "", "tracestate": tracestate or ""}
        entered = _W3C.extract(carrier, previous)
        attach(entered)

        def leave() -> None:
            if get_current() is entered:
                attach(previous)

        return leave


def decided(
    tracer: Any,
    context: Context,
    trace_id: int,
    start: Event,
    begin: Begin,
    above: SpanContext | None,
) -> tuple[str, str | None]:
    """Ask the tracer's sampler about a tree; what it adds to the attributes goes into the start event's.

    A sampler that fails must not reach the agent: the tree is then dropped, as the SDK would not have made it either.
    """
    try:
        return _ask(tracer, context, trace_id, start, begin, above)
    except Exception:  # noqa: BLE001 - the application's sampler is foreign code on the agent's path
        return str(Origin(trace_id, 0, 0, recorded=False)), None


def _ask(
    tracer: Any,
    context: Context,
    trace_id: int,
    start: Event,
    begin: Begin,
    above: SpanContext | None,
) -> tuple[str, str | None]:
    name, attributes = begin(_without_containers(start))
    result = tracer.sampler.should_sample(context, trace_id, name, SpanKind.INTERNAL, attributes, ())
    added = {key: value for key, value in (result.attributes or {}).items() if key not in attributes}
    if added:
        start.attributes = {**start.attributes, **added}
    if above is None:
        random = RANDOM if tracer.id_generator.is_trace_id_random() else 0
    else:
        random = int(above.trace_flags) & RANDOM
    flags = random | (SAMPLED if result.decision.is_sampled() else 0)
    recorded = result.decision is not Decision.DROP
    state = result.trace_state.to_header() if result.trace_state else None
    if above is None:
        return str(Origin(trace_id, 0, flags, recorded)), state
    return str(Origin(trace_id, above.span_id, flags, recorded, above.is_remote)), state


def _without_containers(start: Event) -> Event:
    """The event as samplers see it: what is no plain value has not been rendered yet, and may be anything."""
    if all(value.__class__ in _PLAIN for value in start.attributes.values()):
        return start
    seen = copy.copy(start)
    seen.attributes = {key: value for key, value in start.attributes.items() if value.__class__ in _PLAIN}
    return seen


def link_of(text: str, attributes: Mapping[str, Any]) -> Link | None:
    """A link as it travels in an event."""
    origin = read_origin(text)
    if origin is None:
        return None
    return Link(span_context(origin, origin.span_id, None, remote=origin.remote), attributes)
