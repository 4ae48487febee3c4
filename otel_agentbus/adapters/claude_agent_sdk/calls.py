"""The model calls of one agent: begun when the program asks, ended by the last line that has to do with them."""

from __future__ import annotations

from typing import Any

from ...blocks import clock
from ...calls import LlmBlock
from ...runtime import Runtime
from . import mapping
from .mapping import Raw


class Call(LlmBlock):
    """A model call that was over at its last line; that there is no further one, only a later line tells."""

    __slots__ = ("blocks", "finish", "response", "seen_ns", "usage")

    def __init__(self, model: str | None, provider: str, stream: bool, messages: list[Any]) -> None:
        LlmBlock.__init__(self, None, model, provider, None, "chat", stream, list(messages), None, None, {})
        self.response: dict[str, Any] = {}
        self.blocks: list[Raw] = []
        self.usage: dict[str, Any] = {}
        self.finish: str | None = None
        self.seen_ns = 0

    @property
    def answered(self) -> bool:
        """Whether anything of an answer has come."""
        return bool(self.seen_ns)

    def tell(self, message: Raw) -> None:
        """One message of the answer: each content block comes as one of its own, with the same id and usage."""
        self.seen_ns = clock.perf_counter_ns()
        self._head(message)
        self.blocks.extend(mapping.blocks_of({"message": message}))
        self._more(message.get("usage"), message.get("stop_reason"))

    def partial(self, event: Raw) -> bool:
        """One event of the stream; gives whether it was the last."""
        kind = event.get("type")
        self.seen_ns = clock.perf_counter_ns()
        self.first_chunk()
        if kind == "message_start":
            message = event.get("message") or {}
            self._head(message)
            self._more(message.get("usage"), None)
        elif kind == "message_delta":
            self._more(event.get("usage"), (event.get("delta") or {}).get("stop_reason"))
        return kind == "message_stop"

    def fields(self) -> dict[str, Any]:
        """What its end event says."""
        parts = mapping.parts_of(self.blocks)
        told = {
            **self.response,
            **mapping.usage_fields(self.usage),
            "finish_reasons": None if self.finish is None else [self.finish],
            "messages": [{"role": "assistant", "parts": parts}] if parts else None,
        }
        return {name: value for name, value in told.items() if value is not None}

    def _head(self, message: Raw) -> None:
        model, id = mapping.text(message.get("model")), mapping.text(message.get("id"))
        if model and model != mapping.SYNTHETIC:
            self.response["response_model"] = model
            if id:
                self.response["response_id"] = id

    def _more(self, usage: Any, finish: str | None) -> None:
        if self.response:  # what the program says itself has used nothing
            mapping.merged(self.usage, usage)
        self.finish = mapping.text(finish) or self.finish

    def _tell_end(self, runtime: Runtime, elapsed: int, error: BaseException | None) -> Any:
        if self.seen_ns and error is None:
            elapsed = self.seen_ns - self._began
        return LlmBlock._tell_end(self, runtime, elapsed, error)
