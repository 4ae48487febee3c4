"""What one agent of a conversation is doing: the turn of the main one, or one run of a sub-agent."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from ...callbacks import OpenBlocks
from ..losses import Shielded
from . import mapping
from .calls import Call
from .mapping import Raw


class Cancelled(BaseException):
    """How we end what was left: it is no `Exception`, so it is no error."""


class Run:
    """One agent: at most one model call at a time, then the tools that it has asked for."""

    def __init__(
        self, blocks: OpenBlocks, key: Hashable, model: str | None, provider: str, *, stream: bool, limit: int | None
    ) -> None:
        self.key = key
        self.model = model
        self.provider = provider
        #: The tools that have not given their results yet.
        self.waiting: set[str] = set()
        #: What was said so far, each message converted once.
        self.history: list[dict[str, Any]] = []
        self.answers = 0
        self._blocks = blocks
        self._stream = stream
        self._limit = limit
        self._call: Call | None = None
        self._said: str | None = None

    def ask(self) -> None:
        """The program now asks the model, unless it waits for tools, or has used up its turns."""
        if self._call is None and not self.waiting and (self._limit is None or self.answers < self._limit):
            self._begin()

    def _begin(self) -> Call:
        call = self._call = Call(self.model, self.provider, self._stream, self.history)
        self._blocks.begin((self.key, "call"), call, parent=self.key, current=False)
        return call

    def _call_of(self, id: str | None) -> Call | None:
        """The call that a message of this id is the answer of; None where that is over."""
        call = self._call
        if id is not None and id == self._said:
            return call if call is not None and call.answered else None
        self.settle()
        self._said = id
        self.answers += 1
        return self._call or self._begin()

    def tell(self, line: Raw) -> None:
        """One message of the model's: a part of an answer, with what is known of all of it."""
        message = line.get("message") or {}
        id = message.get("id")
        fresh = id is None or id != self._said
        call = self._call_of(id)
        parts = mapping.parts_of(mapping.blocks_of(line))
        last = self.history[-1] if self.history else {}
        if not fresh and last.get("role") == "assistant":
            last["parts"].extend(parts)
        else:
            self.history.append({"role": "assistant", "parts": parts})
        if call is None:
            return
        call.tell(message)
        if line.get("error"):
            call.record(error_type=line["error"], error_message=_text(parts), outcome="error")
            self.answer()
        elif message.get("stop_reason"):
            self.answer()

    def partial(self, event: Raw) -> None:
        """One event of an answer that is streamed."""
        self._stream = True
        kind = event.get("type")
        begins = kind == "message_start"
        call = self._call_of((event.get("message") or {}).get("id")) if begins else self._call
        if call is not None and kind != "ping" and call.partial(event):
            self.answer()

    def answer(self, error: BaseException | None = None) -> None:
        """The model call is over."""
        call, self._call = self._call, None
        if call is None:
            return
        fields: dict[str, Any] = {}
        with Shielded("what a model call of Claude Code says could not be read"):
            fields = call.fields()
        self._blocks.end((self.key, "call"), error, **fields)

    def settle(self) -> None:
        """What was asked for by now has been done: an answer that has come is whole."""
        if self._call is not None and self._call.answered:
            self.answer()

    def close(self, error: BaseException | None = None) -> None:
        """The agent is over: a call whose answer is there has ended, any other was left or has failed."""
        call = self._call
        whole = call is not None and call.answered and bool(self.waiting or call.finish or not self._stream)
        self.answer(None if whole else error or Cancelled())


def _text(parts: list[dict[str, Any]]) -> str | None:
    texts = [str(part["content"]) for part in parts if part["type"] == "text"]
    return " ".join(texts) or None
