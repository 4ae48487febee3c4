"""Model calls, each told once.

LlamaIndex's models call themselves: `achat` calls `chat`, `chat` calls `complete`, a subclass its base class, a wrapper
its model; each of these is a span with events of its own, about one call. The outermost opens the block, the innermost
fills and ends it; what is called after that is another call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from functools import partial
from typing import Any

from ... import observe
from ...blocks import Block
from ...invocation import make_current, top, topmost
from ..losses import Shielded
from .answers import Answer
from .kinds import model_of, provider_of
from .mapping import asked, parameters_of
from .places import Places, Span
from .streams import Streams

_UNSEEN = Shielded("the answer of a model in LlamaIndex could not be observed")


class Call:
    """One model call, told by one span or by several that are nested."""

    __slots__ = ("answer", "block", "ended", "id", "spans", "told")

    def __init__(self, id: str, block: observe.LlmBlock) -> None:
        self.id = id
        self.block = block
        self.answer = Answer()
        #: The spans that tell of it, the innermost last.
        self.spans = [id]
        #: Those spans whose events tell of the call; a model that lacks LlamaIndex's decorator tells none.
        self.told: set[str] = set()
        self.ended: Callable[[], None] | None = None

    def ask(self, instance: Any) -> None:
        """It is this model that is asked, whatever its wrapper is called."""
        with _UNSEEN:
            model, provider = model_of(instance), provider_of(instance)
            if model != self.block.model:
                self.block.record(model=model)
                if provider is not None:
                    self.block.record(model_provider=provider)


class Calls:
    """The model calls that are open."""

    def __init__(self, places: Places, streams: Streams) -> None:
        self._places = places
        self._streams = streams
        self._by_span: dict[str, Call] = {}
        self._by_block: dict[str, Call] = {}

    def __len__(self) -> int:
        return len(self._by_block)

    def begin(
        self,
        id: str,
        method: str,
        instance: Any,
        arguments: Mapping[str, Any],
        parent: Span | None,
        under: str | None = None,
    ) -> Call:
        """The call that this span tells of: a new one (under an open block), or the one that a span around it began."""
        around, within = self._around(parent)
        if around is not None and within == around.spans[-1]:
            around.spans.append(id)
            self._by_span[id] = around
            around.ask(instance)
            self._places.hold(id, around.id)
            return around
        block = _block(method, instance, arguments)
        if around is None:
            self._places.begin(id, block, under=under)
        else:  # a wrapper asks several models at a time: the first is told as its own call, this is another one
            before = topmost()
            make_current(around.block.parent)
            try:
                self._places.begin(id, block, held=False)
            finally:
                make_current(before)
            self._places.hold(id, id)
        call = Call(id, block)
        self._by_span[id] = self._by_block[block.id] = call
        return call

    def of_span(self, id: str | None) -> Call | None:
        """The open call that this span tells of."""
        return None if id is None else self._by_span.get(id)

    def _around(self, parent: Span | None) -> tuple[Call | None, str | None]:
        """The call inside of which this code runs, and the innermost of its spans that is around it.

        It runs in the span's function or, where a stream does its work only when it is read, in a step of that.
        """
        here = top()
        call = self._by_block.get(here.id) if isinstance(here, Block) and here.kind == "llm" else None
        if call is None:
            running = self._streams.running()
            if running is None or not isinstance(running[1], Call):
                return None, None
            return running[1], running[0]
        while parent is not None and parent.id not in call.spans:
            parent = parent.parent
        return call, call.spans[-1] if parent is None else parent.id

    # -- what LlamaIndex tells of them --------------------------------------------------------------------------------

    def told(self, id: str) -> None:
        """Events will tell of the call's answer."""
        call = self._by_span.get(id)
        if call is not None:
            call.told.add(id)

    def chunk(self, id: str, response: Any) -> None:
        """A chunk of the answer is here; of several spans that tell of it, the innermost is heard."""
        call = self._by_span.get(id)
        if call is None:
            return
        call.block.first_chunk()
        if call.spans[-1] == id:
            with _UNSEEN:
                call.answer.hear(response)

    def answered(self, id: str, response: Any) -> None:
        """The whole answer is here or, of a stream, its last chunk."""
        call = self._by_span.get(id)
        if call is not None:
            with _UNSEEN:
                if response is not None and response is not call.answer.last:
                    call.answer.hear(response)
            self.end(call)

    def failed(self, id: str, error: BaseException) -> None:
        """The call has raised, or nobody wants the rest of its stream."""
        call = self._by_span.get(id)
        if call is not None:
            self.end(call, error)

    def streaming(self, id: str, generator: Any) -> None:
        """The function has given its stream, which nobody may ever read to its end."""
        call = self._by_span.get(id)
        if call is not None:
            self._streams.add(id, generator, call, partial(self.failed, id, GeneratorExit()))

    def end(self, call: Call, error: BaseException | None = None) -> None:
        """The call is over, for whichever of the spans that tell of it."""
        if self._by_block.pop(call.block.id, None) is None:
            return
        for id in call.spans:
            self._by_span.pop(id, None)
            self._streams.remove(id)
        fields: dict[str, Any] = {}
        with _UNSEEN:
            fields = call.answer.told()
            fields["messages"] = call.answer.messages()
        self._places.end(call.id, error, fields)
        if call.ended is not None:
            call.ended()


class ModelSpan(Span):
    """One function of a model that asks it."""

    __slots__ = ("_calls", "_places", "_streams", "call")

    def __init__(
        self, id: str, parent: Span | None, call: Call, calls: Calls, places: Places, *, streams: bool
    ) -> None:
        super().__init__(id, parent)
        self.call = call
        self._calls = calls
        self._places = places
        self._streams = streams

    def exit(self, result: Any) -> None:
        """The answer is here, or a stream of it."""
        self._places.release(self.id)
        if self._streams and self.id in self.call.told and isinstance(result, (Generator, AsyncGenerator)):
            self._calls.streaming(self.id, result)
        elif self._streams:  # whether and when it ends nobody tells
            call = self._calls.of_span(self.id)
            if call is not None:
                self._calls.end(call)
        else:
            self._calls.answered(self.id, result)

    def drop(self, error: BaseException) -> None:
        """The call has failed, or was cancelled."""
        self._places.release(self.id)
        self._calls.failed(self.id, error)


def _block(method: str, instance: Any, arguments: Mapping[str, Any]) -> observe.LlmBlock:
    messages = parameters = None
    given = arguments.get("kwargs")
    with _UNSEEN:
        messages = asked(arguments)
    with _UNSEEN:
        parameters = parameters_of(instance, given if isinstance(given, Mapping) else {})
    return observe.llm(
        model_of(instance),
        provider=provider_of(instance),
        operation="text_completion" if method.endswith("complete") else "chat",
        stream=True if _is_stream(method) else None,
        messages=messages,
        parameters=parameters,
    )


def _is_stream(method: str) -> bool:
    return method.startswith(("stream_", "astream_"))


__all__ = ["Call", "Calls", "ModelSpan"]
