"""The span behind a measurement, so that a backend can lead from a histogram's bucket to a trace that fell into it."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext, TraceFlags

from otel_agentbus.events import AgentEnd, LlmResponse, ToolCall

from .current import SPAN_KEY
from .ids import Ids
from .origin import read_origin

#: The context of a measurement that has no span. Without it the SDK takes the caller's, and links whatever runs there;
#: an empty one is the same as none to it.
NOWHERE = Context({SPAN_KEY: INVALID_SPAN})


class Exemplars:
    """Gives the context in which a measurement is recorded: that of its span, where the span is sampled."""

    def __init__(self, ids: Ids | None) -> None:
        #: Whoever derives the spans' ids; None where a foreign tracer gives them, so that nothing can be linked.
        self.ids = ids

    def of(self, event: AgentEnd | LlmResponse | ToolCall) -> Context:
        """The context of the event's span; `NOWHERE` if that is not sampled, or its id is not known here."""
        if self.ids is None:
            return NOWHERE
        try:
            return self._of(event, self.ids)
        except (AttributeError, TypeError, ValueError):  # ids that are no texts: nothing of the measurement is lost
            return NOWHERE

    def _of(self, event: AgentEnd | LlmResponse | ToolCall, ids: Ids) -> Context:
        origin = read_origin(event.trace)
        if origin is None or not origin.sampled or not event.root_invocation_id:
            return NOWHERE
        kind, local = "agent", ""
        if isinstance(event, LlmResponse):
            kind, local = "llm", event.call_id or ""
        elif isinstance(event, ToolCall):
            kind, local = "tool", event.tool_call_id or ""
        if not (local or (kind == "agent" and event.invocation_id)):
            return NOWHERE
        span_id = ids.span_id(event.root_invocation_id, kind, event.invocation_id or "", local, event.attempt)
        flags = TraceFlags(origin.flags)
        return Context({SPAN_KEY: NonRecordingSpan(SpanContext(origin.trace_id, span_id, False, flags))})
