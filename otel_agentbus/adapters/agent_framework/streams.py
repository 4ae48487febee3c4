"""A streamed run or answer, observed by the hooks of agent-framework's own stream: it stays the same object.

Its block is current while the stream is pulled, innermost, and not between two pulls, when the consumer has the floor.
It ends once: with the stream, with what a pull raises, when the stream is closed, or when nobody holds it any more.
"""

from __future__ import annotations

import contextvars
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ...blocks import Block
from ...callbacks import hold
from ..losses import Shielded

UNSEEN = Shielded("something that agent-framework did could not be observed")
#: What the end of a stream says, by its updates.
Said = Callable[[Sequence[Any]], dict[str, Any]]


class Following:
    """What is kept of one stream that is observed; it does not keep the stream alive."""

    def __init__(self, block: Block, said: Said, ended: Callable[[], None]) -> None:
        self.block = block
        self._home = contextvars.copy_context()
        self._over = False
        self._said = said
        self._ended = ended
        self._stream: weakref.ref[Any] | None = None
        self._innermost = False

    def begin(self) -> None:
        """Begin the block under what is current here, and leave this place as it is."""
        self._home.run(self.block.start)

    def follow(self, stream: Any) -> None:
        """Listen to the stream."""
        self._stream = weakref.ref(stream)
        stream.with_pull_context_manager(self._pulled).with_cleanup_hook(self._cleaned_up)
        weakref.finalize(stream, self._dropped).atexit = False

    def end(self, error: BaseException | None) -> None:
        """It is over; a second end has no effect."""
        if self._over:
            return
        self._over = True
        with UNSEEN:
            said = self._said(self._updates())
            self.block.record(**{key: value for key, value in said.items() if value is not None})
        with UNSEEN:
            self._home.run(self.block.end, error)
            self._ended()

    def _updates(self) -> Sequence[Any]:
        """What has come so far: as it came, where the framework holds it back until its end."""
        stream = None if self._stream is None else self._stream()
        return () if stream is None else getattr(stream, "_updates", None) or stream.updates

    def _pulled(self) -> AbstractContextManager[Any]:
        """Around each pull. The first one registers what is to be innermost: all others have registered by then."""
        with UNSEEN:
            stream = None if self._stream is None else self._stream()
            if not self._innermost and stream is not None:
                self._innermost = True
                stream.with_pull_context_manager(lambda: _Pull(self))
        return nullcontext()

    def _cleaned_up(self) -> None:
        stream = None if self._stream is None else self._stream()
        error = getattr(stream, "_stream_error", None)
        self.end(error or GeneratorExit())  # one that went to its end has ended before

    def _dropped(self) -> None:
        self.end(GeneratorExit())


class _Pull:
    """One pull of a stream: its block is current inside."""

    def __init__(self, following: Following) -> None:
        self._following = following
        self._leave: Callable[[], None] | None = None

    def __enter__(self) -> None:
        with UNSEEN:
            if not self._following.block.ended:
                self._leave = hold(self._following.block)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with UNSEEN:
            if self._leave is not None:
                self._leave()
            first_chunk = getattr(self._following.block, "first_chunk", None)
            if error is None:
                if first_chunk is not None:
                    first_chunk()
            elif isinstance(error, StopAsyncIteration):
                self._following.end(None)
            else:
                self._following.end(error)
