"""What LlamaIndex tells, sorted: which of its spans are runs, model calls and tool calls, and which are nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from ... import observe
from ...blocks import surrounding
from ...events import DomainEvent
from ...invocation import Boundary
from .engines import Engine
from .kinds import METHODS, Kind, kind_of
from .models import Calls, ModelSpan
from .places import Places, Span
from .runs import Run, Step
from .streams import Streams
from .tools import Embedding, Tools

Arguments = Mapping[str, Any]

#: What a step's function belongs to, where LlamaIndex says it. Anything else may be called in a place where older
#: versions have left a run as its parent that was only started there.
_STEPPED: Final = frozenset((None, "agent", "team", "workflow"))


class Observer:
    """Turns LlamaIndex's spans and events into blocks; every method may raise what is ours."""

    def __init__(self) -> None:
        #: Whether what belongs to nothing that is open is observed.
        self.on = True
        self.places = Places()
        self.streams = Streams()
        self.calls = Calls(self.places, self.streams)
        self._tools = Tools(self.places)
        self._openers: Final[dict[Kind, Callable[..., Span]]] = {
            "model": self._model,
            "embedding": self._embedding,
            "tool": self._tool,
            "agent": self._run,
            "team": self._run,
            "workflow": self._run,
            "engine": self._engine,
        }

    @property
    def is_busy(self) -> bool:
        """Whether something has begun that LlamaIndex will tell the end of by no span."""
        return len(self.calls) > 0 or len(self.streams) > 0

    # -- spans --------------------------------------------------------------------------------------------------------

    def begin(
        self, id: str, instance: Any, arguments: Arguments, parent: Span | None, tags: Mapping[str, Any] | None
    ) -> Span | None:
        """A function of LlamaIndex is called; raises `BudgetExceeded` where a budget is to stop it."""
        if parent is None and not self.on:
            return None
        method = id[:-37].rpartition(".")[2]  # the class, a dot, the function, a hyphen, a UUID
        kind = None if instance is None else kind_of(instance)
        if kind is None or method not in METHODS[kind]:
            if isinstance(parent, Run) and kind in _STEPPED:
                return self._step(id, method, arguments, parent)
            return self._other(id, kind, method, parent)
        return self._openers[kind](id, parent, method, instance, arguments, tags)

    def _other(self, id: str, kind: Kind | None, method: str, parent: Span | None) -> Span:
        if kind == "embedding" and isinstance(parent, Embedding) and method.startswith(("_get_", "_aget_")):
            parent.begin()
        return Span(id, parent)

    def _step(self, id: str, method: str, arguments: Arguments, run: Run) -> Span:
        step = Step(id, run, self.places)
        tool = step.begin(method, arguments)
        if tool is not None:
            self._tools.know(tool)
            step.ended = partial(self._tools.forget, tool)
        return step

    def _model(self, id: str, parent: Span | None, method: str, instance: Any, arguments: Arguments, tags: Any) -> Span:
        running = self.streams.running()
        engine = running[1] if running is not None and isinstance(running[1], Engine) else None
        under = None if engine is None else engine.id  # that asks only now, where its answer is read
        call = self.calls.begin(id, method, instance, arguments, parent, under)
        streams = method.startswith(("stream_", "astream_"))
        engine = engine or _engine_of(parent)
        if streams and call.id == id and engine is not None:
            engine.follow(call)
        return ModelSpan(id, parent, call, self.calls, self.places, streams=streams)

    def _embedding(
        self, id: str, parent: Span | None, method: str, instance: Any, arguments: Arguments, tags: Any
    ) -> Span:
        if isinstance(parent, Embedding):
            return Span(id, parent)
        return Embedding(id, parent, method, instance, arguments, self.places)

    def _tool(self, id: str, parent: Span | None, method: str, instance: Any, arguments: Arguments, tags: Any) -> Span:
        return self._tools.begin(id, parent, method, instance, arguments)

    def _run(self, id: str, parent: Span | None, method: str, instance: Any, arguments: Arguments, tags: Any) -> Span:
        told = kind_of(instance) != "workflow" or _is_root()
        run = Run(id, parent, instance, self.places, told=told)
        run.begin(arguments, tags)
        return run

    def _engine(
        self, id: str, parent: Span | None, method: str, instance: Any, arguments: Arguments, tags: Any
    ) -> Span:
        if not _is_root():
            return Span(id, parent)
        engine = Engine(id, parent, self.places, self.streams)
        engine.begin(instance, arguments, tags)
        return engine

    # -- events -------------------------------------------------------------------------------------------------------

    def hear(self, event: Any, span: Span | None) -> None:
        """An event of LlamaIndex, with its span if that is open."""
        heard = _HEARD.get(type(event).__name__)
        if heard is not None:
            heard(self, event, span)

    def _asked(self, event: Any, span: Span | None) -> None:
        self.calls.told(event.span_id)

    def _chunk(self, event: Any, span: Span | None) -> None:
        self.calls.chunk(event.span_id, event.response)

    def _answered(self, event: Any, span: Span | None) -> None:
        self.calls.answered(event.span_id, event.response)

    def _failed(self, event: Any, span: Span | None) -> None:
        self.calls.failed(event.span_id, event.exception)

    def _cancelled(self, event: Any, span: Span | None) -> None:
        if isinstance(span, Run):
            span.cancelled = True

    def _retrieved(self, event: Any, span: Span | None) -> None:
        self._found("retrieval", event)

    def _reranked(self, event: Any, span: Span | None) -> None:
        self._found("rerank", event)

    def _found(self, name: str, event: Any) -> None:
        runtime = observe.installed()
        if runtime is not None and (self.on or surrounding() is not None):
            runtime.emit(DomainEvent(name=name, data={"documents": len(event.nodes)}))


_HEARD: Final[dict[str, Callable[[Observer, Any, Span | None], None]]] = {
    "LLMChatStartEvent": Observer._asked,
    "LLMCompletionStartEvent": Observer._asked,
    "LLMChatInProgressEvent": Observer._chunk,
    "LLMCompletionInProgressEvent": Observer._chunk,
    "LLMChatEndEvent": Observer._answered,
    "LLMCompletionEndEvent": Observer._answered,
    "ExceptionEvent": Observer._failed,
    "SpanCancelledEvent": Observer._cancelled,
    "RetrievalEndEvent": Observer._retrieved,
    "ReRankEndEvent": Observer._reranked,
}


def _is_root() -> bool:
    """Whether nothing is current here that what begins now would belong to."""
    frame = surrounding()
    return frame is None or isinstance(frame, Boundary)


def _engine_of(span: Span | None) -> Engine | None:
    while span is not None and not isinstance(span, Engine):
        span = span.parent
    return span


__all__ = ["Observer"]
