"""Blocks on a tracer that is not the SDK's: it takes no ids from us, so each block makes its real span itself.

Ids are then the provider's own: what is sent again is not identical (`doctor` says so). Events that come without a
block make no spans there; metrics and handlers are what they are everywhere.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import (
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from ..events import AgentEnd, Event, LlmResponse, ToolCall
from .accounts import Account
from .baggage import outside, withheld
from .content import ContentPolicy
from .conventions import Conventions
from .current import SPAN_KEY, Block, CallerTracing
from .ids import Ids
from .places import span_data
from .writer import begin_with, links_in

_log = logging.getLogger("otel_agentbus.live")


class LiveTracing(CallerTracing):
    """Makes the spans of blocks in the caller, at once."""

    def __init__(
        self,
        tracer: Tracer,
        ids: Ids,
        conventions: Conventions,
        policy: ContentPolicy,
        source: str,
        before: CallerTracing | None,
        account: Callable[[LlmResponse], Account] | None = None,
    ) -> None:
        super().__init__(lambda: tracer, ids, begin_with(conventions), before.baggage.names if before else ())
        if before is not None:
            before.instead = self
        self._live = tracer
        self._conventions = conventions
        self._policy = policy
        self._source = source
        self._account = account

    def decide(self, start: Event, root_id: str) -> tuple[str | None, str | None]:
        """Nothing: the provider's sampler is asked when the span starts."""
        return None, None

    def open(self, block: Block, start: Event) -> Any:
        """Start the block's span and make it current here; without one, if the provider fails."""
        base = block.base = get_current()
        try:
            span = self._start(block, start, base)
        except Exception:  # noqa: BLE001 - the provider is foreign code on the agent's path
            _log.warning("A block's span could not be started", exc_info=True)
            return None
        attach(set_span_in_context(span, withheld(base) if block.kind == "llm" else base))
        return span

    def _in_tree(self, above: SpanContext, run: Any, call: str | None) -> SpanContext:
        """What is current: ids are the provider's own, and no other can be told."""
        return above

    def _start(self, block: Block, start: Event, base: Context) -> Span:
        told = self._policy.apply(start)
        name, attributes = self._begin(told)
        run = getattr(getattr(block, "_run", None), "span", None)  # its own, where another thread knows of none
        if isinstance(run, Span) and run.get_span_context().trace_id != _current_trace_id(base):
            base = set_span_in_context(run, base)
        return self._live.start_span(
            name,
            base,
            SpanKind.CLIENT if block.kind == "llm" else SpanKind.INTERNAL,
            {**self._content(told), **attributes},
            links_in(span_data(told)),
            start_time=start.time_ns,
        )

    def close(self, block: Block, end: Event) -> None:
        """End the block's span, and make current what was."""
        span = block.span
        if not isinstance(span, Span):
            return
        _leave(block, span)
        if getattr(block, "_source", None) != self._source:
            return  # this is a fork's child: the parent will end it
        try:
            self._finish(span, end)
        except Exception:  # noqa: BLE001 - the provider is foreign code on the agent's path
            _log.warning("A block's span could not be told how it ended", exc_info=True)
        finally:
            _end(span, end.time_ns)

    def _finish(self, span: Span, end: Event) -> None:
        told = self._policy.apply(end)
        error = self._conventions.error_of(told)
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error[1]))
        exception = self._conventions.exception(told)
        if exception is not None:
            span.add_event(exception[0], exception[1], timestamp=end.time_ns)
        span.set_attributes({**self._content(told), **self._said(told)})

    def _content(self, told: Event) -> dict[str, Any]:
        return dict(self._conventions.content_attributes(told)) if self._policy.on_spans else {}

    def _said(self, end: Event) -> dict[str, Any]:
        if isinstance(end, AgentEnd):
            return dict(self._conventions.agent_end(end))
        if isinstance(end, LlmResponse):
            if self._account is not None:
                end = copy.copy(end)  # the ledger, which has not seen it yet, will give it an account of its own
                end.account = self._account(end)
            return dict(self._conventions.llm_end(end))
        return dict(self._conventions.tool_end(end)) if isinstance(end, ToolCall) else {}


def _current_trace_id(context: Context) -> int:
    return get_current_span(context).get_span_context().trace_id


def _leave(block: Block, span: Span) -> None:
    """Make current what was, where this span still is; blocks may have ended in another order than they began."""
    here, before, above = get_current(), block.base, getattr(block, "parent", None)
    if here.get(SPAN_KEY) is not span:
        return
    while above is not None and above.ended and before.get(SPAN_KEY) is getattr(above, "span", None):
        before, above = getattr(above, "base", before), above.parent
    if block.kind == "llm":  # which began without what carriers have brought
        attach(outside(here, before, SPAN_KEY))
        return
    others = here.keys() - {SPAN_KEY}
    untouched = others == before.keys() - {SPAN_KEY} and all(here[key] is before[key] for key in others)
    attach(before if untouched else set_span_in_context(get_current_span(before), here))


def _end(span: Span, end_ns: int | None) -> None:
    try:
        span.end(end_ns)
    except Exception:  # noqa: BLE001 - the provider is foreign code on the agent's path
        _log.warning("A block's span could not be ended", exc_info=True)
