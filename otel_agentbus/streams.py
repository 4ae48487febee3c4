"""Stepping generators and coroutines in a context of their own, one resumption at a time, without a task.

A generator that holds a block (or anybody's context manager) across `yield` would otherwise set it in whatever context
happens to resume it. Here each resumption runs in the one context that was captured when the stream was made: the
consumer's context is never touched, tokens are always reset where they were set, `asyncio.current_task()` stays what it
is, and timeouts and cancel scopes across a `yield` work.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

if TYPE_CHECKING:
    from contextvars import Context

T = TypeVar("T")

#: Told once how the stream ended: None for its own end, else the exception that ended it.
Ended = Callable[[BaseException | None], None]


class _Steps(Coroutine[Any, Any, Any]):
    """A coroutine-like that resumes `inner` inside `context`, whoever awaits it."""

    __slots__ = ("context", "inner")

    def __init__(self, context: Context, inner: Any) -> None:
        self.context = context
        self.inner = inner

    def __await__(self) -> Generator[Any, Any, Any]:
        return self

    def __iter__(self) -> _Steps:
        return self

    def __next__(self) -> Any:
        return self.context.run(self.inner.send, None)

    def send(self, value: Any) -> Any:
        return self.context.run(self.inner.send, value)

    def throw(self, *error: Any) -> Any:
        return self.context.run(self.inner.throw, *error)

    def close(self) -> None:
        self.context.run(self.inner.close)


async def in_context(context: Context, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
    """Await `function(...)` with every one of its steps inside `context`."""
    result: T = await _Steps(context, context.run(function, *args, **kwargs).__await__())
    return result


def is_coroutine_function(function: Callable[..., Any]) -> TypeGuard[Callable[..., Coroutine[Any, Any, Any]]]:
    """Whether calling it gives a coroutine: an `async def`, a partial of one, an object whose call is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


class _Life:
    """What happens once in a stream's life: its first chunk, its end, and its cleanup where it is dropped."""

    __slots__ = ("dropped", "ended", "first", "over")

    def __init__(self, first: Callable[[], None] | None, ended: Ended | None) -> None:
        self.first = first
        self.ended = ended
        self.over = False
        self.dropped = False

    def chunk(self) -> None:
        if self.first is not None:
            first, self.first = self.first, None
            first()

    def end(self, error: BaseException | None) -> None:
        if not self.over:
            self.over = True
            if self.ended is not None:
                self.ended(error)


class SyncStream(Iterator[T]):
    """A generator or iterator that runs in its own context and tells its end exactly once."""

    def __init__(
        self, source: Iterator[T], context: Context, first: Callable[[], None] | None = None, ended: Ended | None = None
    ) -> None:
        self._source = source
        self._context = context
        self._life = _Life(first, ended)

    def __iter__(self) -> SyncStream[T]:
        return self

    def __next__(self) -> T:
        return self._step(next, self._source)

    def send(self, value: Any) -> T:
        """As `generator.send`."""
        return self._step(self._source.send, value)  # type: ignore[attr-defined]  # only where the source has it

    def throw(self, *error: Any) -> T:
        """As `generator.throw`."""
        return self._step(self._source.throw, *error)  # type: ignore[attr-defined]  # only where the source has it

    def _step(self, resume: Callable[..., T], *args: Any) -> T:
        try:
            value = self._context.run(resume, *args)
        except StopIteration:
            self._end(None)
            raise
        except BaseException as error:
            if not _is_refused(error, getattr(self._source, "gi_running", False)):
                self._end(error)
            raise
        self._life.chunk()
        return value

    def __getattr__(self, name: str) -> Any:
        """What else the source offers (a client's stream has its response, say)."""
        return getattr(self.__dict__["_source"], name)

    def close(self) -> None:
        """Leave the stream early: the source is closed, the outcome is cancelled."""
        close = getattr(self._source, "close", None)
        try:
            if close is not None and not is_coroutine_function(close):
                self._context.run(close)
        except BaseException as error:
            if not _is_refused(error, getattr(self._source, "gi_running", False)):
                self._end(error)
            raise
        self._end(GeneratorExit())

    def _end(self, error: BaseException | None) -> None:
        self._context.run(self._life.end, error)

    def __enter__(self) -> SyncStream[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._life.over and not sys.is_finalizing():
            self.close()


def _is_refused(error: BaseException, running: bool) -> bool:
    """Whether this says only that a step is under way already, which goes on undisturbed."""
    return running and isinstance(error, RuntimeError)


class AsyncStream(AsyncIterator[T]):
    """An async generator or iterator that runs in its own context and tells its end exactly once."""

    def __init__(
        self,
        source: AsyncIterator[T],
        context: Context,
        first: Callable[[], None] | None = None,
        ended: Ended | None = None,
    ) -> None:
        self._source = source
        self._context = context
        self._life = _Life(first, ended)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun = False

    def __aiter__(self) -> AsyncStream[T]:
        return self

    def __anext__(self) -> Awaitable[T]:
        return self._drive(self._source.__anext__)

    def asend(self, value: Any) -> Awaitable[T]:
        """As `agen.asend`."""
        return self._drive(self._source.asend, value)  # type: ignore[attr-defined]  # only where the source has it

    def athrow(self, *error: Any) -> Awaitable[T]:
        """As `agen.athrow`."""
        return self._drive(self._source.athrow, *error)  # type: ignore[attr-defined]  # only where the source has it

    async def _drive(self, method: Callable[..., Awaitable[T]], *args: Any) -> T:
        try:
            value: T = await _Steps(self._context, self._begin(method, *args))
        except StopAsyncIteration:
            self._end(None)
            raise
        except BaseException as error:
            if not _is_refused(error, getattr(self._source, "ag_running", False)):
                self._end(error)
            raise
        self._life.chunk()
        return value

    def _begin(self, method: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Start one step. The first one would register the *source* with the event loop's hooks, which close it from
        a task of their own, outside its context: they are hidden from it, this stream takes its place, and what is
        dropped is closed in its context.
        """
        if self._begun:
            return self._context.run(method, *args).__await__()
        self._begun = True
        loop = self._loop = asyncio._get_running_loop()
        context, life = self._context, self._life
        hooks = sys.get_asyncgen_hooks()
        if hooks.firstiter is not None:
            hooks.firstiter(self)  # type: ignore[arg-type]  # asyncio asks no more of it than aclose()
        sys.set_asyncgen_hooks(None, lambda source: _drop(source.aclose, context, life, loop))
        try:
            step = self._context.run(method, *args)
        finally:
            sys.set_asyncgen_hooks(*hooks)
        return step.__await__()

    def __getattr__(self, name: str) -> Any:
        """What else the source offers (a client's stream has its response, say)."""
        return getattr(self.__dict__["_source"], name)

    async def aclose(self) -> None:
        """Leave the stream early: the source is closed in its own context, the outcome is cancelled."""
        close = _async_close_of(self._source)
        try:
            if close is not None:
                await _Steps(self._context, self._begin(close))
        except BaseException as error:
            if not _is_refused(error, getattr(self._source, "ag_running", False)):
                self._end(error)
            raise
        self._end(GeneratorExit())

    def _end(self, error: BaseException | None) -> None:
        self._context.run(self._life.end, error)

    async def __aenter__(self) -> AsyncStream[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._life.over or sys.is_finalizing():
            return
        close = _async_close_of(self._source)
        if close is None or not self._begun:
            self._end(GeneratorExit())
        else:
            _drop(close, self._context, self._life, self._loop)


def _async_close_of(source: object) -> Callable[[], Awaitable[None]] | None:
    """How a source is closed: generators have `aclose`, clients' streams an async `close`."""
    close: Callable[[], Awaitable[None]] | None = getattr(source, "aclose", None)
    if close is None:
        close = getattr(source, "close", None)
        return close if close is not None and is_coroutine_function(close) else None
    return close


class EitherStream(AsyncStream[T], SyncStream[T]):  # type: ignore[misc]  # both have a __del__, this one chooses
    """A stream that can be read either way, as some clients have them."""

    def __del__(self) -> None:
        if self._begun:
            AsyncStream.__del__(self)
        else:
            SyncStream.__del__(self)


def _drop(
    close: Callable[[], Awaitable[None]], context: Context, life: _Life, loop: asyncio.AbstractEventLoop | None
) -> None:
    """Close what nobody reads any more: the stream or, where the collector takes both at once, its source said so."""
    if life.dropped or sys.is_finalizing():
        return
    life.dropped = True
    closing = _Closing(close, context, life)
    if loop is None or loop.is_closed():
        closing.at_once()
    else:  # the collector may run in any thread
        with suppress(RuntimeError):  # it was closed meanwhile
            loop.call_soon_threadsafe(closing.begin, loop)


#: How often a cleanup that runs without a loop may let others run (`sleep(0)`) before that is taken for a wait.
_YIELDS = 100


class _Closing:
    """The cleanup of a stream that was dropped: by the loop that it ran on or, where that takes it no more, at once."""

    def __init__(self, close: Callable[[], Awaitable[None]], context: Context, life: _Life) -> None:
        self._close = close
        self._context = context
        self._life = life
        self._begun = False

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close in a task of the loop."""
        loop.create_task(self._in_task()).add_done_callback(lambda _: self._after())

    async def _in_task(self) -> None:
        self._begun = True
        try:
            await _Steps(self._context, self._context.run(self._close).__await__())
        finally:
            self._context.run(self._life.end, GeneratorExit())

    def _after(self) -> None:
        if not self._begun:  # the task was cancelled before it began, or the loop was closed
            self.at_once()

    def at_once(self) -> None:
        """Close until the end or the first real wait; no loop is left to wait with."""
        self._begun = True
        step = _Steps(self._context, self._context.run(self._close).__await__())
        try:
            for _ in range(_YIELDS):
                if step.send(None) is not None:
                    break
            step.throw(GeneratorExit)
        except (StopIteration, GeneratorExit, RuntimeError):
            pass
        finally:
            self._context.run(self._life.end, GeneratorExit())

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._after()


def stepped(source: Any, context: Context, first: Callable[[], None] | None = None, ended: Ended | None = None) -> Any:
    """The stream of a generator, or of anything else that can be iterated, sync or async."""
    if hasattr(source, "__anext__"):
        kind = EitherStream if hasattr(source, "__next__") else AsyncStream
        return kind(source, context, first, ended)
    if hasattr(source, "__aiter__") and not hasattr(source, "__iter__"):
        return AsyncStream(context.run(source.__aiter__), context, first, ended)
    return SyncStream(source if hasattr(source, "__next__") else context.run(iter, source), context, first, ended)
