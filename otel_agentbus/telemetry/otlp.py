"""Spans as the bytes of one OTLP request and back: what the spool keeps, and what is sent again byte for byte.

The official encoder writes; nothing official reads. What is read here encodes to the same bytes again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from .otlp_spans import KeptEvent, KeptLink, KeptResource, KeptScope, KeptSpan, KeptState, KeptStatus, Pairs

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_log = logging.getLogger("otel_agentbus")

_KINDS = {
    1: SpanKind.INTERNAL,
    2: SpanKind.SERVER,
    3: SpanKind.CLIENT,
    4: SpanKind.PRODUCER,
    5: SpanKind.CONSUMER,
}
_REMOTE = 0x200
_TRACE_FLAGS = 0xFF


class Batch:
    """Spans that travel together, made of spans or of bytes; what is asked for is made once and kept."""

    __slots__ = ("_count", "_data", "_left_out", "_spans")

    def __init__(self, *, spans: Sequence[ReadableSpan] | None = None, data: bytes | None = None) -> None:
        if spans is None and data is None:
            raise TypeError("a batch is made of spans or of data")
        self._spans, self._data = spans, data
        self._count = None if spans is None else len(spans)
        self._left_out = 0

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """The spans."""
        if self._spans is None:
            self._spans = decode(self._data or b"")
        return self._spans

    @property
    def data(self) -> bytes:
        """The spans as one ExportTraceServiceRequest."""
        if self._data is None:
            self._data, self._left_out = encoded(self._spans or ())
            self._count = len(self._spans or ()) - self._left_out
        return self._data

    @property
    def count(self) -> int:
        """How many spans there are; once the data has been made, how many of them are in it."""
        if self._count is None:
            self._count = count(self._data or b"")
        return self._count

    @property
    def left_out(self) -> int:
        """How many of the spans cannot be written as OTLP at all and are not in the data."""
        _ = self.data
        return self._left_out

    def halves(self) -> tuple[Batch, Batch]:
        """The first and the second half of the spans, in order; of a single span the second is empty."""
        first, second = halves(self.data)
        return Batch(data=first), Batch(data=second)


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """The spans as one ExportTraceServiceRequest; what a bad span cannot say is left out, the others stay whole."""
    return encoded(spans)[0]


def encoded(spans: Sequence[ReadableSpan]) -> tuple[bytes, int]:
    """The same, and how many spans could not be written at all."""
    try:
        return _official(spans), 0
    except Exception:  # noqa: BLE001 - one bad span of somebody else must not cost the batch
        from .otlp_repair import Repair

        repair = Repair(_official)
        sound = [mended for span in spans if (mended := repair(span)) is not None]
        left_out = len(spans) - len(sound)
        if left_out:
            _log.warning("%d spans cannot be written as OTLP and are left out", left_out)
        return _official(sound), left_out


def _official(spans: Sequence[ReadableSpan]) -> bytes:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    data: bytes = encode_spans(spans).SerializePartialToString()
    return data


def decode(data: bytes) -> list[ReadableSpan]:
    """The spans of one ExportTraceServiceRequest, in its order; ValueError if it is none."""
    spans: list[ReadableSpan] = []
    resources: set[Resource] = set()
    for of_resource in _parsed(data).resource_spans:
        resource = _resource(of_resource, resources)
        scopes: set[InstrumentationScope | None] = set()
        for in_scope in of_resource.scope_spans:
            scope = _scope(in_scope, scopes)
            spans += [_span(span, resource, scope) for span in in_scope.spans]
    return spans


def count(data: bytes) -> int:
    """How many spans are in one ExportTraceServiceRequest; ValueError if it is none."""
    return _count(_parsed(data))


def halves(data: bytes) -> tuple[bytes, bytes]:
    """Two requests with the first and the second half of its spans; of a single span the second is empty."""
    request = _parsed(data)
    total = _count(request)
    middle = (total + 1) // 2
    return _part(request, 0, middle), _part(request, middle, total)


def _count(request: ExportTraceServiceRequest) -> int:
    return sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)


def _parsed(data: bytes) -> ExportTraceServiceRequest:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    try:
        request: ExportTraceServiceRequest = ExportTraceServiceRequest.FromString(data)
    except DecodeError as error:
        raise ValueError(f"these bytes are no OTLP request: {error}") from error
    return request


def _part(request: ExportTraceServiceRequest, start: int, stop: int) -> bytes:
    """The spans from start up to stop, each under its own resource and scope."""
    part = type(request)()
    position = 0
    for of_resource in request.resource_spans:
        copied = None
        for in_scope in of_resource.scope_spans:
            size = len(in_scope.spans)
            wanted = in_scope.spans[max(start - position, 0) : max(stop - position, 0)]
            position += size
            if not wanted:
                continue
            if copied is None:
                copied = part.resource_spans.add(schema_url=of_resource.schema_url)
                copied.resource.CopyFrom(of_resource.resource)
            here = copied.scope_spans.add(schema_url=in_scope.schema_url)
            here.scope.CopyFrom(in_scope.scope)
            here.spans.extend(wanted)
    data: bytes = part.SerializePartialToString()
    return data


def _resource(of_resource: Any, seen: set[Resource]) -> Resource:
    attributes = _attributes(of_resource.resource.attributes)
    resource = Resource(attributes, of_resource.schema_url)
    if _differ(resource.attributes, attributes) or resource in seen:
        return KeptResource(attributes, of_resource.schema_url)
    seen.add(resource)
    return resource


def _scope(in_scope: Any, seen: set[InstrumentationScope | None]) -> InstrumentationScope | None:
    told, url = in_scope.scope, in_scope.schema_url
    attributes = _attributes(told.attributes)
    scope = None
    if told.name or told.version or url or attributes:
        scope = InstrumentationScope(told.name, told.version or None, url, attributes)
    if (scope is not None and _differ(scope.attributes, attributes)) or scope in seen:
        return KeptScope(told.name, told.version, url, attributes)
    seen.add(scope)
    return scope


def _differ(cleaned: Mapping[str, Any] | None, attributes: Mapping[str, Any]) -> bool:
    """Whether the SDK's cleaning has changed what was read."""
    return list((cleaned or {}).items()) != list(attributes.items())


def _span(span: Any, resource: Resource, scope: InstrumentationScope | None) -> ReadableSpan:
    trace_id = int.from_bytes(span.trace_id, "big")
    # Only sampled spans leave, and the official encoder does not write the trace's own flags.
    flags = TraceFlags(span.flags & _TRACE_FLAGS or TraceFlags.SAMPLED)
    state = _state(span.trace_state)
    parent = None
    if span.parent_span_id:
        above = int.from_bytes(span.parent_span_id, "big")
        parent = SpanContext(trace_id, above, bool(span.flags & _REMOTE), flags, state)
    return KeptSpan(
        (span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count),
        name=span.name,
        context=SpanContext(trace_id, int.from_bytes(span.span_id, "big"), False, flags, state),
        parent=parent,
        resource=resource,
        attributes=_attributes(span.attributes),
        events=[_event(event) for event in span.events],
        links=[_link(link) for link in span.links],
        kind=_KINDS.get(span.kind, SpanKind.INTERNAL),
        status=_status(span.status),
        start_time=span.start_time_unix_nano,
        end_time=span.end_time_unix_nano,
        instrumentation_scope=scope,
    )


def _event(event: Any) -> Event:
    return KeptEvent(event.name, _attributes(event.attributes), event.time_unix_nano, event.dropped_attributes_count)


def _link(link: Any) -> Link:
    flags = TraceFlags(link.flags & _TRACE_FLAGS or TraceFlags.SAMPLED)
    ids = int.from_bytes(link.trace_id, "big"), int.from_bytes(link.span_id, "big")
    context = SpanContext(*ids, bool(link.flags & _REMOTE), flags, _state(link.trace_state))
    return KeptLink(context, _attributes(link.attributes), link.dropped_attributes_count)


def _state(text: str) -> TraceState:
    if not text:
        return TraceState()
    pairs = [(key, value) for key, _, value in (pair.partition("=") for pair in text.split(","))]
    state = TraceState(pairs)
    return state if state.to_header() == text else KeptState(text)


def _status(status: Any) -> Status:
    code = StatusCode(status.code) if status.code in {0, 1, 2} else StatusCode.UNSET
    if code is StatusCode.ERROR or not status.message:
        return Status(code, status.message or None)
    return KeptStatus(code, status.message)


def _attributes(pairs: Any) -> Mapping[str, Any]:
    read = [(pair.key, _value(pair.value)) for pair in pairs]
    unique = dict(read)
    return unique if len(unique) == len(read) else Pairs(read)


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_value(item) for item in value.array_value.values)
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return None if kind is None else getattr(value, kind)
