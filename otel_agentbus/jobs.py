"""One job of a queue: what is sent with it, whose child it is in the worker, and that nothing of it stays behind.

For any queue: send `headers()` with the job, and run the job inside `job(headers)`. The queues that there is an adapter
for do so by their own hooks; those that tell of a job's begin and end apart use `begin` and `end`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from .attachment import process
from .blocks import Block, installed
from .carriers import ENTRY, Carried, inject, resume
from .events import AgentEnd, Event
from .invocation import Boundary, Frame, Invocation, _current, enter, owner, top
from .observe import AgentBlock
from .runtime import Tracing, TracingBoundary
from .settings import Settings

_log = logging.getLogger("otel_agentbus.jobs")

_NAMES = ("traceparent", "tracestate", "baggage", ENTRY)
#: The most that a carrier tells.
_MOST_ATTEMPTS = 999_999


def headers(carrier: MutableMapping[str, str] | None = None) -> MutableMapping[str, str]:
    """What a job that is about to be sent carries with it: the run that is current here; gives the carrier back.

    Strings by name (`traceparent`, `tracestate`, `agentbus`), as `inject` writes them. Never raises.
    """
    return inject(carrier)


def add_headers(carrier: MutableMapping[str, Any]) -> None:
    """As `headers`, for messages that may have headers already: what is there stays. For the hooks of queues.

    A message that has gone out before (a retry) keeps what it had. What a job sends outside of its runs (the next job
    of a chain, say) is carried on from where that job was sent. A message with somebody's trace context of another
    trace is left to that. Never raises.
    """
    try:
        if ENTRY not in carrier:
            told = _told_here()
            if _same_trace(carrier, told):
                for name, text in told.items():
                    carrier.setdefault(name, text)
    except Exception:  # noqa: BLE001 - a message that takes nothing must still be sent
        _log.warning("Nothing could be written into a message", exc_info=True)


def _told_here() -> dict[str, Any]:
    told = dict(inject({}))
    if ENTRY in told:
        return told
    for frame in _chain(top()):
        if isinstance(frame, _Edge):
            return {**frame.carried, **told} if _same_trace(frame.carried, told) else frame.carried
    return told


def _same_trace(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two carriers may be one: the trace ids of both, where both have one, are the same."""
    first, second = one.get("traceparent"), other.get("traceparent")
    return not first or not second or str(first)[3:35] == str(second)[3:35]


@contextmanager
def job(
    carrier: Mapping[str, Any] | Carried | None,
    *,
    attempt: int = 1,
    batch: bool = False,
    trusted: bool = True,
    flush: bool | None = None,
) -> Iterator[Invocation | None]:
    """One job in a worker, with what came with it; gives the run that has sent it, as far as that goes on here.

    A first attempt goes on where the job was sent from: its agents are sub-agents of that run. A retry and a `batch`
    (one job for many) are roots of their own that link to it, as are jobs from where it is not `trusted`; the runs of
    a retry have its `attempt`, which counts from 1. Nothing of the job before is a parent in this one: what a job
    pushed, abandoned or left open is no longer current after it. With `flush` (None: as AGENTBUS_FLUSH_ON_ROOT_END
    says) all that was emitted is handed over and exported at the job's end, within AGENTBUS_EXIT_TIMEOUT seconds.
    What is wrong with a carrier gives fresh roots. Never raises, and never changes how the job ends.
    """
    begun = begin(carrier, attempt=attempt, batch=batch, trusted=trusted)
    try:
        yield begun.invocation
    finally:
        end(begun, flush=flush)


class Begun:
    """A job that goes on; to be handed to `end`."""

    __slots__ = ("context", "edge", "invocation", "over", "resumed")

    def __init__(self) -> None:
        #: The run that has sent the job, as far as it goes on here.
        self.invocation: Invocation | None = None
        self.over = False
        self.edge = _Edge()
        self.context: TracingBoundary | None = None
        self.resumed: AbstractContextManager[Invocation | None] | None = None


class _Edge(Boundary):
    """The frame at which a job begins: what stands above it was there before."""

    __slots__ = ("carried",)

    def __init__(self) -> None:
        super().__init__([])
        #: What the job came with, for what it sends outside of its own runs.
        self.carried: dict[str, str] = {}


def attempt_after(retries: object) -> int:
    """The number of an attempt, by what a queue's message says of its retries; that may be anything."""
    return min(max(retries, 0) + 1, _MOST_ATTEMPTS) if isinstance(retries, int) else 1


def begin(
    carrier: Mapping[str, Any] | Carried | None, *, attempt: int = 1, batch: bool = False, trusted: bool = True
) -> Begun:
    """Begin a job, where a `with` does not fit; `end` must follow. Arguments as of `job`; never raises."""
    begun = Begun()
    try:
        _begin(begun, carrier, max(attempt, 1), batch=batch, trusted=trusted)
    except Exception:  # noqa: BLE001 - whatever is wrong in telling must not reach the job
        _log.warning("A job could not be joined to what has sent it", exc_info=True)
    return begun


def _begin(begun: Begun, carrier: Any, attempt: int, *, batch: bool, trusted: bool) -> None:
    enter(begun.edge, top())
    runtime = installed()
    tracing = None if runtime is None else runtime.tracing
    if tracing is not None:
        begun.context = tracing.boundary()
    if trusted and isinstance(carrier, Mapping):
        begun.edge.carried = {name: text for name in _NAMES if isinstance(text := carrier.get(name), str)}
    begun.resumed = resume(carrier, "link" if batch or attempt > 1 else "parent", trusted)
    begun.invocation = begun.resumed.__enter__()
    frame = top()
    if isinstance(frame, Boundary):  # new roots begin here: those of this attempt
        frame.invocation = frame.invocation.attempted(attempt)


def end(begun: Begun | None, *, flush: bool | None = None) -> None:
    """End exactly that job, in whatever order jobs end, and wherever this is called; a second end has no effect."""
    if begun is None or begun.over:
        return
    begun.over = True
    try:
        _leave(begun)
    except Exception:  # noqa: BLE001 - whatever is wrong in telling must not reach the worker
        _log.warning("The end of a job could not be told", exc_info=True)
    flush_now(flush)


def _leave(begun: Begun) -> None:
    edge = begun.edge
    inside = list(_chain(_current.get()))  # with what has ended
    here = edge in inside or _forgotten(edge, inside)
    if begun.resumed is not None:
        begun.resumed.__exit__(None, None, None)
    edge.ended = True
    alone = here and not any(_is_living_edge(frame) for frame in _until(edge, inside))  # else another job goes on here
    if alone:
        _current.set(_outside(edge))
    if begun.context is not None:
        begun.context.leave(here=here)
    elif alone and (tracing := _tracing_in(_until(edge, inside))) is not None:
        tracing.leave_open()


def _tracing_in(job: Iterable[Frame]) -> Tracing | None:
    """How blocks of a job speak OpenTelemetry whose bus was connected by the job itself, and perhaps closed again."""
    runtimes = (frame.runtime for frame in job if isinstance(frame, Block) and frame.runtime is not None)
    runtime = next(runtimes, None) or installed()
    return None if runtime is None else runtime.tracing


def _forgotten(edge: _Edge, inside: list[Frame]) -> bool:
    """Whether this is the place of the job, where it has made everything forgotten by `Invocation.flush()`."""
    bottom = inside[-1] if inside else None
    flushed = isinstance(bottom, Boundary) and bottom not in _chain(edge)
    return flushed and edge.owner == owner()


def _is_living_edge(frame: Frame) -> bool:
    return isinstance(frame, _Edge) and not frame.ended


def _until(edge: _Edge, inside: list[Frame]) -> Iterator[Frame]:
    return itertools.takewhile(lambda frame: frame is not edge, inside)


def _outside(edge: Frame) -> Frame | None:
    """What was there before a job, and before those that have ended above it."""
    outside = edge.parent
    for frame in _chain(edge.parent):
        if isinstance(frame, _Edge) and frame.ended:
            outside = frame.parent
    return outside


def _chain(frame: Frame | None) -> Iterator[Frame]:
    while frame is not None:
        yield frame
        frame = frame.parent


# -- flushing ----------------------------------------------------------------------------------------------------------


class Flushing(Protocol):
    """A bus, as far as it is flushed."""

    settings: Settings

    def flush(self, timeout: float = 10.0) -> bool:
        """Hand over and export what was emitted; whether that was done in time."""


def flush_now(wanted: bool | None = None) -> None:
    """Flush the bus of this process, within its exit timeout; None: where AGENTBUS_FLUSH_ON_ROOT_END asks for it."""
    runtime: Any = installed()
    if wanted is False or runtime is None:
        return
    try:
        settings = getattr(runtime, "settings", None)
        if settings is not None and (wanted or settings.flush_on_root_end):
            runtime.flush(settings.exit_timeout)
    except Exception:  # noqa: BLE001 - whatever is wrong in telling must not reach the program
        _log.warning("What was emitted could not be flushed", exc_info=True)


def close_now() -> None:
    """Close the bus of this process, as its exit would: for workers that end without one."""
    bus = process.bus
    if bus is not None:
        bus.uses = min(bus.uses, 1)
        bus.close()


def flushing(emit: Callable[[Event], None], bus: Flushing) -> Callable[[Event], None]:
    """`emit`, with a flush after each end of a run under which no other run of this process goes on.

    In the thread that emits: it waits, at most the exit timeout. The bus takes this for its `emit` if
    AGENTBUS_FLUSH_ON_ROOT_END asks for it; who does not ask pays nothing.
    """

    def emit_and_flush(event: Event) -> None:
        emit(event)
        if isinstance(event, AgentEnd) and not _in_a_run():
            try:
                bus.flush(bus.settings.exit_timeout)
            except Exception:  # noqa: BLE001 - whatever is wrong in telling must not reach the program
                _log.warning("What was emitted could not be flushed", exc_info=True)

    return emit_and_flush


def _in_a_run() -> bool:
    return any(isinstance(frame, AgentBlock) and not frame.ended for frame in _chain(top()))


__all__ = [
    "Begun",
    "Flushing",
    "add_headers",
    "attempt_after",
    "begin",
    "close_now",
    "end",
    "flush_now",
    "flushing",
    "headers",
    "job",
]
