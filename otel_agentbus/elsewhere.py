"""Binding the current run to a callable that runs elsewhere: in a thread, a pool, a callback, another process."""

from __future__ import annotations

import contextvars
import functools
import inspect
import types
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from .carriers import inject, resume
from .invocation import Boundary, enclosing, enter, lasting
from .streams import in_context, is_coroutine_function, stepped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

P = ParamSpec("P")
R = TypeVar("R")


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """Bind the run that is current now, and all else in this context, to a callable that runs elsewhere, later.

    For a thread, a pool or a callback that copies no context. A coroutine function stays one, and what a generator
    function yields is stepped in the context, too. Each call has a copy of the context of its own, so that calls may
    overlap. For a process of `multiprocessing` or a `ProcessPoolExecutor` a plain function may be pickled: it takes
    along what `inject` writes, and is called inside `resume`.
    """
    context = _bound_context()
    if is_coroutine_function(function):

        @functools.wraps(function)
        async def carried_coroutine(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await in_context(context.copy(), function, *args, **kwargs)

        return carried_coroutine  # type: ignore[return-value]  # a coroutine function in, a coroutine function out

    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        def carried_stream(*args: P.args, **kwargs: P.kwargs) -> Any:
            return stepped(function(*args, **kwargs), context.copy())

        return carried_stream

    return _Carried(function, context)


def _bound_context() -> contextvars.Context:
    """A copy of this context, in which what starts belongs to the run of now, even when that has ended."""
    context = contextvars.copy_context()
    frame = enclosing()
    if frame is not None and not isinstance(frame, Boundary):
        context.run(enter, lasting(frame), frame)
    return context


class _Bound(Generic[P, R]):
    """A function that says it is the one that it calls, also where it stands in a class."""

    # Slots, so that nothing of the function's own attributes takes their place.
    __slots__ = ("__dict__", "__weakref__", "_function")

    def __init__(self, function: Callable[P, R]) -> None:
        self._function = function
        functools.update_wrapper(self, function)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        raise NotImplementedError


class _Carried(_Bound[P, R]):
    """A function that is called in the context in which it was bound."""

    __slots__ = ("_context",)

    def __init__(self, function: Callable[P, R], context: contextvars.Context) -> None:
        super().__init__(function)
        self._context = context

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._context.copy().run(self._function, *args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Resumed, (self._function, dict(self._context.copy().run(inject)))


class _Resumed(_Bound[P, R]):
    """The same in another process: called inside the run that its carrier brings."""

    __slots__ = ("_carrier",)

    def __init__(self, function: Callable[P, R], carrier: Mapping[str, str]) -> None:
        super().__init__(function)
        self._carrier = carrier

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        with resume(self._carrier):
            return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Resumed, (self._function, self._carrier)


class InvocationExecutor(ThreadPoolExecutor):
    """A thread pool whose `submit` and `map` carry the current run into the worker threads."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """As `ThreadPoolExecutor.submit`, with the run that is current at this moment."""
        return super().submit(carry(fn), *args, **kwargs)
