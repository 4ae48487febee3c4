"""What Strands runs in steps, observed: runs, model calls and tool calls, each current in its own steps only.

A run's body is an async generator that its consumer drives, in the consumer's own context: so a run is never made
current there, and what belongs to it is found by its agent and its state. A call is current in each step of its own
generator, and never between two, when the consumer has the floor.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import get_current_span

from ...blocks import Block
from ...callbacks import OpenBlocks, hold
from ...observe import LlmBlock
from ..losses import Shielded
from ..tool_ids import ToolCallIds
from . import mapping

UNSEEN = Shielded("something that Strands Agents did could not be observed")
_FIRST = ("contentBlockDelta", "contentBlockStart")


class Run:
    """One run of an agent, a graph or a swarm, from its first hook event to its last."""

    __slots__ = ("calls", "conversation", "handling", "node", "source", "state", "tool_call_id")

    def __init__(self, source: Any, state: Any) -> None:
        self.source = source
        self.state = state
        #: The calls that have begun in it and not ended: a stream that is left leaves them so.
        self.calls: set[Steps] = set()
        self.conversation = mapping.Conversation()
        #: What was being handled around the run when it began, and is no failure of its own.
        self.handling = sys.exc_info()[1]
        #: The node of a swarm that runs now.
        self.node: str | None = None
        self.tool_call_id = ToolCallIds()


class Steps:
    """The steps of one generator, in each of which its block is current, and in none of its consumer's."""

    def __init__(self, open: OpenBlocks) -> None:
        self.open = open
        self.run: Run | None = None
        self.block: Block | None = None
        self._leave: Callable[[], None] | None = None

    def begin(self, block: Block, run: Run | None) -> None:
        """Begin the block, current from here on until the step ends."""
        self.block = self.open.begin(self, block, parent=run, current=False)
        if self.block is not None:
            self.run = run
            if run is not None:
                run.calls.add(self)
            self._hold()

    def end(self, error: BaseException | None, **fields: Any) -> None:
        """End the block; a second end has no effect."""
        if self.block is not None:
            self._release()
            self.block = None
            self.open.end(self, error, **fields)
            if self.run is not None:
                self.run.calls.discard(self)

    def enter(self) -> None:
        """A step begins."""
        self._hold()

    def leave(self) -> None:
        """A step is over: this place is the consumer's again."""
        self._release()

    def saw(self, event: Any) -> None:
        """The generator has yielded this."""

    def _hold(self) -> None:
        if self.block is not None and self._leave is None:
            self._leave = hold(self.block)

    def _release(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


#: The tool call in whose steps this code runs.
running_tool: ContextVar[ToolCalling | None] = ContextVar("otel_agentbus.adapters.strands.tool", default=None)


class ModelCall(Steps):
    """One call of a model."""

    def __init__(self, open: OpenBlocks, model_state: Any) -> None:
        super().__init__(open)
        self._model_state = model_state if isinstance(model_state, Mapping) else {}
        self._answered = self._model_state.get("response_id")

    def saw(self, event: Any) -> None:
        """A chunk, or what the model call came to."""
        chunk = event.get("event")
        if isinstance(chunk, Mapping):
            self._hear(chunk)
        elif "stop" in event:
            answered = self._model_state.get("response_id")
            response_id = answered if answered != self._answered else None
            said = {}
            with UNSEEN:
                said = mapping.llm_end(event["stop"])
            self.end(None, response_id=response_id, **said)

    def _hear(self, chunk: Mapping[str, Any]) -> None:
        if not isinstance(self.block, LlmBlock):
            return
        if any(key in chunk for key in _FIRST):
            self.block.first_chunk()
        used = (chunk.get("metadata") or {}).get("usage")
        if used and any(used.values()):  # it holds even if the stream fails, or is left, before its end
            self.block.record(**mapping.usage(used))


class ToolCalling(Steps):
    """One call of a tool, with its attempts: each is a block of its own, begun and ended by the hook events.

    Where Strands records no spans, those that it makes current around a tool stand for ours, and tools that run one
    after another leave them with the consumer between two chunks: then that place is put back as it was.
    """

    def __init__(self, open: OpenBlocks) -> None:
        super().__init__(open)
        self._before: ToolCalling | None = None
        self._outside: Context | None = None
        self._inside: Context | None = None
        self._span_id = 0

    def begin(self, block: Block, run: Run | None) -> None:
        """An attempt begins."""
        super().begin(block, run)
        if block.span is not None:
            self._span_id = block.span.get_span_context().span_id

    def enter(self) -> None:
        """A step begins."""
        self._before, self._outside = running_tool.get(), get_current()
        running_tool.set(self)
        if self._inside is not None:
            attach(self._inside)
        self._hold()

    def leave(self) -> None:
        """A step is over."""
        self._release()
        running_tool.set(self._before)
        here, self._inside = get_current(), None
        if self._outside is not None and get_current_span(here).get_span_context().span_id == self._span_id:
            self._inside = here
            attach(self._outside)


class ToolBody(Steps):
    """The steps of a tool's own code: inside a span of Strands' own, which may be recorded, ours is the current one."""

    def __init__(self, calling: ToolCalling) -> None:
        super().__init__(calling.open)
        self.block = calling.block

    def end(self, error: BaseException | None, **fields: Any) -> None:
        """Nothing: the hook events end the call."""


async def stepwise(stream: AsyncIterable[Any], steps: Steps) -> AsyncGenerator[Any, None]:
    """What the stream yields, with what `steps` has begun current inside it and never outside.

    It is a generator of Strands', or whatever somebody else's wrap has made of that.
    """
    error: BaseException | None = GeneratorExit()
    close: Callable[[], Awaitable[None]] | None = getattr(stream, "aclose", None)
    try:
        iterator = aiter(stream)
        while True:
            with UNSEEN:
                steps.enter()
            try:
                event = await anext(iterator)
                with UNSEEN:
                    steps.saw(event)
            except StopAsyncIteration:
                error = None
                return
            finally:
                with UNSEEN:
                    steps.leave()
            yield event
    except BaseException as raised:
        error = raised
        raise
    finally:
        try:
            if close is not None:
                await close()
        finally:
            with UNSEEN:
                steps.end(error)
