"""Where the spans of others stand among runs and calls: one tree of theirs and ours, by the parents of their spans.

Every span that belongs to something of interest is remembered with the frame in which what is below it begins: its
own, where it is a run or a call, else that of its parent. The ids that our events give to such a run or call name its
span, so that whoever hangs something of ours below it finds the span that is really exported.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, get_current_span

from ...invocation import Boundary, Frame, Invocation, enclosing, tool_call_name
from .kinds import Kind

#: How many spans are remembered while they are open, and how many runs and calls after their end, for what begins late
#: below them. These keep what was around them, and that may be large.
OPEN: Final = 50_000
ENDED: Final = 256
#: How many are known by their id to be over, for processors that tell of the same span.
OVER: Final = 4_096

_RANDOM_AND_SAMPLED: Final = 3


class TellerFrame(Frame):
    """The frame of a run or call that another instrumentation tells of."""

    __slots__ = ("kind", "name", "span_id")

    def __init__(self, invocation: Invocation, call: str | None, parent: Frame | None, kind: Kind, name: str,
                 span_id: int) -> None:  # fmt: skip
        super().__init__(invocation, call)
        self.kind = kind
        self.name = name
        #: Whose frame it is.
        self.span_id = span_id
        self.parent = parent
        if kind not in ("agent", "chain"):
            self.owner = None


class Known:
    """A span of others, as far as it has been read."""

    __slots__ = (
        *("call_id", "frame", "invocation", "kind", "model", "name", "parent", "provider", "runtime", "scope"),
        *("source", "span_id", "start_ns", "told", "trace_id", "watched", "within"),
    )

    def __init__(self, context: SpanContext, parent: SpanContext | None, frame: Frame | None) -> None:
        self.trace_id = context.trace_id
        self.span_id = context.span_id
        self.parent = parent
        #: Where what begins below it belongs.
        self.frame = frame
        self.kind: Kind | None = None
        #: The lineage of its own events, the call that encloses them, and its id if it is a call.
        self.invocation: Invocation | None = None
        self.within: str | None = None
        self.call_id = ""
        self.scope = ""
        #: Whether its start event is out, and into which bus.
        self.told = False
        self.runtime: object = None
        self.source: str | None = None
        #: Told when its span is forgotten without an end.
        self.watched: weakref.ref[Any] | None = None
        #: What its start event says, for the end of a span that never ends.
        self.name = self.model = self.provider = ""
        self.start_ns = 0


class Table:
    """The spans that are remembered. Each step on it is one that no other thread can come between."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, Known] = OrderedDict()
        self._ended: OrderedDict[int, Known] = OrderedDict()
        self._over: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is remembered at all."""
        return not (self._open or self._ended)

    def find(self, context: SpanContext | None) -> Known | None:
        """What is known of this span."""
        if context is None:
            return None
        known = self._open.get(context.span_id) or self._ended.get(context.span_id)
        return known if known is not None and known.trace_id == context.trace_id else None

    def is_open(self, context: SpanContext) -> bool:
        """Whether it is being read already."""
        return context.span_id in self._open

    def add(self, known: Known) -> None:
        """Remember a span that has begun; the oldest are forgotten where there are too many, for they never end."""
        _bound(self._open, OPEN)
        self._ended.pop(known.span_id, None)
        self._open[known.span_id] = known

    def end(self, context: SpanContext) -> Known | None:
        """What is known of a span that ends now; None where nothing is, or it has ended before."""
        known = self._open.pop(context.span_id, None)
        if known is not None:
            self.pass_over(context)
            self._keep(known)
        return known

    def pass_over(self, context: SpanContext) -> None:
        """Nothing is to be told of this span any more."""
        _bound(self._over, OVER)
        self._over[context.span_id] = context.trace_id

    def is_over(self, context: SpanContext) -> bool:
        """Whether all was told of this span."""
        return self._over.get(context.span_id) == context.trace_id

    def _keep(self, known: Known) -> None:
        if isinstance(known.frame, TellerFrame) and known.frame.span_id == known.span_id:
            _bound(self._ended, ENDED)
            self._ended[known.span_id] = known

    def drop(self, known: Known) -> bool:
        """Let go of a span that was not ended; whether it was still open."""
        if self._open.get(known.span_id) is not known:
            return False
        del self._open[known.span_id]
        self._keep(known)
        return True

    def forget(self) -> None:
        """Forget all."""
        self._open.clear()
        self._ended.clear()
        self._over.clear()


def _bound(table: OrderedDict[int, Any], most: int) -> None:
    while len(table) >= most:
        try:
            table.popitem(last=False)
        except KeyError:  # another thread was quicker
            return


def block_of(span: Span) -> Frame | None:
    """The block of ours whose span this is."""
    block = getattr(span, "block", None)
    return block if isinstance(block, Frame) else None


def innermost(found: Frame | None, frame: Frame | None) -> Frame | None:
    """Of where the span's parents say and where this code is: that which is inside of the other, or where we are."""
    if found is None or frame is None:
        return frame if found is None else found
    return found if any(above is frame for above in _upwards(found)) else frame


def _upwards(frame: Frame | None) -> Iterator[Frame]:
    while frame is not None:
        yield frame
        frame = frame.parent


def place_here(table: Table, frame: Frame | None) -> Frame | None:
    """Where a block belongs that begins here: under what others tell of, if that is inside of what is current of ours.

    `frame` is what is current of ours.
    """
    if table.is_empty:
        return frame
    span = get_current_span()
    if block_of(span) is not None:  # and whose id is not known yet, and not needed
        return frame
    known = table.find(span.get_span_context())
    return frame if known is None else innermost(known.frame, frame)


def above(table: Table, parent: SpanContext | None, context: Context | None) -> Frame | None:
    """Where a span of others belongs that begins here below this parent."""
    known = table.find(parent)
    if known is not None:
        return innermost(known.frame, enclosing())
    found = None if parent is None or parent.is_remote else block_of(get_current_span(context))
    return innermost(found, enclosing())


# -- lineages ----------------------------------------------------------------------------------------------------------


def id_of(given: object, context: SpanContext) -> str:
    """The id of a run or call that has this span: the framework's own, else the trace's, and then the span's."""
    name = given if isinstance(given, str) and given else f"{context.trace_id:032x}"
    return f"{name}@span:{context.span_id:016x}"


def run_under(frame: Frame | None, known: Known, context: SpanContext, agent: str, given: object = None,
              conversation: str | None = None) -> Invocation:  # fmt: skip
    """The lineage of a run that begins in this frame."""
    caller = None if frame is None else frame.invocation
    id = id_of(given, context)
    if frame is None or caller is None or isinstance(frame, Boundary):
        attempt = 1 if caller is None else caller.attempt
        conversation = conversation or (None if caller is None else caller.conversation_id)
        channel = None if caller is None else caller.channel
        run = Invocation.root(id, agent=agent, attempt=attempt, conversation_id=conversation, channel=channel)
    else:
        run = caller.child(id, agent=agent, parent_call_id=frame.call, conversation_id=conversation)
    return _in_its_trace(run, known, context)


def call_under(frame: Frame | None, known: Known, context: SpanContext) -> Invocation:
    """The lineage of a call that begins in this frame: the run's, or that of a tree of its own."""
    if frame is None:
        return _in_its_trace(Invocation("", root_id=known.call_id), known, context)
    if isinstance(frame, Boundary):
        return _in_its_trace(replace(frame.invocation, root_id=known.call_id), known, context)
    return _in_its_trace(frame.invocation, known, context)


def call_name(kind: Kind, call_id: str) -> str:
    """How what happens inside of this call names it."""
    return f"llm:{call_id}" if kind == "llm" else tool_call_name(call_id)


def _in_its_trace(run: Invocation, known: Known, context: SpanContext) -> Invocation:
    """The same lineage, if it is of the span's trace; else one with that trace."""
    if run.trace is not None and run.trace[3:35] == f"{context.trace_id:032x}":
        return run
    state = context.trace_state.to_header() if context.trace_state else None
    return replace(run, trace=_trace(known.parent, context), tracestate=state or None)


def _trace(parent: SpanContext | None, context: SpanContext) -> str:
    """The trace as events have it: what is above, the decision, and the marks `r` (recorded only) and `x` (remote)."""
    outer, remote = (0, False) if parent is None else (parent.span_id, parent.is_remote)
    flags = int(context.trace_flags)
    marks = ("" if flags & 1 else "r") + ("x" if remote else "")
    text = f"00-{context.trace_id:032x}-{outer:016x}-{flags & _RANDOM_AND_SAMPLED:02x}"
    return f"{text}-{marks}" if marks else text


__all__ = ["Known", "Table", "TellerFrame", "above", "block_of", "call_name", "call_under", "id_of", "innermost",
           "place_here", "run_under"]  # fmt: skip
