"""The caller's side of spans: one sampling decision a tree, and the derived span of a block made current in its code.

Spans of other instrumentation (HTTP, databases) then nest under the span that the pump will make, and what user code
sets on the current span travels in the block's end event to the real one.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .asking import Begin, decided
from .baggage import AllowedBaggage, is_within, marked, outside, withheld
from .boundary import ContextBoundary
from .ids import call_of
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

    def __init__(
        self, tracer: Callable[[], Tracer | None], ids: Ids, begin: Begin, baggage: Iterable[str] = ()
    ) -> None:
        self._tracer = tracer
        self._ids = ids
        self._begin = begin
        #: What carriers may take along of the program's baggage.
        self.baggage = AllowedBaggage(baggage)
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
        # A span of ours that is current where no run is must have leaked there: it is no parent. Nor is any span where
        # the tree began elsewhere, and no carrier has told of its trace: that is the one that its root's id gives.
        is_root = not above.is_valid or isinstance(outer, BlockSpan) or not _is_top(start)
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
        if type(above) is BlockSpan:
            if above.block.ended:
                previous = living(previous)
        elif self._tracer() is None:  # in a trace of somebody else's, what hangs below would have no parent
            return None
        block.base = previous
        if self.baggage and block.kind == "llm":
            previous = withheld(previous)
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

    def inject(self, carrier: MutableMapping[str, str], run: Any = None, call: str | None = None) -> None:
        """Write the W3C trace context that is current here, and the baggage that may leave, into a carrier.

        Whoever gets both must find the `run`, and its `call`, in that trace: where another trace is current, their own
        span counts, and none where their tree is not decided yet (its trace will be the one that its root's id gives).
        """
        here = get_current()
        above = get_current_span(here).get_span_context()
        if run is not None and (run.id or run.trace):
            above = self._in_tree(above, run, call)
        told = _written(above) if above.is_valid else {}
        if told or (run is not None and run.id):
            for name in ("traceparent", "tracestate"):
                if name in told:
                    carrier[name] = told[name]
                elif name in carrier:
                    del carrier[name]  # a carrier that is sent again has what belongs to another span
        if self.baggage:
            self.baggage.write(carrier, here)

    def _in_tree(self, above: SpanContext, run: Any, call: str | None) -> SpanContext:
        """The span that is current, if it is of the run's trace; else that of the run or of the call in it."""
        origin = read_origin(run.trace)
        if origin is None:
            return INVALID_SPAN.get_span_context()
        if above.is_valid and above.trace_id == origin.trace_id:
            return above
        kind, local = call_of(call) if call else ("agent", "")
        span_id = self._ids.span_id(run.root_id, kind, run.id, local, run.attempt)
        return span_context(origin, span_id, run.tracestate, remote=run.remote)

    def link(self, traceparent: str | None) -> Any:
        """A link to the span that a traceparent names, as it travels in an event; None where it names none."""
        origin = read_origin(traceparent)
        return None if origin is None else [str(origin._replace(remote=True)), {}]

    def continued(self, traceparent: str | None) -> str | None:
        """The `trace` of a tree that goes on here: its trace and its decision, none where the carrier had none."""
        origin = read_origin(traceparent)
        return None if origin is None else str(origin)

    def enter_remote(
        self, traceparent: str | None, tracestate: str | None, baggage: str | None = None
    ) -> Callable[[], None] | None:
        """Make the remote span current here, and the baggage that may enter; gives back how to leave it.

        A local span of the same trace stays: it is that of whoever has received the carrier (a server's, a worker's).
        """
        previous = entered = get_current()
        origin = read_origin(traceparent)
        if origin is not None and not _is_local(get_current_span(previous), origin.trace_id):
            entered = _W3C.extract({"traceparent": traceparent or "", "tracestate": tracestate or ""}, previous)
        entered = self.baggage.read(baggage, entered)
        if entered is previous:
            return None
        entered, remote = marked(entered), entered.get(SPAN_KEY)
        attach(entered)

        def leave() -> None:
            if (here := get_current()) is entered:
                attach(previous)
            elif is_within(here, entered):  # something was left open inside
                attach(outside(here, previous, *([SPAN_KEY] if here.get(SPAN_KEY) is remote else ())))

        return leave

    def hold(self, span: Any) -> Callable[[], None]:
        """Make the span of a block current here, where only its run is; gives back how to leave it."""
        previous = get_current()
        if previous.get(SPAN_KEY) is span:
            return _nothing
        entered = set_span_in_context(span, previous)
        attach(entered)

        def leave() -> None:
            if (here := get_current()) is entered:
                attach(previous)
            elif here.get(SPAN_KEY) is span:
                attach(set_span_in_context(get_current_span(previous), here))

        return leave

    def boundary(self) -> ContextBoundary:
        """Mark this place: a job begins here, and what it leaves open will be left behind."""
        return ContextBoundary()

    def leave_open(self) -> None:
        """Make current what was before the blocks that are so here, whether or not they have ended."""
        here = before = get_current()
        while type(span := before.get(SPAN_KEY)) is BlockSpan:
            before = span.block.base
        if before is not here:
            attach(before)


def _nothing() -> None:
    """Leave what was not entered."""


def _written(span: SpanContext) -> dict[str, str]:
    """A span's context as W3C has it in headers; flags that nobody knows are not passed on."""
    flags = int(span.trace_flags) & (SAMPLED | RANDOM)
    told = {"traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{flags:02x}"}
    if span.trace_state:
        told["tracestate"] = span.trace_state.to_header()
    return told


def _is_top(start: Event) -> bool:
    """Whether a tree begins here: a run that nobody called, or a call in no run."""
    return (start.parent_invocation_id if start.kind == "agent.start" else start.invocation_id) is None


def _is_local(span: Span, trace_id: int) -> bool:
    """Whether it is of this trace and was begun in this process, by somebody else than blocks."""
    context = span.get_span_context()
    return context.trace_id == trace_id and not context.is_remote and type(span) is not BlockSpan


def link_of(text: str, attributes: Mapping[str, Any]) -> Link | None:
    """A link as it travels in an event."""
    origin = read_origin(text)
    if origin is None:
        return None
    return Link(span_context(origin, origin.span_id, None, remote=origin.remote), attributes)
