"""Spans as plain Python values, out of OTLP/JSON: Jaeger's API answers it, the Collector's file exporter writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from collections.abc import Iterator

Value: TypeAlias = "str | bool | int | float | list[Value] | dict[str, Value] | None"

KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUSES = ("UNSET", "OK", "ERROR")


@dataclass(frozen=True)
class Event:
    """A span event."""

    name: str
    time_ns: int
    attributes: dict[str, Value]


@dataclass(frozen=True)
class Link:
    """A span's link to another span."""

    trace_id: str
    span_id: str
    attributes: dict[str, Value]


@dataclass(frozen=True)
class Span:
    """A span as a backend has it: ids as hex, times as nanoseconds since the epoch."""

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str | None
    start_ns: int
    end_ns: int
    kind: str
    status: str
    status_message: str
    attributes: dict[str, Value]
    events: tuple[Event, ...]
    links: tuple[Link, ...]
    flags: int
    trace_state: str
    scope: str
    resource: dict[str, Value]

    @property
    def duration(self) -> float:
        """Seconds."""
        return (self.end_ns - self.start_ns) / 1e9


class _Message(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="allow")  # what is not read here is still passed on


class _AnyValue(_Message):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | None = None  # a string on the wire
    double_value: float | None = None
    bytes_value: str | None = None
    array_value: _Array | None = None
    kvlist_value: _KeyValues | None = None

    def plain(self) -> Value:
        if self.array_value is not None:
            return [value.plain() for value in self.array_value.values]
        if self.kvlist_value is not None:
            return _plain(self.kvlist_value.values)
        scalars = (self.string_value, self.bool_value, self.int_value, self.double_value, self.bytes_value)
        return next((value for value in scalars if value is not None), None)


class _Array(_Message):
    values: list[_AnyValue] = []


class _KeyValue(_Message):
    key: str
    value: _AnyValue = Field(default_factory=_AnyValue)


class _KeyValues(_Message):
    values: list[_KeyValue] = []


class _Event(_Message):
    name: str = ""
    time_unix_nano: int = 0
    attributes: list[_KeyValue] = []


class _Link(_Message):
    trace_id: str
    span_id: str
    attributes: list[_KeyValue] = []


class _Status(_Message):
    code: int = 0
    message: str = ""


class _Span(_Message):
    trace_id: str
    span_id: str
    parent_span_id: str = ""
    trace_state: str = ""
    flags: int = 0
    name: str = ""
    kind: int = 0
    start_time_unix_nano: int = 0
    end_time_unix_nano: int = 0
    attributes: list[_KeyValue] = []
    events: list[_Event] = []
    links: list[_Link] = []
    status: _Status = Field(default_factory=_Status)

    def plain(self, scope: str, resource: dict[str, Value]) -> Span:
        return Span(
            name=self.name,
            trace_id=self.trace_id,
            span_id=self.span_id,
            parent_span_id=self.parent_span_id or None,
            start_ns=self.start_time_unix_nano,
            end_ns=self.end_time_unix_nano,
            kind=KINDS[self.kind],
            status=STATUSES[self.status.code],
            status_message=self.status.message,
            attributes=_plain(self.attributes),
            events=tuple(Event(event.name, event.time_unix_nano, _plain(event.attributes)) for event in self.events),
            links=tuple(Link(link.trace_id, link.span_id, _plain(link.attributes)) for link in self.links),
            flags=self.flags,
            trace_state=self.trace_state,
            scope=scope,
            resource=resource,
        )


class _Scope(_Message):
    name: str = ""


class _ScopeSpans(_Message):
    scope: _Scope = Field(default_factory=_Scope)
    spans: list[_Span] = []


class _Resource(_Message):
    attributes: list[_KeyValue] = []


class _ResourceSpans(_Message):
    resource: _Resource = Field(default_factory=_Resource)
    scope_spans: list[_ScopeSpans] = []


class ExportRequest(_Message):
    """The body of one OTLP export of traces."""

    resource_spans: list[_ResourceSpans] = []

    def spans(self) -> Iterator[Span]:
        """The spans with what they inherit: their scope's name and their resource's attributes."""
        for resource_spans in self.resource_spans:
            resource = _plain(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    yield span.plain(scope_spans.scope.name, resource)

    def of_trace(self, *trace_ids: str) -> ExportRequest:
        """The same request with the spans of these traces alone."""
        copy = self.model_copy(deep=True)
        for resource_spans in copy.resource_spans:
            for scope_spans in resource_spans.scope_spans:
                scope_spans.spans = [span for span in scope_spans.spans if span.trace_id in trace_ids]
        return copy


def _plain(pairs: list[_KeyValue]) -> dict[str, Value]:
    return {pair.key: pair.value.plain() for pair in pairs}
