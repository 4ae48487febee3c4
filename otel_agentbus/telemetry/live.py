"""Blocks on a tracer that is not the SDK's: it takes no ids from us, so each block makes its real span itself.

Ids are then the provider's own: what is sent again is not identical (`doctor` says so). Events that come without a
block make no spans there; metrics and handlers are what they are everywhere.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, get_current_span, set_span_in_context

from ..events import AgentEnd, Event, LlmResponse, ToolCall
from .content import ContentPolicy
from .conventions import Conventions
from .current import Block, CallerTracing
from .ids import Ids
from .writer import begin_with


class LiveTracing(CallerTracing):
    """Makes the spans of blocks in the caller, at once."""

    def __init__(self, tracer: Tracer, ids: Ids, conventions: Conventions, policy: ContentPolicy) -> None:
        super().__init__(lambda: tracer, ids, begin_with(conventions))
        self._live = tracer
        self._conventions = conventions
        self._policy = policy

    def decide(self, start: Event, root_id: str) -> tuple[str | None, str | None]:
        """Nothing: the provider's sampler is asked when the span starts."""
        return None, None

    def open(self, block: Block, start: Event) -> Any:
        """Start the block's span and make it current here."""
        told = self._policy.apply(start)
        name, attributes = self._begin(told)
        base = block.base = get_current()
        parent = _span_of(getattr(block, "parent", None))
        context: Context = base if parent is None else set_span_in_context(parent, base)
        kind = SpanKind.CLIENT if block.kind == "llm" else SpanKind.INTERNAL
        attributes = {**self._content(told), **attributes}
        span = self._live.start_span(name, context, kind, attributes, start_time=start.time_ns)
        attach(set_span_in_context(span, base))
        return span

    def close(self, block: Block, end: Event) -> None:
        """End the block's span, and make current what was."""
        span = block.span
        if not isinstance(span, Span):
            return
        here = get_current()
        if get_current_span(here) is span:
            attach(set_span_in_context(get_current_span(block.base), here))
        told = self._policy.apply(end)
        span.set_attributes({**self._content(told), **self._said(told)})
        error = self._conventions.error_of(told)
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error[1]))
        span.end(end.time_ns)

    def _content(self, told: Event) -> dict[str, Any]:
        return dict(self._conventions.content_attributes(told)) if self._policy.on_spans else {}

    def _said(self, end: Event) -> dict[str, Any]:
        if isinstance(end, AgentEnd):
            return dict(self._conventions.agent_end(end))
        if isinstance(end, LlmResponse):
            return dict(self._conventions.llm_end(end))
        return dict(self._conventions.tool_end(end)) if isinstance(end, ToolCall) else {}


def _span_of(frame: Any) -> Span | None:
    while frame is not None:
        span = getattr(frame, "span", None)
        if isinstance(span, Span):
            return span
        frame = getattr(frame, "parent", None)
    return None
