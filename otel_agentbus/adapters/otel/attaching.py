"""`instrument()`: the processor on the application's global provider, whenever that is set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from ..losses import Shielded
from ..wrapping import wrap
from .processor import SpanEvents
from .reading import reading

#: The SDK's providers have no way to take a processor off again: so each has one for good, which is on or off.
_processors: WeakKeyDictionary[TracerProvider, SpanEvents] = WeakKeyDictionary()
_UNSEEN = Shielded("the application's tracer provider could not be read")


class SpanReading:
    """What reads the global provider's spans, until `off()`."""

    #: Others' spans are theirs, and go on as ever.
    chained = False

    def __init__(self) -> None:
        self._on = True
        self._undo = _when_set(self.look_again)
        reading.watch = self.look_again
        self.look_again()

    def look_again(self) -> None:
        """Read the global provider's spans from now on, if there is one by now."""
        if not self._on:
            return
        with _UNSEEN:
            provider = _sdk_provider()
            if provider is None:
                return
            processor = _processors.get(provider)
            if processor is None:
                processor = _processors[provider] = SpanEvents()
                provider.add_span_processor(processor)
            processor.on = True

    @property
    def counts(self) -> dict[str, int]:
        """How many spans were read, by what they are of, and how many were passed over as `silent`."""
        return dict(reading.counts)

    def off(self) -> None:
        """Read nothing new; runs that have begun are read to their end."""
        self._on = False
        self._undo()
        reading.watch = None
        for processor in tuple(_processors.values()):
            processor.on = False


def instrument() -> SpanReading:
    """Read the spans of every instrumentation that uses the global tracer provider as events."""
    return SpanReading()


def _sdk_provider() -> TracerProvider | None:
    """The global provider, if it is the SDK's, or one that stands for an SDK's (Logfire's)."""
    provider: Any = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = getattr(provider, "provider", None)
    return provider if isinstance(provider, TracerProvider) else None


def _when_set(look: Callable[[], None]) -> Callable[[], None]:
    """Have this called after the global provider is set, which OpenTelemetry tells nobody; gives back how to undo."""

    def around(found: Callable[..., Any]) -> Callable[..., Any]:
        def setting(*args: Any, **named: Any) -> Any:
            try:
                return found(*args, **named)
            finally:
                look()

        return setting

    name = "_set_tracer_provider"  # every public way goes through it
    return wrap(trace, name if name in vars(trace) else "set_tracer_provider", around)
