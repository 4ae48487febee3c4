"""Reads the spans of others as they begin and end, once each, however many processors hand them over.

What a span is of is decided when it begins, by its attributes or its name, and told at once; what shows only at its end
is told then, start and end. Spans of our own scope, and those of frameworks whose own adapter is on, tell nothing.
"""

from __future__ import annotations

import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, get_current_span

from ... import adapters
from ...blocks import clock, place_by
from ...events import Event
from ...invocation import Boundary, Frame, enclosing
from ...observe import Runtime, installed
from .. import scopes
from . import telling
from .kinds import ENDINGS, MARKS, Kind, kind_by_attributes, kind_by_name
from .lineage import Known, Table, TellerFrame, above, block_of, call_name, call_under, id_of, place_here, run_under
from .model_calls import Said

_known_scope = lru_cache(maxsize=256)(scopes.is_known)
#: How many model calls are remembered that lie in another span, or whose answer a second span tells.
_REMEMBERED: Final = 1_024
#: A scope whose spans say nothing at all until their end: a run is called one where its name has "agent" in it.
_SILENT_AT_START: Final = "openinference.instrumentation.langchain"
#: Logfire tells a streamed answer in a log of its own, when the request's span has long ended.
_LOGFIRE, _SPAN_TYPE, _LOG = "logfire.", "logfire.span_type", "log"


class Reading:
    """What has been read of others' spans in this process."""

    def __init__(self) -> None:
        self.table = Table()
        #: How many spans were read by what they are of, and how many were passed over for an adapter of ours.
        self.counts: Counter[str] = Counter()
        #: Called where a tree of ours begins: whoever waits for a provider may look again.
        self.watch: Callable[[], None] | None = None
        #: Spans that were forgotten without an end, and when; told by whoever comes next, for nobody else can wait.
        self._lost: deque[tuple[Known, int]] = deque()
        self._around: OrderedDict[int, None] = OrderedDict()
        self._streams: OrderedDict[tuple[int, str], deque[Known]] = OrderedDict()
        place_by(self.place)

    def place(self, frame: Frame | None) -> Frame | None:
        """Where a block of ours belongs that begins here."""
        if self._lost:
            self.settle_lost()
        if frame is None and self.watch is not None:
            self.watch()
        return place_here(self.table, frame)

    # -- beginnings ----------------------------------------------------------------------------------------------------

    def begin(self, span: ReadableSpan, context: Context | None, *, new: bool) -> None:
        """Take a span that begins; with `new` also one that belongs to nothing that is being read."""
        scope = span.instrumentation_scope.name if span.instrumentation_scope is not None else ""
        runtime = installed()
        if runtime is None or scope == scopes.OURS:
            return
        if self._lost:
            self.settle_lost()
        parent = span.parent
        said: Said = span.attributes or {}
        kind, certain = _kind_at_start(span.name, said, scope)
        if kind is None and (said or not _known_scope(scope)) and not self._is_below(parent, context):
            return
        own = span.get_span_context()
        if own is None or self.table.is_open(own) or not (new or self.table.find(parent) is not None):
            return
        said = dict(said) if kind is not None else said  # the SDK's own mapping is slow to ask
        known = Known(own, parent, above(self.table, parent, context))
        known.scope = scope
        if kind == "step":
            known.kind = kind
        else:
            self._classify(known, kind, span, said)
        known.watched = weakref.ref(span, lambda _: self._lost.append((known, clock.time_ns())))
        self.table.add(known)
        if known.kind in _TOLD and certain and not known.told:
            self._tell_start(known, runtime, span, said)

    def _is_below(self, parent: SpanContext | None, context: Context | None) -> bool:
        """Whether its parent is of interest, so that what is below it must find that through it."""
        if parent is None or parent.is_remote:
            return False
        return self.table.find(parent) is not None or block_of(get_current_span(context)) is not None

    def _classify(self, known: Known, kind: Kind | None, span: ReadableSpan, said: Said) -> None:
        """Find what it is of, and its place; whatever stays without a kind may still say at its end what it is."""
        if (kind is not None or _known_scope(known.scope)) and scopes.silent(known.scope, adapters.active()):
            known.kind = "step"
            self.counts["silent"] += 1
            return
        outermost = known.frame is None or isinstance(known.frame, Boundary)
        if kind is None and not said and known.scope.startswith(_SILENT_AT_START):
            kind = "chain" if outermost else None
            if "agent" in span.name.lower():  # as it will say itself in the end
                kind = "agent"
        elif kind == "chain":
            kind = "agent" if outermost else "step"
        if kind is None or kind == "step":
            known.kind = kind
        elif not self._continues(known, kind, span, said):
            _settle(known, kind, span, said)

    def _continues(self, known: Known, kind: Kind, span: ReadableSpan, said: Said) -> bool:
        """Whether it is only another view of a call that is known: a tool call inside of itself, a stream's rest."""
        if _is_again(known.frame, kind, span.name, said):
            known.kind = "step"
            return True
        waiting = self._streams.get(_stream_key(known)) if kind == "llm" and said.get(_SPAN_TYPE) == _LOG else None
        if not waiting:
            return False
        request = waiting.popleft()
        known.kind, known.told = "llm", True
        known.invocation, known.within, known.call_id = request.invocation, request.within, request.call_id
        known.runtime, known.source = request.runtime, request.source
        return True

    def _tell_start(self, known: Known, runtime: Runtime, span: ReadableSpan, said: Said) -> None:
        known.told = True
        known.runtime, known.source = runtime, runtime.source
        self.counts[str(known.kind)] += 1
        runtime.emit(telling.start_of(known, span, said))

    def settle_lost(self) -> None:
        """Tell the ends of spans that will never end: whoever had them has let go of them."""
        while self._lost:
            try:
                known, now_ns = self._lost.popleft()
            except IndexError:  # another thread was quicker
                return
            if self.table.drop(known):
                runtime: Any = known.runtime
                self._close(known)
                if known.told and runtime.source == known.source:
                    runtime.emit(telling.lost_end_of(known, now_ns))

    # -- ends ----------------------------------------------------------------------------------------------------------

    def end(self, span: ReadableSpan, *, new: bool) -> None:
        """Take a span that ends."""
        context = span.get_span_context()
        known = None if context is None else self.table.end(context)
        said: Said = span.attributes or {}
        if known is None:
            if context is None or not new or MARKS.isdisjoint(said) or self.table.is_over(context):
                return
            self.table.pass_over(context)
            known = self._late(context, span)
            if known is None:
                return
        self._close(known)
        runtime = installed()
        if known.kind == "step" or (known.kind is None and MARKS.isdisjoint(said)):
            return
        said = dict(said)
        if not known.told and (runtime is None or not self._settle_late(known, span, said, runtime)):
            return
        self._tell_end(known, span, said)

    @staticmethod
    def _close(known: Known) -> None:
        known.watched = None
        if isinstance(known.frame, TellerFrame) and known.frame.span_id == known.span_id:
            known.frame.ended = True

    def _late(self, context: SpanContext, span: ReadableSpan) -> Known | None:
        """A span of which nothing was known until its end."""
        scope = span.instrumentation_scope.name if span.instrumentation_scope is not None else ""
        if scope == scopes.OURS or scopes.silent(scope, adapters.active()):
            return None
        outer = self.table.find(span.parent)
        known = Known(context, span.parent, enclosing() if outer is None else outer.frame)
        known.scope = scope
        return known

    def _settle_late(self, known: Known, span: ReadableSpan, said: Said, runtime: Runtime) -> bool:
        """Tell the start of what has shown only now what it is; whether there is anything to tell."""
        kind = kind_by_attributes(said)
        expected = known.kind
        if kind == "chain":
            kind = "agent" if expected == "chain" else None
        if kind not in _TOLD or (kind == "llm" and known.span_id in self._around):
            return False
        if expected != kind and not (expected == "chain" and kind == "agent"):
            if expected is not None and isinstance(known.frame, TellerFrame) and known.frame.span_id == known.span_id:
                known.frame = known.frame.parent
            _settle(known, kind, span, said)
        known.kind = kind
        self._tell_start(known, runtime, span, said)
        return True

    def _tell_end(self, known: Known, span: ReadableSpan, said: Said) -> None:
        runtime: Any = known.runtime
        if runtime.source != known.source:
            return  # this is a fork's child: the parent will tell of the end
        event = telling.end_of(known, span, said)
        if known.kind == "llm":
            self._note(known, event, said)
        runtime.emit(event)

    def _note(self, known: Known, event: Event, said: Said) -> None:
        """Remember what another span may tell of the same call."""
        if known.parent is not None:
            _bound(self._around)
            self._around[known.parent.span_id] = None
        answered = getattr(event, "output_tokens", None) is not None or getattr(event, "outcome", None) != "ok"
        if not answered and known.scope.startswith(_LOGFIRE) and said.get(_SPAN_TYPE) != _LOG:
            _bound(self._streams)
            self._streams.setdefault(_stream_key(known), deque(maxlen=64)).append(known)


_TOLD: Final = frozenset(("agent", "llm", "tool"))


def _bound(table: OrderedDict[Any, Any]) -> None:
    while len(table) >= _REMEMBERED:
        try:
            table.popitem(last=False)
        except KeyError:  # another thread was quicker
            return


def _stream_key(known: Known) -> tuple[int, str]:
    return (0 if known.parent is None else known.parent.span_id), known.scope


def _kind_at_start(name: str, said: Said, scope: str) -> tuple[Kind | None, bool]:
    """What a span is of as it begins, and whether that is certain."""
    if said and not MARKS.isdisjoint(said):
        return kind_by_attributes(said), True
    kind, certain = kind_by_name(name)
    if certain or not _known_scope(scope):
        return kind, certain
    if kind is None and not said:
        kind = ENDINGS.get(name.rpartition(".")[2]) if "." in name else None
    return kind, kind is not None


def _is_again(frame: Frame | None, kind: Kind, name: str, said: Said) -> bool:
    """Whether the frame tells of the same: a tool call, or a workflow that is named after its one agent."""
    around = getattr(frame, "kind", None)
    if kind == "tool" and around == "tool":
        return getattr(frame, "name", None) == telling.tool_name(said, name)
    if kind == "agent" and around == "chain":
        return getattr(frame, "name", None) == telling.agent_name(said, name)
    return False


def _settle(known: Known, kind: Kind | None, span: ReadableSpan, said: Said) -> None:
    """Give it its lineage, and what begins below it its frame."""
    context = span.get_span_context()
    if context is None or kind is None:
        return
    known.kind = kind
    outer = known.frame
    if kind in ("agent", "chain"):
        name = telling.agent_name(said, span.name)
        run = run_under(outer, known, context, name, telling.agent_call_id(said), telling.conversation(said))
        known.invocation = run
        inside: Kind = "chain" if telling.is_workflow(said, span.name) else "agent"
        known.frame = TellerFrame(run, None, outer, inside, name, known.span_id)
        return
    name = telling.tool_name(said, span.name) if kind == "tool" else ""
    known.call_id = id_of(telling.tool_call_id(said) if kind == "tool" else None, context)
    known.within = None if outer is None else outer.call
    call = call_under(outer, known, context)
    known.invocation = call
    known.frame = TellerFrame(call, call_name(kind, known.call_id), outer, kind, name, known.span_id)


#: The one reading of this process: a span that two processors hand over is read once.
reading: Final = Reading()
