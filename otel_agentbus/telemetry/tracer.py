"""Our tracer: an SDK tracer that takes the ids and the sampling decision of one span at a time from us.

The SDK has no argument for either, but its tracers have a public id generator and a public sampler. Both are wrapped
once on the tracer of our own scope; what is set for one `start_span` is thread-local and used up by it, everything else
passes through. (A ContextVar or plain attributes mix up ids between two bridges; measured.)
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, Span, SpanKind, Tracer, TracerProvider, TraceState
from opentelemetry.util.types import Attributes

from .._version import __version__

SCOPE = "otel_agentbus"


class Prepared(NamedTuple):
    """The ids and the decision of the one span that is about to be started."""

    trace_id: int
    span_id: int
    random: bool
    decision: Decision
    trace_state: TraceState | None


class _OneShot(threading.local):
    prepared: Prepared | None = None


_one_shot = _OneShot()
_tracers: WeakKeyDictionary[TracerProvider, Tracer] = WeakKeyDictionary()


class PreparedIds(IdGenerator):
    """The ids that were prepared, else the inner generator's."""

    def __init__(self, inner: IdGenerator) -> None:
        self.inner = inner

    def generate_trace_id(self) -> int:
        prepared = _one_shot.prepared
        return self.inner.generate_trace_id() if prepared is None else prepared.trace_id

    def generate_span_id(self) -> int:
        prepared = _one_shot.prepared
        if prepared is None:
            return self.inner.generate_span_id()
        _one_shot.prepared = None  # the last thing asked: a processor that starts a span of its own must not get it
        return prepared.span_id

    def is_trace_id_random(self) -> bool:
        prepared = _one_shot.prepared
        return self.inner.is_trace_id_random() if prepared is None else prepared.random


class PreparedSampler(Sampler):
    """The decision that was made in the caller, once for the whole tree, else the inner sampler's."""

    def __init__(self, inner: Sampler) -> None:
        self.inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        prepared = _one_shot.prepared
        if prepared is None:
            return self.inner.should_sample(parent_context, trace_id, name, kind, attributes, links)
        return SamplingResult(prepared.decision, attributes, prepared.trace_state)

    def get_description(self) -> str:
        return self.inner.get_description()


def our_tracer(provider: TracerProvider) -> Tracer:
    """The tracer of our scope, prepared where it is the SDK's.

    It is remembered, so that the wrapping happens once, and so that the child of a fork need not ask again: the
    provider has a lock, which another thread may have held at the fork.
    """
    try:
        tracer = _tracers.get(provider)
    except TypeError:  # a provider that has no weak references
        return _prepared(provider)
    if tracer is None:
        tracer = _prepared(provider)
        if can_prepare(tracer):  # another vendor's may hold its provider, which would then never be freed
            _tracers[provider] = tracer
    return tracer


def _prepared(provider: TracerProvider) -> Tracer:
    tracer = provider.get_tracer(SCOPE, __version__)
    if can_prepare(tracer):
        sdk: Any = tracer
        if not isinstance(sdk.id_generator, PreparedIds):
            sdk.id_generator = PreparedIds(sdk.id_generator)
        if not isinstance(sdk.sampler, PreparedSampler):
            sdk.sampler = PreparedSampler(sdk.sampler)
    return tracer


def can_prepare(tracer: Tracer) -> bool:
    """Whether this tracer takes ids and a decision from us: the SDK's does, another vendor's may not."""
    return isinstance(getattr(tracer, "id_generator", None), IdGenerator) and isinstance(
        getattr(tracer, "sampler", None), Sampler
    )


def start_prepared(
    tracer: Tracer,
    prepared: Prepared,
    name: str,
    context: Context,
    kind: SpanKind,
    attributes: Attributes,
    links: Sequence[Link],
    start_ns: int,
) -> Span:
    """Start one span with these ids and this decision."""
    _one_shot.prepared = prepared
    try:
        return tracer.start_span(name, context, kind, attributes, links, start_ns)
    finally:
        _one_shot.prepared = None
