"""The hooks: a span handler and an event handler on LlamaIndex's root dispatcher, put there and taken out again.

The dispatcher swallows whatever a handler raises, so a budget that is to stop a call could not: for that alone, and
after its handlers were asked, `Dispatcher.span_enter` is wrapped.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

from llama_index_instrumentation import root_dispatcher
from llama_index_instrumentation.dispatcher import Dispatcher, active_instrument_tags
from llama_index_instrumentation.event_handlers import BaseEventHandler, NullEventHandler
from llama_index_instrumentation.events.span import SpanDropEvent
from llama_index_instrumentation.span import active_span_id
from llama_index_instrumentation.span_handlers import BaseSpanHandler, NullSpanHandler
from pydantic import PrivateAttr

from ...errors import BudgetExceeded
from ..losses import Shielded
from ..wrapping import wrap
from .observer import Observer
from .places import Span

_UNSEEN = Shielded("something in LlamaIndex could not be observed")


class AgentBusSpans(BaseSpanHandler[Any]):
    """Hears of every function of LlamaIndex that is called."""

    _observer: Observer = PrivateAttr()
    _refused: dict[str, BudgetExceeded] = PrivateAttr(default_factory=dict)
    _closed: Callable[[], None] = PrivateAttr()

    def __init__(self, observer: Observer, closed: Callable[[], None]) -> None:
        super().__init__()
        self._observer = observer
        self._closed = closed

    @classmethod
    def class_name(cls) -> str:
        """Its name in LlamaIndex."""
        return "AgentBusSpans"

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> AgentBusSpans:
        """Itself: whoever copies an agent copies the dispatcher with it, and the copy is to be seen as well."""
        return self

    def new_span(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any = None,
        parent_span_id: str | None = None,
        tags: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """A function is called; gives what we keep of it."""
        span: Span | None = None
        try:
            with _UNSEEN:
                parent = None if parent_span_id is None else self.open_spans.get(parent_span_id)
                span = self._observer.begin(
                    id_, instance, bound_args.arguments, parent, tags or active_instrument_tags.get()
                )
        except BudgetExceeded as refusal:
            self._refused[id_] = refusal
        return span

    def prepare_to_exit_span(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any = None,
        result: Any = None,
        **kwargs: Any,
    ) -> Any:
        """It has returned."""
        span = self.open_spans.get(id_)
        if span is not None:
            with _UNSEEN:
                span.exit(result)
        return span

    def prepare_to_drop_span(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any = None,
        err: BaseException | None = None,
        **kwargs: Any,
    ) -> Any:
        """It has raised."""
        span = self.open_spans.get(id_)
        if span is not None:
            with _UNSEEN:
                span.drop(GeneratorExit() if err is None else err)
        return span

    def span_exit(self, id_: str, *args: Any, **kwargs: Any) -> None:
        """As LlamaIndex's own; what was open is over, and after `off()` perhaps the last of it."""
        super().span_exit(id_, *args, **kwargs)
        self._closed()

    def span_drop(self, id_: str, *args: Any, **kwargs: Any) -> None:
        """As `span_exit`."""
        super().span_drop(id_, *args, **kwargs)
        self._closed()

    def refusal(self, id: str) -> BudgetExceeded | None:
        """Why the call of this span is not to be made, told once."""
        return self._refused.pop(id, None) if self._refused else None


class AgentBusEvents(BaseEventHandler):
    """Hears of everything that LlamaIndex says in between."""

    _observer: Observer = PrivateAttr()
    _spans: AgentBusSpans = PrivateAttr()
    _closed: Callable[[], None] = PrivateAttr()

    def __init__(self, observer: Observer, spans: AgentBusSpans, closed: Callable[[], None]) -> None:
        super().__init__()
        self._observer = observer
        self._spans = spans
        self._closed = closed

    @classmethod
    def class_name(cls) -> str:
        """Its name in LlamaIndex."""
        return "AgentBusEvents"

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> AgentBusEvents:
        """As `AgentBusSpans.__deepcopy__`."""
        return self

    def handle(self, event: Any, **kwargs: Any) -> None:
        """One event, in the place where it happens."""
        with _UNSEEN:
            self._observer.hear(event, self._spans.open_spans.get(event.span_id or ""))
        self._closed()


class Instrumentation:
    """What `instrument` has put on the root dispatcher, until `off()`."""

    def __init__(self) -> None:
        self._observer = Observer()
        self._spans = AgentBusSpans(self._observer, self._leave)
        self._events = AgentBusEvents(self._observer, self._spans, self._leave)
        #: Whether the application had handlers of its own there; they go on as they were.
        self.chained = any(
            not isinstance(handler, (NullSpanHandler, NullEventHandler))
            for handler in (*root_dispatcher.span_handlers, *root_dispatcher.event_handlers)
        )
        root_dispatcher.add_span_handler(self._spans)
        root_dispatcher.add_event_handler(self._events)
        self._lock = threading.Lock()
        self._undo: Callable[[], None] | None = wrap(Dispatcher, "span_enter", self._stopping)

    def off(self) -> None:
        """Observe nothing new; the handlers leave as soon as what has begun is over."""
        self._observer.on = False
        self._leave()

    def _leave(self) -> None:
        if self._observer.on or self._spans.open_spans or self._observer.is_busy:
            return
        with self._lock:
            undo, self._undo = self._undo, None
        if undo is None:
            return
        undo()
        root_dispatcher.span_handlers = [h for h in root_dispatcher.span_handlers if h is not self._spans]
        root_dispatcher.event_handlers = [h for h in root_dispatcher.event_handlers if h is not self._events]

    def _stopping(self, found: Callable[..., Any]) -> Callable[..., Any]:
        def span_enter(dispatcher: Dispatcher, id_: str, *args: Any, **kwargs: Any) -> None:
            found(dispatcher, id_, *args, **kwargs)
            refusal = self._spans.refusal(id_)
            if refusal is not None:
                _drop(dispatcher, id_, kwargs, refusal)
                raise refusal

        return span_enter


def _drop(dispatcher: Dispatcher, id: str, told: dict[str, Any], refusal: BudgetExceeded) -> None:
    """Let the other handlers see the end of a span whose function is not called, and what was current before it."""
    active_span_id.set(told.get("parent_id"))
    with _UNSEEN:
        dispatcher.event(SpanDropEvent(span_id=id, err_str=str(refusal)))
        dispatcher.span_drop(id, told["bound_args"], instance=told.get("instance"), err=refusal)


def instrument() -> Instrumentation:
    """Observe everything in this process that speaks to LlamaIndex's root dispatcher."""
    return Instrumentation()


__all__ = ["AgentBusEvents", "AgentBusSpans", "Instrumentation", "instrument"]
