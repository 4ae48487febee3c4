"""Asking a tracer's sampler about a tree, once, before its first span is there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import SpanContext, SpanKind

from .origin import RANDOM, SAMPLED, Origin

if TYPE_CHECKING:
    from ..events import Event

#: What samplers may see of the attributes that a program gives.
_PLAIN = frozenset({str, int, float, bool})

#: What a start event says of its span: the name, and the attributes that samplers see.
Begin = Callable[["Event"], tuple[str, dict[str, Any]]]


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
