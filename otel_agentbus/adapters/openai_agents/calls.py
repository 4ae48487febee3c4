"""One model call as its run's hooks and its span tell of it, and what went wrong in a span."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from ... import observe
from ...callbacks import MOST
from ...invocation import text
from ...observe import LlmBlock
from . import mapping
from .mapping import Asked

V = TypeVar("V")

#: What the SDK notes on an agent's span that has used up its turns.
MAX_TURNS = "Max turns exceeded"


class Call:
    """What is known of a model call before it is made; each try of it is a block of its own."""

    def __init__(
        self, asked: Asked, messages: list[Any] | None, count: int | None, *, streamed: bool, content: bool
    ) -> None:
        self.asked = asked
        self.messages = messages
        self.count = count
        self.streamed = streamed
        self.content = content

    @classmethod
    def of_span(cls, data: Any) -> Call:
        """A call without a run: a generation span tells its model at once, a response span nothing."""
        config = getattr(data, "model_config", None) or {}
        model = getattr(data, "model", None)
        provider = mapping.of_host(config.get("base_url")) or "openai"
        return cls(Asked(model, provider, mapping.parameters(dict(config))), None, None, streamed=False, content=True)

    def block(self) -> LlmBlock:
        """A block for one try of it."""
        asked = self.asked
        return observe.llm(
            asked.model,
            provider=asked.provider,
            stream=True if self.streamed else None,
            messages=self.messages,
            messages_count=self.count,
            parameters=asked.parameters,
        )


def failure_of(span: Any, error: BaseException | None, raised: BaseException | None) -> dict[str, Any]:
    """What the SDK says of an error that it has caught, where no exception tells it better.

    A model's time-out reaches its span as the cancellation by which the SDK ends the call, and a stream that tells of
    its failure is closed before that is raised.
    """
    said = span.error
    if raised is not None or isinstance(error, Exception) or not said:
        return {}
    given, message = said.get("data"), said.get("message")
    data = given if isinstance(given, dict) else {}
    told = text(data.get("error") or data.get("message") or message)
    return {"outcome": "error", "error_type": _kind(error, message, data), "error_message": told}


def _kind(error: BaseException | None, message: Any, data: dict[str, Any]) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "agents.exceptions.ModelTimeoutError"
    if isinstance(error, GeneratorExit):
        return "agents.exceptions.ModelBehaviorError"
    if message == MAX_TURNS:
        return "agents.exceptions.MaxTurnsExceeded"
    name = data.get("name")
    return name if isinstance(name, str) else "agents.tracing.SpanError"


class Kept(dict[str, V]):
    """What is kept by the ids of open spans; never so much that those which never end would fill the memory."""

    def keep(self, id: str, value: V) -> None:
        """Keep one more, and forget the oldest where there are too many."""
        while len(self) >= MOST:
            self.pop(next(iter(self)), None)
        self[id] = value


__all__ = ["MAX_TURNS", "Call", "Kept", "failure_of"]
