"""What blocks know of the bus, so that neither they nor the lineage import it or speak OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .events import Event
    from .invocation import Frame


class TracingBoundary(Protocol):
    """A mark in the OpenTelemetry context, and the way back to what was there before."""

    def leave(self, *, here: bool) -> None:
        """Make current again what was; `here` says that this is the place where the mark was set."""


class Tracing(Protocol):
    """What the bus hands to the blocks, so that they can speak OpenTelemetry without importing it."""

    def decide(self, start: Event, root_id: str) -> tuple[str | None, str | None]:
        """Ask the sampler about a new tree: the outer trace with the decision, and the trace state."""

    def open(self, block: Any, start: Event) -> Any:
        """Make the block's span current in the caller; gives it back."""

    def close(self, block: Any, end: Event) -> None:
        """Make the caller's previous span current again; what user code set on the block's span goes into `end`."""

    def inject(self, carrier: MutableMapping[str, str], run: Any = None, call: str | None = None) -> None:
        """Write the W3C trace context of here (one in which the run's call has its span), and allowed baggage."""

    def link(self, traceparent: str | None) -> Any:
        """A link to the span that a traceparent names, as it travels in an event; None where it names none."""

    def continued(self, traceparent: str | None) -> str | None:
        """The `trace` of a tree that goes on here."""

    def enter_remote(
        self, traceparent: str | None, tracestate: str | None, baggage: str | None = None
    ) -> Callable[[], None] | None:
        """Make the remote span current here, and the baggage that is allowed; gives back how to leave it."""

    def hold(self, span: Any) -> Callable[[], None]:
        """Make the span of a block current here, where only its run is; gives back how to leave it."""

    def boundary(self) -> TracingBoundary:
        """Mark this place: a job begins here, and what it leaves open will be left behind."""

    def leave_open(self) -> None:
        """Make current what was before the blocks that are so here: where a job is over for which there is no mark."""


class Runtime(Protocol):
    """The bus, as far as blocks know it."""

    source: str
    #: Asked by a model or tool call that knows its place and has told nothing yet: raises `BudgetExceeded` where it
    #: must not begin. None where there is nothing to ask.
    gate: Callable[[Any], None] | None

    def ambient(self) -> Frame | None:
        """The living block whose span is current here, where somebody carried the OpenTelemetry context only."""

    @property
    def tracing(self) -> Tracing | None:
        """How blocks speak OpenTelemetry; None where telemetry is switched off."""

    def emit(self, event: Event) -> None:
        """Stamp and route an event; never raises."""


__all__ = ["Runtime", "Tracing", "TracingBoundary"]
