"""`opentelemetry-instrument python app.py`: the app is observed without a change to its code.

OpenTelemetry's own starter loads what the installed packages offer, and this with it: the bus is connected, and every
framework that the program imports is observed. Spans go to the providers which that starter has set up.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # it marks none of its names as exported

from .adapters import Instrumented, instrument
from .bus import Bus, connect
from .starting import frameworks


class AgentBusInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # see there
    """The one observer of an app, as an OpenTelemetry instrumentation: on by `instrument()`, off by `uninstrument()`.

    Takes the providers, and others of `connect`'s arguments. AGENTBUS_INSTRUMENT says which frameworks; all that the
    app uses, where it is unset.
    """

    _bus: Bus | None = None
    _instrumented: Instrumented | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing: the frameworks are found as the program imports them."""
        return ()

    def _instrument(self, **arguments: Any) -> None:
        taken = {name: value for name, value in arguments.items() if name in _TAKEN}
        self._instrumented = instrument(*frameworks())  # apart from the bus, which may be there already
        self._bus = connect(**taken)
        self._bus.gives_way = True

    def _uninstrument(self, **_: Any) -> None:
        if self._instrumented is not None:
            self._instrumented.off()
        if self._bus is not None:
            self._bus.close()
        self._instrumented = self._bus = None


#: What a starter may hand over of `connect`'s arguments; it hands over others, too.
_TAKEN = frozenset(("tracer_provider", "meter_provider", "budgets", "redact", "on_error", "settings"))

__all__ = ["AgentBusInstrumentor"]
