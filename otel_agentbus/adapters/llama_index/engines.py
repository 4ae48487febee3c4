"""Query engines, chat engines and retrievers that no agent has called: each a run, so that its calls are one tree."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any

from ... import observe
from ..losses import Shielded
from .mapping import conversation_of, outcome, question
from .models import Call
from .places import Places, Span
from .streams import Streams

_UNSEEN = Shielded("the answer of an engine of LlamaIndex could not be observed")
_QUESTIONS = ("str_or_query_bundle", "message")


class Engine(Span):
    """One question to an engine. Where that streams its answer, it is over when the model's last stream is."""

    __slots__ = ("_fields", "_is_lazy", "_is_over", "_lock", "_open", "_places", "_streams")

    def __init__(self, id: str, parent: Span | None, places: Places, streams: Streams) -> None:
        super().__init__(id, parent)
        self._places = places
        self._streams = streams
        self._lock = threading.Lock()
        self._open = 0
        self._is_over = False
        self._is_lazy = False
        self._fields: dict[str, Any] = {}

    def begin(self, instance: Any, arguments: Mapping[str, Any], tags: Mapping[str, Any] | None) -> None:
        """Begin its run."""
        asked = next((arguments[name] for name in _QUESTIONS if name in arguments), None)
        block = observe.agent(type(instance).__name__, input=question(asked), conversation_id=conversation_of(tags))
        self._places.begin(self.id, block)

    def follow(self, call: Call) -> None:
        """A stream that was begun here."""
        with self._lock:
            self._open += 1
            self._is_lazy = False
        call.ended = self._streamed

    def _streamed(self) -> None:
        with self._lock:
            self._open -= 1
        self._end_if_over()

    def exit(self, result: Any) -> None:
        """The answer is here, or a stream of it; some ask the model only when they are read."""
        self._places.release(self.id)
        with _UNSEEN:
            if not hasattr(result, "response_gen") and not isinstance(result, list):
                self._fields["output"] = outcome(result)
            stream = getattr(result, "__dict__", {}).get("response_gen")
            if isinstance(stream, (Generator, AsyncGenerator)):
                with self._lock:
                    self._is_lazy = not self._open
                self._streams.add(self.id, stream, self, self._forgotten)
        with self._lock:
            self._is_over = True
        self._end_if_over()

    def _end_if_over(self) -> None:
        with self._lock:
            over = self._is_over and not self._open and not self._is_lazy
        if over:
            self._streams.remove(self.id)
            self._places.end(self.id, None, self._fields)

    def _forgotten(self) -> None:
        with self._lock:
            waits = self._open > 0
        if not waits:
            self._places.end(self.id, GeneratorExit())

    def drop(self, error: BaseException) -> None:
        """It has failed."""
        self._places.release(self.id)
        self._places.end(self.id, error)


__all__ = ["Engine"]
