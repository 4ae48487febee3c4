"""pydantic-ai, observed: `instrument()` for every agent in the process, `trace_agent` for one run and any event bus.

`instrument` speaks pydantic-ai's own instrumentation (the one global hook that it has): its spans become our blocks.
`trace_agent`, `TraceMixin` and `ForwardEvents` are hooks of single runs that call the application's
`publish(type, data)`. Tested with pydantic-ai-slim 2.60.0 and 2.68.0.
"""

from __future__ import annotations

from .forward import ForwardEvents, trace_agent, trace_agent_to_bus
from .mixin import TraceMixin
from .settings import BusInstrumentation, instrument

__all__ = [
    "BusInstrumentation",
    "ForwardEvents",
    "TraceMixin",
    "instrument",
    "trace_agent",
    "trace_agent_to_bus",
]
