"""pydantic-ai's spans as our blocks: an implementation of OpenTelemetry's tracing API that emits events.

It is no provider of spans: a run, a model call and a tool call become a block each, whose derived span is the one that
is current inside; every other span passes through unseen. Where the application had set up instrumentation before, its
own tracer gets every span as ever, and its spans are the ones that are current.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage
from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
    use_span,
)

from ...errors import BudgetExceeded
from ...observe import Block, installed
from ..losses import Shielded
from ..tool_ids import ToolCallIds
from . import mapping
from .mapping import REQUEST_MODEL, RUN_ID, Conversation, Kind

if TYPE_CHECKING:
    from opentelemetry.trace import _Links
    from opentelemetry.util.types import Attributes, AttributeValue
    from pydantic_ai.messages import ModelResponse

#: What pydantic-ai puts into the baggage of instrumented runs; baggage leaves the process with every HTTP call.
_BAGGAGE = ("gen_ai.agent.name", RUN_ID, "gen_ai.conversation.id")

#: A durable engine never ends the spans of what it has only replayed; the state of that many runs is kept, newest last.
_MAX_RUNS = 10_000

_UNSEEN = Shielded("a span of pydantic-ai could not be observed")


class RunState:
    """What is kept while a run lasts: its converted messages, its providers, and which tool call ids it has used."""

    def __init__(self) -> None:
        self.conversation = Conversation()
        self.providers: set[str] = set()
        self.tool_call_id = ToolCallIds()


class ObservedSpan(Span):
    """A run, model call or tool call of the framework's: tells our block what it says, and the application's span."""

    def __init__(self, tracer: ObservingTracer, kind: Kind, attributes: Attributes, previous: Span | None) -> None:
        self.kind = kind
        self._said: dict[str, Any] = dict(attributes or {})
        self.previous = previous
        self.block: Block | None = None
        #: The context in which a span lives that was started without being made current.
        self.home: contextvars.Context | None = None
        self._tracer = tracer
        self._outer = get_current_span().get_span_context()
        self._preparing = len(mapping.requests_in_flight())
        self._response: ModelResponse | None = None
        self._failed = False
        self._error: BaseException | None = None
        self._error_type: str | None = None
        self._description: str | None = None
        self._begun = self._over = False

    # -- what the framework calls --------------------------------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Any]:
        """All that was said; pydantic-ai reads it as it reads an SDK span's, with what others said on that."""
        theirs = getattr(self.previous, "attributes", None)
        return {**self._said, **theirs} if theirs else self._said

    def get_span_context(self) -> SpanContext:
        """The span that is current inside: the application's own where it has one, else the one that is exported."""
        if self.previous is not None and (context := self.previous.get_span_context()).is_valid:
            return context
        if self.block is not None and self.block.span is not None:
            span: Span = self.block.span
            return span.get_span_context()
        return self._outer

    def is_recording(self) -> bool:
        if self._over:
            return False
        if self.previous is not None and self.previous.is_recording():
            return True
        return (installed() if self.block is None else self.block.runtime) is not None

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        if self.previous is not None:
            self.previous.set_attributes(attributes)
        with _UNSEEN:
            self._said.update(attributes)
            self.begin()

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        if self.previous is not None:
            self.previous.add_event(name, attributes, timestamp)
        if name == "exception" and attributes:
            self._error_type = str(attributes.get("exception.type"))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        if self.previous is not None:
            self.previous.add_link(context, attributes)

    def update_name(self, name: str) -> None:
        if self.previous is not None:
            self.previous.update_name(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if self.previous is not None:
            self.previous.set_status(status, description)
        code = status.status_code if isinstance(status, Status) else status
        if code is StatusCode.ERROR:
            self._failed = True
            self._description = status.description if isinstance(status, Status) else description

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        if self.previous is not None:
            self.previous.record_exception(exception, attributes, timestamp, escaped)
        self._error = exception

    def end(self, end_time: int | None = None) -> None:
        if self.previous is not None:
            self.previous.end(end_time)
        with _UNSEEN:
            self.finish(None)

    # -- our side ------------------------------------------------------------------------------------------------------

    def answered(self, response: ModelResponse) -> None:
        """The model has answered this."""
        self._response = response

    def begin(self) -> None:
        """Begin the block, as soon as it is known what it is: a model call when the request is about to be sent."""
        if self._begun or self._over or (self.kind == "llm" and REQUEST_MODEL not in self._said):
            return
        self._begun = True
        block = self._new_block()
        self._at_home(block.start)
        self.block = block
        if self.kind == "llm" and self.previous is not None and self.home is None:
            attach(set_span_in_context(self.previous))

    def finish(self, error: BaseException | None) -> None:
        """End the block, with the exception that left it."""
        if self._over:
            return
        self._over = True
        block = self.block
        if block is None:
            return
        with _UNSEEN:
            block.record(**{key: value for key, value in self._end_fields().items() if value is not None})
        self._at_home(block.end, self._ended_by(block, error))
        if self.kind == "agent":
            self._tracer.forget(self._said)

    def _end_fields(self) -> dict[str, Any]:
        content = self._tracer.content
        if self.kind == "agent":
            providers = self._tracer.state_of(self.attributes).providers
            return mapping.agent_end(self.attributes, providers, content=content)
        if self.kind == "tool":
            return mapping.tool_end(self.attributes, content=content)
        return mapping.llm_end(self.attributes, self._response, content=content)

    def _ended_by(self, block: Block, error: BaseException | None) -> BaseException | None:
        if isinstance(error, Exception) and not self._failed:
            return None  # control flow of the framework's, a deferred call say: it has not marked its span as failed
        if error is None and self._failed:
            error = self._error
            if error is None:
                block.record(outcome="error", error_type=self._error_type, error_message=self._description)
        return None if error is None else mapping.cause_of(error)

    def _new_block(self) -> Block:
        content = self._tracer.content
        state = self._tracer.state_of(self.attributes, begins=self.kind == "agent")
        if self.kind == "agent":
            return mapping.agent_block(self.attributes)
        if self.kind == "tool":
            call_id = state.tool_call_id(self.attributes.get("gen_ai.tool.call.id"))
            return mapping.tool_block(self.attributes, call_id, content=content)
        state.providers.add(str(self.attributes.get("gen_ai.provider.name")))
        preparing = mapping.requests_in_flight()
        if len(preparing) <= self._preparing:  # a call made directly, without a run: nothing is known of its input
            return mapping.llm_block(self.attributes)
        request = preparing[-1][0]
        messages = state.conversation.render(request.messages) if content else None
        return mapping.llm_block(self.attributes, messages, request.streaming, len(request.messages))

    def _at_home(self, function: Callable[..., Any], *args: Any) -> None:
        if self.home is None:
            function(*args)
        else:
            self.home.run(function, *args)


class _Current(AbstractContextManager[Span]):
    """An observed span while it is current; leaving restores by plain sets, which no foreign context can refuse."""

    def __init__(self, span: ObservedSpan, used: AbstractContextManager[Span] | None) -> None:
        self._span = span
        self._used = used
        self._before: Context | None = None
        self._inside: Context | None = None

    def __enter__(self) -> Span:
        try:
            with _UNSEEN:
                self._settle_in(held(get_current_span()))
                self._span.begin()
        except BudgetExceeded as refused:
            self._refused(refused)
            raise
        if self._used is not None:
            self._used.__enter__()
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._used is not None:
                self._used.__exit__(kind, error, traceback)
        finally:
            with _UNSEEN:
                self._span.finish(error)
            if self._before is not None and get_current() is self._inside:
                attach(self._before)

    def _refused(self, error: BudgetExceeded) -> None:
        """It has not begun, and nobody will leave it: put back what was current."""
        if self._before is not None:
            attach(self._before)
        previous = self._span.previous
        if previous is not None:
            previous.record_exception(error)
            previous.end()

    def _settle_in(self, holder: ObservedSpan | None) -> None:
        span = self._span
        if holder is not None and holder.home is not None:
            span.home = holder.home.copy()
        if self._used is not None:
            return
        context = before = get_current()
        if span.kind != "agent":
            context = _without_ours(context)
        if span.home is not None:
            context = set_span_in_context(span, context)
        if context is not before:
            self._before, self._inside = before, context
            attach(context)


def _without_ours(context: Context) -> Context:
    """Leave out of the baggage, while a call runs, what pydantic-ai put there only because it is instrumented."""
    for key in _BAGGAGE:
        if baggage.get_baggage(key, context) is not None:
            context = baggage.remove_baggage(key, context)
    return context


def held(span: Span) -> ObservedSpan | None:
    """The observed span, if it is one that lives in a context of its own: a realtime session's, a durable engine's."""
    if isinstance(span, ObservedSpan) and span.home is not None and span.block is not None and not span.block.ended:
        return span
    return None


class ObservingTracer(Tracer):
    """Gives pydantic-ai spans that are our blocks, and the application's tracer the same spans as before."""

    def __init__(self, previous: Tracer | None, *, content: bool) -> None:
        self.previous = previous
        self.content = content
        self.on = True
        self._runs: dict[str, RunState] = {}

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: _Links = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        """A span that is not made current: its block lives in a context of its own."""
        given = (name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception)
        previous = None if self.previous is None else self.previous.start_span(*given)
        observed = self._kind(name, attributes)
        if observed is None:
            return previous or NonRecordingSpan(get_current_span(context).get_span_context())
        span = ObservedSpan(self, observed, attributes, previous)
        with _UNSEEN:
            holder = held(get_current_span(context))
            span.home = contextvars.copy_context() if holder is None or holder.home is None else holder.home.copy()
            span.begin()
        return span

    def start_as_current_span(  # type: ignore[override]  # a context manager, if not the API's private class
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: _Links = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> AbstractContextManager[Span]:
        """A span that is current until the `with` is left; its block with it."""
        given = (name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception)
        observed = self._kind(name, attributes)
        if observed is None:
            if self.previous is not None:
                return self.previous.start_as_current_span(*given, end_on_exit)
            return nullcontext(NonRecordingSpan(get_current_span(context).get_span_context()))
        previous = None if self.previous is None else self.previous.start_span(*given)
        used = None
        if previous is not None:
            used = use_span(previous, end_on_exit, record_exception, set_status_on_exception)
        return _Current(ObservedSpan(self, observed, attributes, previous), used)

    def state_of(self, attributes: Mapping[str, Any], *, begins: bool = False) -> RunState:
        """What is kept of the run that these attributes name; a run that is not known has nothing kept."""
        run = attributes.get(RUN_ID)
        state = self._runs.get(run) if run else None
        if state is None:
            state = RunState()
            if begins and run:
                while len(self._runs) >= _MAX_RUNS:
                    del self._runs[next(iter(self._runs))]
                self._runs[run] = state
        return state

    def forget(self, attributes: Mapping[str, Any]) -> None:
        """That run is over."""
        self._runs.pop(attributes.get(RUN_ID, ""), None)

    def _kind(self, name: str, attributes: Attributes) -> Kind | None:
        given = attributes or {}
        return mapping.kind_of(name, given) if self.on or given.get(RUN_ID) in self._runs else None
