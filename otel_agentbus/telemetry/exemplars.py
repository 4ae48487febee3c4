"""The span behind a measurement, so that a backend can lead from a histogram's bucket to a trace that fell into it."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from otel_agentbus.events import AgentEnd, LlmResponse, ToolCall

from .current import SPAN_KEY
from .ids import Ids
from .origin import read_origin


class Exemplars:
    """Gives the context in which a measurement is recorded: that of its span, where the span is sampled."""

    def __init__(self, ids: Ids | None) -> None:
        #: Whoever derives the spans' ids; None where a foreign tracer gives them, so that nothing can be linked.
        self.ids = ids

    def of(self, event: AgentEnd | LlmResponse | ToolCall) -> Context | None:
        """The context of the event's span; None where that is not sampled, or its id does not follow from the event."""
        origin = read_origin(event.trace)
        if self.ids is None or origin is None or not origin.sampled or event.root_invocation_id is None:
            return None
        kind, local = "agent", ""
        if isinstance(event, LlmResponse):
            kind, local = "llm", event.call_id or ""
        elif isinstance(event, ToolCall):
            kind, local = "tool", event.tool_call_id or ""
        if not (local or (kind == "agent" and event.invocation_id)):
            return None
        span_id = self.ids.span_id(event.root_invocation_id, kind, event.invocation_id or "", local, event.attempt)
        flags = TraceFlags(origin.flags)
        return Context({SPAN_KEY: NonRecordingSpan(SpanContext(origin.trace_id, span_id, False, flags))})
