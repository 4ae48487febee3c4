"""How a block lives: begin once, be current in between, end once, however it is left.

Nothing here raises into the program (but `BudgetExceeded`, where a budget is to stop it), and without a bus blocks
keep the lineage and emit nowhere.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import logging
import time
from collections.abc import Callable
from concurrent.futures import CancelledError as FutureCancelled
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from .events import Event
from .invocation import Frame, Invocation, enclosing, enter, leave, top
from .runtime import Runtime, Tracing
from .streams import is_coroutine_function, stepped

if TYPE_CHECKING:
    from .events import Outcome

_log = logging.getLogger("otel_agentbus.blocks")

F = TypeVar("F", bound=Callable[..., Any])


class Clock:
    """The two clocks of blocks: the wall's for when, the monotonic one for how long. Tests may set their own."""

    __slots__ = ("perf_counter_ns", "time_ns")

    def __init__(self) -> None:
        self.time_ns: Callable[[], int] = time.time_ns
        self.perf_counter_ns: Callable[[], int] = time.perf_counter_ns


clock = Clock()


class _Installed:
    """The bus that blocks emit to, one in a process."""

    __slots__ = ("foreign", "runtime")

    def __init__(self) -> None:
        self.runtime: Runtime | None = None
        #: Finds what others tell of that is current here, inside of what is current of ours; None where nobody reads.
        self.foreign: Callable[[Frame | None], Frame | None] | None = None


_installed = _Installed()


def install(runtime: Runtime | None) -> Runtime | None:
    """Let blocks emit to this bus from now on; gives back the one before."""
    before, _installed.runtime = _installed.runtime, runtime
    return before


def installed() -> Runtime | None:
    """The bus that blocks emit to now."""
    return _installed.runtime


def place_by(foreign: Callable[[Frame | None], Frame | None] | None) -> None:
    """Ask this, too, where a block belongs: it gets the frame here, and gives back that or one inside of it."""
    _installed.foreign = foreign


def surrounding() -> Frame | None:
    """What something that happens now belongs to: the run or call here or, else, that of the current span."""
    frame, runtime = enclosing(), _installed.runtime
    if _installed.foreign is not None:
        frame = _installed.foreign(frame)
    return runtime.ambient() if frame is None and runtime is not None else frame


def describe(error: BaseException) -> tuple[Outcome, str | None, str | None]:
    """How a block ends that this exception leaves: cancelled where it is no `Exception`, with nothing else said."""
    if not isinstance(error, Exception) or isinstance(error, FutureCancelled):
        return "cancelled", None, None
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ of the program's must not become our exception
        message = ""
    return "error", name, message


def _blame(fields: dict[str, Any], error: BaseException) -> None:
    """Put into the fields of an end event what the exception says, as far as the program has not recorded it."""
    outcome, kind, message = describe(error)
    if fields.get("outcome") is None:
        fields["outcome"] = outcome
    if fields["outcome"] == "error":
        if fields.get("error_type") is None:
            fields["error_type"] = kind
        if fields.get("error_message") is None:
            fields["error_message"] = message


def _failed(what: str) -> None:
    _log.warning("The %s of a block could not be told", what, exc_info=True)


_ENVELOPE = frozenset(Event.__dataclass_fields__)


def recordable_in(cls: type[Event]) -> frozenset[str]:
    """The names that `record()` takes for an end event of this class."""
    return (frozenset(cls.__dataclass_fields__) - _ENVELOPE - {"event", "duration"}) | {"channel"}


_NEW, _RUNNING, _OVER = 0, 1, 2
#: The lineage of a block that has not begun.
_NOWHERE = Invocation("")


class Block(Frame):
    """What agent, llm and tool blocks have in common: begin once, end once, be current in between."""

    #: The kind of its span, as the ids' contract names it.
    kind: ClassVar[Literal["agent", "llm", "tool"]]
    #: The field names of the end event that `record()` takes; any other name becomes an attribute of the event.
    recordable: ClassVar[frozenset[str]] = frozenset()

    __slots__ = (
        *("base", "id", "model", "provider", "runtime", "span", "started_ns"),
        *("_attributes", "_began", "_fields", "_source", "_state"),
    )

    #: Those of a model call; a run's are the defaults of its calls.
    provider: str | None
    model: str | None
    runtime: Runtime | None
    #: The OpenTelemetry span that is current inside, or None without a bus.
    span: Any
    #: The OpenTelemetry context in which it began: the baggage that `on_start` of span processors will see.
    base: Any
    _source: str | None
    _fields: dict[str, Any] | None

    def __init__(self, id: str, provider: str | None, model: str | None, attributes: dict[str, Any]) -> None:
        self.id = id
        self.provider = provider
        self.model = model
        self.invocation = _NOWHERE
        self.call = self.owner = self.parent = None
        self.ended = False
        self.runtime = self.span = self.base = None
        self.started_ns = 0
        self._attributes = attributes
        self._fields = self._source = None
        self._state = _NEW

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Begin by hand, where a `with` does not fit; `end()` must follow. A second start has no effect.

        A model or tool call that is refused by a budget raises `BudgetExceeded`, and has not begun: nothing is told of
        it, it may be started again, and is asked again then.
        """
        if self._state != _NEW:
            return self
        self._state = _RUNNING
        runtime = self.runtime = _installed.runtime
        frame = enclosing()
        if _installed.foreign is not None:
            frame = _installed.foreign(frame)
        if frame is None and runtime is not None:
            frame = runtime.ambient()
        self._place(frame)
        # Looked up apart from their calls (as `emit` below): 3.11 would look for methods first, at thrice the price.
        perf_counter_ns, time_ns = clock.perf_counter_ns, clock.time_ns
        self._began = perf_counter_ns()
        self.started_ns = time_ns()
        if runtime is None:
            enter(self, frame)
            return self
        try:
            event = self._starting()
            event.origin = self
            self._source = runtime.source
            tracing = runtime.tracing
            if tracing is not None:
                if self.invocation.trace is None:  # the top of a tree: decided before anybody else sees this lineage
                    self._decide(tracing, event)
                self.span = tracing.open(self, event)
        except Exception:  # noqa: BLE001 - whatever goes wrong in telling must not reach the program
            _failed("start")
            enter(self, frame)
            return self
        enter(self, frame)
        emit = runtime.emit
        emit(event)
        return self

    def _decide(self, tracing: Tracing, event: Event) -> None:
        run = self.invocation
        trace, tracestate = tracing.decide(event, run.root_id)
        object.__setattr__(run, "trace", trace)
        object.__setattr__(run, "tracestate", tracestate)
        event.trace, event.tracestate = trace, tracestate

    def end(self, error: BaseException | None = None) -> None:
        """End by hand, with the exception that ended it, if one did. A second end has no effect."""
        if self._state != _RUNNING:
            return
        self._state = _OVER
        perf_counter_ns = clock.perf_counter_ns
        elapsed = perf_counter_ns() - self._began
        leave(self)
        runtime = self.runtime
        if runtime is None:
            return
        try:
            event = self._tell_end(runtime, elapsed, error)
        except Exception:  # noqa: BLE001 - whatever goes wrong in telling must not reach the program
            _failed("end")
        else:
            if runtime.source == self._source:  # else this is a fork's child: the parent will tell of the end
                emit = runtime.emit
                emit(event)

    def _tell_end(self, runtime: Runtime, elapsed: int, error: BaseException | None) -> Event:
        fields, self._fields = self._fields or {}, None
        try:
            if error is not None:
                _blame(fields, error)
            event = self._ending(elapsed / 1e9, fields)
        except Exception:  # noqa: BLE001 - what was recorded may be anything; the end itself must not be lost with it
            _failed("record")
            event = self._ending(elapsed / 1e9, {"outcome": None if error is None else describe(error)[0]})
        event.time_ns = self.started_ns + elapsed
        tracing = runtime.tracing
        if tracing is not None:
            tracing.close(self, event)
        return event

    def record(self, /, **fields: Any) -> Self:
        """Fill the end event: its fields by name, anything else as an attribute."""
        if not self.recordable.issuperset(fields):
            self._record_attributes(fields)
        elif self._fields is None:
            self._fields = fields
        else:
            self._fields.update(fields)
        return self

    def _record_attributes(self, fields: dict[str, Any]) -> None:
        """Sort out what is no field of the end event."""
        recorded = self._fields = self._fields or {}
        for name, value in fields.items():
            if name in self.recordable:
                recorded[name] = value
            else:
                more = value if name == "attributes" and isinstance(value, dict) else {name: value}
                recorded["attributes"] = {**recorded.get("attributes", {}), **more}

    def stream(self, generator: Any) -> Any:
        """As `stream(generator, self)`."""
        return stream(generator, self)

    @property
    def local_id(self) -> str:
        """The part of its span id that is its own: nothing for a run, the call's id for a call."""
        return self.id

    # -- what the kinds of blocks fill in -----------------------------------------------------------------------------

    def _place(self, frame: Frame | None) -> None:
        raise NotImplementedError

    def _starting(self) -> Event:
        raise NotImplementedError

    def _ending(self, duration: float, fields: dict[str, Any]) -> Event:
        raise NotImplementedError

    def _fresh(self) -> Self:
        raise NotImplementedError

    # -- ways to use it -----------------------------------------------------------------------------------------------

    __enter__ = start

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.end(error)

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.end(error)

    def __call__(self, function: F) -> F:
        """Decorate: every call (or every iteration, for generators) is a block of its own."""
        return _decorated(self, function)


def _decorated(block: Block, function: F) -> F:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generating(*args: Any, **kwargs: Any) -> Any:
            return stream(function(*args, **kwargs), block._fresh())

        return generating  # type: ignore[return-value]  # a wrapper keeps its function's signature

    if is_coroutine_function(function):

        @functools.wraps(function)
        async def awaiting(*args: Any, **kwargs: Any) -> Any:
            with block._fresh():
                return await function(*args, **kwargs)

        return awaiting  # type: ignore[return-value]  # a wrapper keeps its function's signature

    @functools.wraps(function)
    def calling(*args: Any, **kwargs: Any) -> Any:
        with block._fresh():
            return function(*args, **kwargs)

    return calling  # type: ignore[return-value]  # a wrapper keeps its function's signature


def stream(generator: Any, block: Block | None = None) -> Any:
    """Step a generator (sync or async) in the context of this call, one resumption at a time, without a task.

    Whatever the generator holds across its yields (blocks, spans of anybody) never shows in the consumer, and is left
    in the context where it was entered. With a `block` that has not begun, the stream is that block: it begins here,
    its first chunk is measured, and it ends exactly once: ok at the generator's end, cancelled when the consumer leaves
    early or is cancelled or forgets the stream, error when the generator raises. A block that runs already (inside its
    `with`) ends where it would, and has its first chunk measured; without a block, so has the model call that is
    current here. The generator sees this context as it is now; what it sets in context variables of its own stays
    with it.
    """
    context = contextvars.copy_context()
    first = getattr(top() if block is None else block, "first_chunk", None)
    if block is None or block._state != _NEW:
        return stepped(generator, context, first)
    context.run(block.start)
    try:
        return stepped(generator, context, first, block.end)
    except BaseException as error:
        context.run(block.end, error)
        raise
