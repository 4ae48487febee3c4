"""Driving an async generator of the framework's while something of ours is current in it, and only in it.

The generator runs in its consumer's context, as it would without us: what it sets there stays, what the consumer sets
there it sees. What is current (our block, OpenTelemetry's context) is set before each step and taken back after it, so
that the consumer never has it between two steps. Before 2.12, ADK left its own spans current there, and made current
again at the end what had been so in its first step; that, too, is kept from the consumer.
"""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import set_span_in_context

from ...blocks import Block
from ...invocation import Frame, make_current, topmost
from ..losses import Shielded

UNSEEN = Shielded("a step of google-adk could not be observed")


class Watch:
    """What is done around the steps of a generator: nothing, where there is nothing to observe."""

    def enter(self) -> Callable[[], None]:
        """A step is about to be taken; gives back what is to be done after it."""
        return stay

    def saw(self, item: Any) -> None:
        """The generator has yielded this."""

    def left(self) -> None:
        """The consumer takes no more; the generator is about to be closed."""

    def end(self, error: BaseException | None) -> None:
        """The generator is over, by this exception or without one."""


class Observed(Watch):
    """A block that lasts as long as a generator: begun here, in a context of its own, and current in each step."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self._home = contextvars.copy_context()
        self._home.run(block.start)
        #: What was current at the end of the last step, to be so in the next one: ADK's own spans, as a rule.
        self._frame: Frame | None = block
        self._context: Context | None = None
        self._over = False

    def enter(self) -> Callable[[], None]:
        frame, context = topmost(), get_current()
        make_current(self._frame)
        span = self.block.span
        if span is not None:
            attach(self._context or set_span_in_context(span, context))

        def leave() -> None:
            self._frame = topmost()
            make_current(frame)
            if span is not None:
                self._context = get_current()
                attach(context)

        return leave

    def fields(self) -> dict[str, Any]:
        """What its end event is to say."""
        return {}

    def end(self, error: BaseException | None) -> None:
        if self._over:
            return
        self._over = True
        try:
            said = {name: value for name, value in self.fields().items() if value is not None}
            if said:
                self.block.record(**said)
        finally:
            self._home.run(self.block.end, error)


def stay() -> None:
    """Nothing has been made current, and nothing is to be taken back."""


async def driven(source: Any, begin: Callable[[], Watch]) -> AsyncGenerator[Any, Any]:
    """What `source` yields, step by step, under what `begin` gives at the first step.

    What is sent or thrown in, and the closing, reach the source as if nobody stood between.
    """
    watch = Watch()
    with UNSEEN:
        watch = begin()
    error: BaseException | None = None
    try:
        steps = source.__aiter__()
        step: Callable[[], Any] = steps.__anext__
        while True:
            try:
                item = await _stepped(watch, step)
            except StopAsyncIteration:
                return
            with UNSEEN:
                watch.saw(item)
            try:
                sent = yield item
            except GeneratorExit:
                with UNSEEN:
                    watch.left()
                await _stepped(watch, getattr(source, "aclose", _nothing))
                raise
            except BaseException as thrown:  # noqa: BLE001 - the source decides what becomes of it
                step = partial(_thrown_into, steps, thrown)
            else:
                step = steps.__anext__ if sent is None else partial(steps.asend, sent)
    except BaseException as raised:
        error = raised
        raise
    finally:
        with UNSEEN:
            watch.end(error)
        error = None  # else what was raised would hold this frame, and this frame what was raised


async def _stepped(watch: Watch, step: Callable[[], Any]) -> Any:
    leave = stay
    with UNSEEN:
        leave = watch.enter()
    try:
        return await step()
    finally:
        with UNSEEN:
            leave()


async def _thrown_into(steps: Any, error: BaseException) -> Any:
    if not hasattr(steps, "athrow"):
        raise error
    return await steps.athrow(error)


async def _nothing() -> None:
    """What closes a source that cannot be closed."""
