"""Spans written as OTLP and read again: everything that the SDK can carry comes back, byte for byte."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from otel_agentbus.telemetry.otlp import Batch, count, decode, encode, encoded, halves

_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_INT64 = st.integers(-(2**63), 2**63 - 1)
_UINT32, _UINT64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
_PLAIN = st.none() | st.booleans() | _INT64 | st.floats() | _TEXT | st.binary(max_size=8)
_VALUES = st.recursive(
    _PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(_TEXT | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=6,
)
_ANYTHING = st.dictionaries(_TEXT, _VALUES, max_size=4)
_FLAGS = st.sampled_from([0, 1, 2, 3]).map(TraceFlags)
_KEYS = st.from_regex(r"[a-z][a-z0-9_*/-]{0,5}(@[a-z][a-z0-9]{0,3})?", fullmatch=True)
_STATES = st.dictionaries(_KEYS, st.from_regex(r"[!-+\--<>-~]{1,8}", fullmatch=True), max_size=4).map(
    lambda pairs: TraceState(list(pairs.items()))
)


@st.composite
def _contexts(draw: st.DrawFn) -> SpanContext:
    ids = draw(st.integers(0, 2**128 - 1)), draw(_UINT64)
    return SpanContext(*ids, draw(st.booleans()), draw(_FLAGS), draw(_STATES))


@st.composite
def _attributes(draw: st.DrawFn) -> Any:
    """Bounded and cleaned as the SDK does it, or a plain mapping as other code may put it there."""
    given_ones: dict[str, Any] = draw(_ANYTHING)
    if not draw(st.booleans()):
        return given_ones
    bounded = BoundedAttributes(
        draw(st.sampled_from([None, 0, 1, 8])), {key: value for key, value in given_ones.items() if key}
    )
    bounded.dropped += draw(st.integers(0, 3))
    return bounded


_EVENTS = st.builds(Event, _TEXT, _attributes(), _UINT64)
_LINKS = st.builds(Link, _contexts(), _attributes())
_STATUSES = st.builds(Status, st.just(StatusCode.ERROR), st.none() | _TEXT) | st.builds(
    Status, st.sampled_from(StatusCode)
)
_RESOURCES = st.builds(Resource, st.dictionaries(_TEXT.filter(bool), _VALUES, max_size=3), st.none() | _TEXT)
_SCOPES = st.none() | st.builds(
    InstrumentationScope,
    _TEXT,
    st.none() | _TEXT,
    st.none() | _TEXT,
    st.none() | st.dictionaries(_TEXT.filter(bool), _VALUES, max_size=2),
)


@st.composite
def _bounded(draw: st.DrawFn, items: st.SearchStrategy[Any]) -> Any:
    listed = BoundedList.from_seq(8, draw(st.lists(items, max_size=3)))
    listed.dropped += draw(_UINT32)
    return listed


@st.composite
def _batches(draw: st.DrawFn) -> list[ReadableSpan]:
    """Some spans, whose resources and scopes are shared, equal, or equal only once they are written."""
    resources = draw(st.lists(_RESOURCES, min_size=1, max_size=3))
    scopes = draw(st.lists(_SCOPES, min_size=1, max_size=3))
    span = st.builds(
        ReadableSpan,
        name=_TEXT,
        context=_contexts(),
        parent=st.none() | _contexts(),
        resource=st.sampled_from(resources),
        attributes=_attributes(),
        events=_bounded(_EVENTS),
        links=_bounded(_LINKS),
        kind=st.sampled_from(SpanKind),
        status=_STATUSES,
        start_time=st.none() | _UINT64,
        end_time=st.none() | _UINT64,
        instrumentation_scope=st.sampled_from(scopes),
    )
    return draw(st.lists(span, max_size=6))


@pytest.fixture(autouse=True)
def _the_sdk_says_what_it_leaves_out() -> Any:
    """It logs every attribute that it cleans away, which is what these tests give it."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@given(_batches())
def test_what_was_read_is_written_with_the_same_bytes(spans: list[ReadableSpan]) -> None:
    data = encode(spans)
    assert encode(decode(data)) == data
    assert count(data) == len(decode(data)) == len(spans)


@given(_batches())
def test_what_is_written_is_what_the_official_encoder_writes(spans: list[ReadableSpan]) -> None:
    assert encode(spans) == encode_spans(spans).SerializePartialToString()


@given(_batches())
def test_two_halves_hold_all_spans_in_order_and_are_written_with_the_same_bytes(spans: list[ReadableSpan]) -> None:
    whole = Batch(data=encode(spans))
    first, second = whole.halves()
    assert _names(first.spans) + _names(second.spans) == _names(whole.spans)
    assert first.count - second.count in {0, 1}
    assert [encode(part.spans) for part in (first, second)] == [first.data, second.data]


def _names(spans: Sequence[ReadableSpan]) -> list[tuple[str, Any, Any]]:
    return [(span.name, span.context, encode([span])) for span in spans]


def test_a_span_of_the_sdk_comes_back_with_everything_that_it_had() -> None:
    [made] = _made_by_the_sdk()
    [read] = decode(encode([made]))
    assert _told(read) == _told(made)


def _made_by_the_sdk() -> Sequence[ReadableSpan]:
    kept = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "a", "list": ["x", "y"]}, "https://schema/1"))
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("scope", "1.2", "https://schema/2", {"of": "scope"})
    state = TraceState([("a", "1=2"), ("b@c", "3")])
    above = SpanContext(2**127 + 1, 2**63 + 1, True, TraceFlags(TraceFlags.SAMPLED), state)
    link = Link(SpanContext(7, 8, is_remote=True), {"linked": True})
    span = tracer.start_span(
        "name",
        set_span_in_context(NonRecordingSpan(above)),
        SpanKind.CLIENT,
        {"text": "", "int": -(2**63), "float": -0.0, "bools": [True, False]},
        [link],
    )
    span.add_event("event", {"at": 1.5}, 5)
    span.set_status(StatusCode.ERROR, "broken")
    span.end()
    return kept.get_finished_spans()


def _told(span: ReadableSpan) -> dict[str, Any]:
    scope = span.instrumentation_scope
    return {
        "name": span.name,
        "context": _ids(span.context),
        "parent": _ids(span.parent),
        "kind": span.kind,
        "times": (span.start_time, span.end_time),
        "status": (span.status.status_code, span.status.description),
        "attributes": dict(span.attributes or {}),
        "events": [(event.name, event.timestamp, dict(event.attributes or {})) for event in span.events],
        "links": [(_ids(link.context)[:3], dict(link.attributes or {})) for link in span.links],
        "resource": span.resource,
        "scope": scope,
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
    }


def _ids(context: SpanContext | None) -> tuple[Any, ...]:
    if context is None:
        return ()
    return context.trace_id, context.span_id, context.is_remote, context.trace_flags.sampled, dict(context.trace_state)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, 2**63 - 1, 0.5, math.inf, "", "é\0", b"", b"\xff", (), (1, None, "x"), {}, {"k": {"l": (b"\0",)}}],
)
def test_every_kind_of_value_comes_back_as_it_was(value: object) -> None:
    data = _request_with(value)
    [read] = decode(data)
    assert dict(read.attributes or {}) == {"key": value}


def _request_with(value: object) -> bytes:
    """Written by hand: what the encoder of an older SDK leaves out may stand in the spool of a newer one."""
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(name="span")
    _fill(span.attributes.add(key="key").value, value)
    return bytes(request.SerializeToString())


def _fill(message: Any, value: object) -> None:
    if isinstance(value, tuple):
        message.array_value.SetInParent()
        for item in value:
            _fill(message.array_value.values.add(), item)
    elif isinstance(value, Mapping):
        message.kvlist_value.SetInParent()
        for key, item in value.items():
            _fill(message.kvlist_value.values.add(key=key).value, item)
    elif value is None:
        message.SetInParent()
    else:
        kind = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value", bytes: "bytes_value"}
        setattr(message, kind[type(value)], value)


def test_not_a_number_comes_back() -> None:
    [read] = decode(encode([_span(attributes={"nan": math.nan})]))
    [value] = (read.attributes or {}).values()
    assert isinstance(value, float)
    assert math.isnan(value)


def test_resources_that_are_written_alike_are_not_thrown_together() -> None:
    huge = Resource({"size": 2**80, "a": 1})  # left out when it is written
    spans = [_span("one", resource=huge), _span("two", resource=Resource({"a": 1})), _span("three", resource=huge)]
    data = encode(spans)
    assert [span.name for span in decode(data)] == ["one", "three", "two"]
    assert encode(decode(data)) == data


def test_what_is_no_request_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no OTLP request"):
        decode(b"\xff\xff\xff\xff")


def test_a_request_cut_anywhere_is_read_or_refused_and_nothing_else_happens() -> None:
    data = encode(_made_by_the_sdk())
    for length in range(len(data)):
        try:
            decode(data[:length])
        except ValueError:
            continue


def test_a_single_span_has_no_second_half() -> None:
    data = encode([_span()])
    assert halves(data) == (data, b"")


def _span(name: str = "span", **fields: Any) -> ReadableSpan:
    told = {"context": SpanContext(1, 2, is_remote=False), "resource": Resource({}), **fields}
    return ReadableSpan(name, **told)


def _deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


def test_what_is_nested_as_deep_as_can_be_written_can_be_read() -> None:
    for levels in range(60):
        data = encode([_span(attributes={"deep": _deep(levels)})])
        assert encode(decode(data)) == data


class _Raising:
    def __repr__(self) -> str:
        raise RuntimeError("no")


_BAD = {
    "huge integer": {"key": 2**64},
    "lone surrogate": {"key": "\ud800"},
    "key with a lone surrogate": {"\ud800": 1},
    "too deep for protobuf": {"key": _deep(60)},
    "too deep for Python": {"key": _deep(5_000)},
    "an object": {"key": object()},
    "an object that raises": {"key": _Raising()},
}


@pytest.mark.parametrize("bad", _BAD.values(), ids=_BAD.keys())
def test_a_bad_attribute_is_left_out_and_nothing_else(bad: dict[str, Any]) -> None:
    spans = [_span("before"), _span("bad", attributes={"good": 1, **bad, "also": "good"}), _span("after")]
    read = decode(encode(spans))
    assert [(span.name, dict(span.attributes or {})) for span in read] == [
        ("before", {}),
        ("bad", {"good": 1, "also": "good"}),
        ("after", {}),
    ]


def test_texts_that_utf_8_cannot_say_are_rendered() -> None:
    bad = _span(
        "na\ud800me",
        status=Status(StatusCode.ERROR, "wr\udfffong"),
        events=[Event("ev\ud800ent", {"x": 1, "y": "\ud800"}, -5)],
        resource=Resource({"a": 1}, "ur\ud800l"),
        instrumentation_scope=InstrumentationScope("sc\ud800ope", "1"),
        start_time=-1,
        end_time=2**70,
    )
    [read] = decode(encode([bad]))
    assert _told(read) == {
        **_told(_span()),
        "name": "na\\ud800me",
        "times": (0, 2**64 - 1),
        "status": (StatusCode.ERROR, "wr\\udfffong"),
        "events": [("ev\\ud800ent", 0, {"x": 1})],
        "resource": Resource({"a": 1}, "ur\\ud800l"),
        "scope": InstrumentationScope("sc\\ud800ope", "1"),
        "context": (1, 2, False, True, {}),
    }


def test_bad_spans_of_one_resource_stay_in_one_group() -> None:
    resource = Resource({"a": 1}, "\ud800")
    data = encode([_span("one", resource=resource), _span("two", resource=resource)])
    assert len(ExportTraceServiceRequest.FromString(data).resource_spans) == 1
    assert encode(decode(data)) == data


@pytest.mark.parametrize("context", [None, SpanContext(-1, 2, is_remote=False), SpanContext(1, 2**64, is_remote=False)])
def test_a_span_without_writable_ids_is_left_out_and_told(context: SpanContext | None) -> None:
    spans = [_span("one"), _span("bad", context=context), _span("two")]
    data, left_out = encoded(spans)
    assert ([span.name for span in decode(data)], left_out) == (["one", "two"], 1)
    batch = Batch(spans=spans)
    assert (batch.left_out, batch.count) == (1, 2)


def test_a_batch_makes_what_is_asked_for_once() -> None:
    spans = [_span("one"), _span("two")]
    data = encode(spans)
    from_spans, from_data = Batch(spans=spans), Batch(data=data)
    assert (from_spans.count, from_spans.data, from_spans.spans) == (2, data, spans)
    assert from_spans.data is from_spans.data
    assert (from_data.count, from_data.data, [span.name for span in from_data.spans]) == (2, data, ["one", "two"])
    assert from_data.spans is from_data.spans
