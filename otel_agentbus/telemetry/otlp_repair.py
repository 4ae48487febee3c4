"""Makes a span that the official encoder fails on writable: what cannot be said is left out, texts are rendered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState

from .otlp_spans import KeptEvent, KeptLink, KeptResource, KeptScope, KeptSpan, KeptState, KeptStatus

_SOME = SpanContext(1, 1, is_remote=False)
_NOBODY = Resource({})
_UINT32, _UINT64 = 2**32 - 1, 2**64 - 1


class Repair:
    """Mends the spans of one batch; `write` is the official encoder, which is asked what it takes."""

    def __init__(self, write: Callable[[Sequence[ReadableSpan]], bytes]) -> None:
        self._write = write
        self._bare = len(write([_probe()]))
        #: One mended part for each bad one, that groups stay together; the bad one is held: its id stays its own.
        self._parts: dict[int, tuple[object, Any]] = {}

    def __call__(self, span: ReadableSpan) -> ReadableSpan | None:
        """The span, mended where that is needed; None if it has no ids that could be written."""
        try:
            if self._writes(span):
                return span
            context = span.get_span_context()
            if context is None:
                return None
            mended = self._mended(span, context)
        except Exception:  # noqa: BLE001 - somebody else's object, which may raise at every touch
            return None
        return mended if self._writes(mended) else None

    def _writes(self, span: ReadableSpan) -> bool:
        try:
            self._write([span])
        except Exception:  # noqa: BLE001 - that is the question
            return False
        return True

    def _mended(self, span: ReadableSpan, context: SpanContext) -> ReadableSpan:
        state = self._state(context.trace_state)
        dropped = (span.dropped_attributes, span.dropped_events, span.dropped_links)
        return KeptSpan(
            (_bound(dropped[0], _UINT32), _bound(dropped[1], _UINT32), _bound(dropped[2], _UINT32)),
            name=_text(span.name),
            context=SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags, state),
            parent=span.parent if self._writes(_probe(parent=span.parent)) else None,
            resource=self._resource(span.resource),
            attributes=self._attributes(span.attributes),
            events=[self._event(event) for event in span.events],
            links=[link for link in map(self._link, span.links) if link is not None],
            kind=span.kind if isinstance(span.kind, SpanKind) else SpanKind.INTERNAL,
            status=self._status(span.status),
            start_time=_bound(span.start_time, _UINT64),
            end_time=_bound(span.end_time, _UINT64),
            instrumentation_scope=self._scope(span.instrumentation_scope),
        )

    def _attributes(self, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
        return {key: value for key, value in (attributes or {}).items() if self._says({key: value})}

    def _says(self, attributes: dict[str, Any]) -> bool:
        try:
            return len(self._write([_probe(attributes=attributes)])) > self._bare
        except Exception:  # noqa: BLE001 - that is the question
            return False

    def _event(self, event: Event) -> Event:
        if self._writes(_probe(events=[event])):
            return event
        attributes = self._attributes(event.attributes)
        at, dropped = _bound(event.timestamp, _UINT64), _bound(event.dropped_attributes, _UINT32)
        return KeptEvent(_text(event.name), attributes, at, dropped)

    def _link(self, link: Link) -> Link | None:
        if self._writes(_probe(links=[link])):
            return link
        attributes, dropped = self._attributes(link.attributes), _bound(link.dropped_attributes, _UINT32)
        mended = KeptLink(link.context, attributes, dropped)
        return mended if self._writes(_probe(links=[mended])) else None

    def _status(self, status: Status) -> Status:
        if self._writes(_probe(status=status)):
            return status
        code = status.status_code if isinstance(status.status_code, StatusCode) else StatusCode.UNSET
        return KeptStatus(code, _text(status.description or ""))

    def _state(self, state: TraceState) -> TraceState:
        if self._writes(_probe(context=SpanContext(1, 1, is_remote=False, trace_state=state))):
            return state
        return KeptState(_text(state.to_header()))

    def _resource(self, resource: Resource) -> Resource:
        def mended() -> Resource:
            return KeptResource(self._attributes(resource.attributes), _text(resource.schema_url))

        part: Resource = self._part(resource, "resource", mended)
        return part

    def _scope(self, scope: InstrumentationScope | None) -> InstrumentationScope | None:
        def mended() -> InstrumentationScope | None:
            if scope is None:
                return None
            attributes = self._attributes(scope.attributes)
            return KeptScope(_text(scope.name), _text(scope.version or ""), _text(scope.schema_url), attributes)

        part: InstrumentationScope | None = self._part(scope, "instrumentation_scope", mended)
        return part

    def _part(self, part: Any, field: str, mend: Callable[[], Any]) -> Any:
        if id(part) not in self._parts:
            mended = part if self._writes(_probe(**{field: part})) else mend()
            self._parts[id(part)] = part, mended
        return self._parts[id(part)][1]


def _probe(**fields: Any) -> ReadableSpan:
    return KeptSpan(**{"name": "", "context": _SOME, "resource": _NOBODY, **fields})


def _text(text: object) -> str:
    """The text without what UTF-8 cannot say, as the escapes of a string literal."""
    return str("" if text is None else text).encode("utf-8", "backslashreplace").decode()


def _bound(number: Any, most: int) -> int:
    return min(max(int(number or 0), 0), most)
